"""One spectrum of many runs."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from separatrix.core.errors import DivergedError
from separatrix.core.result import Result, Status
from separatrix.core.wording import counted, measured, plain


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PooledSpectrum(Result):
    r"""One spectrum of many runs.

    Args:
        exponents: (k), the mean over the runs that did not diverge, nats per unit time.
        stderr: (k), of that mean over the population of runs: √(variance between the estimates / runs).
        within: (k), mean variance of one run's estimate about its own long-time value.
        between: (k), variance of those values over the runs, what is left of the spread after `within`; not below 0.
        runs: how many runs were averaged.
        diverged: how many were left out.
    """

    exponents: Tensor
    stderr: Tensor
    within: Tensor
    between: Tensor
    runs: int
    diverged: int

    drawn_by: ClassVar[str] = "separatrix.plot.spectrum:pooled_figure"
    layout: ClassVar[dict[str, str]] = {"exponents": "k", "stderr": "k", "within": "k", "between": "k"}
    units: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("exponents", "stderr"), "nats per unit time"),
        **dict.fromkeys(("within", "between"), "(nats per unit time)²"),
    }

    def summary(self) -> str:
        """λ₁ over the runs, in words."""
        left_out = f"; {self.diverged} diverged" if self.diverged else ""
        return (
            f"λ₁ = {measured(float(self.exponents[0]), float(self.stderr[0]))} nats per {self.clock} "
            f"over {counted(self.runs, 'run')} (spread between runs {plain(float(self.between[0].sqrt()))}, "
            f"error within one {plain(float(self.within[0].sqrt()))}{left_out})"
        )


def pool(exponents: Tensor, stderr: Tensor, codes: Tensor, items: Tensor, settings: dict[str, Any]) -> PooledSpectrum:
    """The mean over some runs, with the variance within and between them.

    Args:
        exponents, stderr: (*batch, k), of each run.
        codes: (*batch), `Status` of each.
        items: (*batch), bool, the runs asked for, of which those that diverged are left out.
        settings: of the runs.

    Raises:
        DivergedError: all of them diverged.
    """
    k = exponents.shape[-1]
    kept = ((codes != Status.DIVERGED) & items).reshape(-1)
    values, errors = exponents.reshape(-1, k)[kept], stderr.reshape(-1, k)[kept]
    runs = len(values)
    if runs == 0:
        raise DivergedError(f"all {int(items.sum())} runs diverged: there is nothing to pool.")
    spread = values.var(0) if runs > 1 else torch.full((k,), math.nan, dtype=values.dtype)
    spread = spread.masked_fill((values == -math.inf).all(0), 0.0)
    within = errors.square().mean(0)
    return PooledSpectrum(
        codes=torch.tensor(int(codes.reshape(-1)[kept].max()), dtype=torch.int8),
        exponents=values.mean(0),
        stderr=(spread / runs).sqrt() if runs > 1 else errors[0],
        within=within,
        between=(spread - within.nan_to_num()).clamp(min=0),
        runs=runs,
        diverged=int(((codes == Status.DIVERGED) & items).sum()),
        settings=settings,
    )
