"""Lyapunov exponents with their error bars, and the same in words."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from separatrix.analysis.lyapunov.divergence import DivergenceRate
from separatrix.analysis.lyapunov.pooled import PooledSpectrum, pool
from separatrix.core.result import Result, Status
from separatrix.core.wording import measured, plain


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LyapunovSpectrum(Result):
    r"""Lyapunov exponents with their error bars, and what follows from them.

    Args:
        exponents: (*batch, k), nats per unit time, descending. −∞: directions that a Jacobian, singular to rounding, erases (relu
            units that are off, tanh units saturated beyond the last digit). NaN: diverged.
        stderr: (*batch, k), standard errors by batch means; 0 for −∞, NaN when the run is too short to tell.
        converged: (*batch), no drift between the halves of the run, and every error bar below `error` if one was asked.
        failed_at: (*batch), the step at which a sample left the finite numbers, −1 if it did not.
        rank: (*batch), how many of the k exponents are finite.
        kaplan_yorke_dimension: (*batch), j + Σ_{i≤j} λ_i / |λ_{j+1}| with j the last index whose partial sum is not negative (by
            more than 2 of its standard errors: a cycle's λ₁ = 0 counts); NaN when k exponents do not reach it. For a driven
            network it is conditional on the input.
        entropy: (*batch), Σ of the positive exponents, nats per unit time: Ruelle's upper bound of the Kolmogorov–Sinai entropy,
            equal to it for SRB measures; for a driven network, conditional on the input. With k < dim, of those k.
        history: (block, *batch, k), the running estimates.
        history_time: (block, *batch), the elapsed times they belong to.
        check: the rate at which two near trajectories part, when it was asked for; see `disagreement`.
        steps: steps averaged over, after `settle` steps of settling.
    """

    exponents: Tensor
    stderr: Tensor
    converged: Tensor
    failed_at: Tensor
    rank: Tensor
    kaplan_yorke_dimension: Tensor
    kaplan_yorke_stderr: Tensor
    entropy: Tensor
    entropy_stderr: Tensor
    history: Tensor
    history_time: Tensor
    check: DivergenceRate | None = None
    dim: int
    steps: int
    settle: int
    notes: tuple[str, ...] = ()

    drawn_by: ClassVar[str] = "separatrix.plot.spectrum:spectrum_figure"
    layout: ClassVar[dict[str, str]] = {
        "exponents": "batch k",
        "stderr": "batch k",
        "converged": "batch",
        "failed_at": "batch",
        "rank": "batch",
        "kaplan_yorke_dimension": "batch",
        "kaplan_yorke_stderr": "batch",
        "entropy": "batch",
        "entropy_stderr": "batch",
        "history": "block batch k",
        "history_time": "block batch",
    }
    units: ClassVar[dict[str, str]] = {
        "exponents": "nats per unit time",
        "stderr": "nats per unit time",
        "entropy": "nats per unit time",
        "entropy_stderr": "nats per unit time",
        "history": "nats per unit time",
        "history_time": "units of time",
        "failed_at": "step",
    }

    @property
    def disagreement(self) -> Tensor:
        """Items whose λ₁ and two-trajectory rate lie beyond both error bars (`DivergenceRate.disagrees`); (*batch), bool.

        None does where no check was asked for. Items that disagree are `not_converged`.
        """
        if self.check is None:
            return torch.zeros_like(self.codes, dtype=torch.bool)
        return self.check.disagrees(self.exponents[..., 0], self.stderr[..., 0])

    def summary(self) -> str:
        """The leading exponents, dimension, entropy and status in words; a check that disagrees comes first."""
        return "\n".join(filter(None, (self._warning(), self._told())))

    def _warning(self) -> str:
        """That, and by how much, the check disagrees; empty where it does not."""
        apart = self.disagreement.reshape(-1)
        if self.check is None or not apart.any():
            return ""
        gaps = (self.exponents[..., 0] - self.check.rate).abs().reshape(-1).masked_fill(~apart, -1.0).nan_to_num(math.inf)
        worst = int(gaps.argmax())
        ours = measured(float(self.exponents[..., 0].reshape(-1)[worst]), float(self.stderr[..., 0].reshape(-1)[worst]))
        rate = float(self.check.rate.reshape(-1)[worst])
        theirs = "diverge" if math.isnan(rate) else f"part at {measured(rate, float(self.check.stderr.reshape(-1)[worst]))}"
        of = f" in {int(apart.sum())} of {len(apart)} runs, the most in run {worst}" if self.batch else ""
        return (
            f"The check disagrees{of}: λ₁ = {ours} nats per {self.clock} from tangents, but two near trajectories {theirs}.\n"
            "Do not rely on either: a step that draws at random, keeps state or jumps is not what its derivative is of."
        )

    def _remedy(self, status: Status) -> str:
        if status is Status.DIVERGED:
            return f"The first left the finite numbers at step {int(self.failed_at[self.codes == status].min())}."
        largest = float(self.stderr.nan_to_num(math.inf).max())
        return self._warning() or f"The largest error bar after {self.steps} steps is {largest:.2g}: take more steps."

    def _told(self) -> str:
        if self.batch:
            leading = self.exponents[..., 0][self.codes != Status.DIVERGED]
            spread = f"λ₁ from {plain(float(leading.min()))} to {plain(float(leading.max()))}; " if leading.numel() else ""
            return (
                f"Lyapunov spectra of {self.codes.numel()} runs, {self.exponents.shape[-1]} exponents each: {spread}{self.ended()}"
            )
        if self.codes == Status.DIVERGED:
            return f"Lyapunov spectrum: diverged at step {int(self.failed_at)}"
        shown = ", ".join(map(measured, self.exponents[:4].tolist(), self.stderr.tolist()))
        more = f", … ({len(self.exponents)} in all)" if len(self.exponents) > 4 else ""
        lines = [f"Lyapunov exponents: {shown}{more} nats per {self.clock}"]
        dimension, entropy = self.kaplan_yorke_dimension, self.entropy
        if not math.isnan(dimension):
            lines.append(
                f"Kaplan–Yorke dimension {measured(float(dimension), float(self.kaplan_yorke_stderr))}, "
                f"entropy {measured(float(entropy), float(self.entropy_stderr))} nats per {self.clock}"
            )
        if self.check is not None:
            lines.append(self.check.summary())
        lines.append(f"{self.ended()} after {self.settle} + {self.steps} steps")
        return "\n".join([*lines, *self.notes])

    def pooled(self, items: Tensor | None = None) -> PooledSpectrum:
        """One spectrum for the batch, or for some of its items: their mean, with the variance within and between them.

        Args:
            items: which, shape (*batch), bool. Default: all. Diverged ones are left out, and counted.

        Raises:
            DivergedError: all of them diverged.
        """
        items = torch.ones_like(self.codes, dtype=torch.bool) if items is None else items
        return pool(self.exponents, self.stderr, self.codes, items, self.settings)
