"""What a flow says of the density at a point: its logarithm, with the standard error of the estimate."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from separatrix.core.result import Result
from separatrix.core.wording import counted, measured


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LogDensity(Result):
    """The log-density of points under a flow.

    Args:
        values: log p(x), in nats, shape (*batch), differentiable; NaN where an item failed.
        stderr: standard error of each, of its probes; 0 for an exact trace, NaN for one probe; shape (*batch).
        latents: where the points come from in the base, shape (*batch, dim).
    """

    values: Tensor
    stderr: Tensor
    latents: Tensor

    layout: ClassVar[dict[str, str]] = {"values": "batch", "stderr": "batch", "latents": "batch state"}
    units: ClassVar[dict[str, str]] = {"values": "nats", "stderr": "nats"}

    @property
    def mean(self) -> Tensor:
        """The mean log-density of the items that did not fail, in nats."""
        return self.values.nanmean()

    def summary(self) -> str:
        """The answer in words."""
        alive = self.values.detach()[self.codes == 0]
        error = float(alive.std() / len(alive) ** 0.5) if len(alive) > 1 else float("nan")
        mean = measured(float(alive.mean()), error) if len(alive) else "unknown"
        probes = self.settings["probes"]
        trace = f"{counted(probes, 'probe')} each" if probes else "the exact trace"
        points = counted(self.codes.numel(), "point")
        return f"log-density of {points}, by {trace}: {mean} nats on average; {self.ended()}."
