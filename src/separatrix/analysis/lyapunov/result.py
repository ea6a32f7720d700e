"""The result of a Lyapunov spectrum: exponents with error bars, derived quantities, and a summary in words."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from separatrix.analysis.lyapunov.divergence import DivergenceRate
from separatrix.analysis.lyapunov.pooled import PooledSpectrum, pool
from separatrix.core.result import Result, Status
from separatrix.core.wording import counted, measured, plain


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LyapunovSpectrum(Result):
    r"""Lyapunov exponents with error bars, and derived quantities:  λ_i = lim_{T→∞} (1/T) Σ log |R_ii|.

    Args:
        exponents: (*batch, k), nats per unit time, descending. −∞ for directions erased by a Jacobian that is singular to rounding
            (inactive ReLU units, tanh units saturated to the last digit). NaN for diverged runs.
        stderr: (*batch, k), standard errors by batch means; 0 for −∞, NaN if the run is too short for an error bar.
        converged: (*batch), whether the halves of the run agree and, if `error` was given, every error bar is below it.
        failed_at: (*batch), the step at which a run became non-finite; −1 if it stayed finite.
        rank: (*batch), the number of finite exponents.
        kaplan_yorke_dimension: (*batch), j + Σ_{i≤j} λ_i / |λ_{j+1}|, with j the last index whose partial sum is not negative by
            more than 2 of its standard errors (so the λ₁ = 0 of a cycle counts); NaN if k exponents do not reach it. For a driven
            network it is conditional on the input.
        kaplan_yorke_stderr: (*batch), its standard error.
        entropy: (*batch), the sum of the positive exponents among the k, nats per unit time: Ruelle's upper bound on the
            Kolmogorov–Sinai entropy, with equality for SRB measures. For a driven network it is conditional on the input.
        entropy_stderr: (*batch), its standard error.
        history: (block, *batch, k), the running estimates.
        history_time: (block, *batch), their elapsed times.
        check: the rate at which two nearby trajectories separate, if `check=True`; see `disagreement`.
        dim: number of components of the state.
        steps, settle: steps averaged over, and steps before them.
        notes: remarks that are part of the summary.
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
        """Items whose λ₁ and two-trajectory rate differ by more than their error bars; (*batch), bool.

        They are `not_converged`. Without a check, all are False. See `DivergenceRate.disagrees`.
        """
        if self.check is None:
            return torch.zeros_like(self.codes, dtype=torch.bool)
        return self.check.disagrees(self.exponents[..., 0], self.stderr[..., 0])

    def summary(self) -> str:
        """The leading exponents, dimension, entropy and status in words; a disagreement with the check comes first."""
        return "\n".join(filter(None, (self._warning(), self._answer())))

    def _warning(self) -> str:
        """Where and by how much the check disagrees; empty if it agrees."""
        apart = self.disagreement.reshape(-1)
        if self.check is None or not apart.any():
            return ""
        gaps = (self.exponents[..., 0] - self.check.rate).abs().reshape(-1).masked_fill(~apart, -1.0).nan_to_num(math.inf)
        worst = int(gaps.argmax())
        ours = measured(float(self.exponents[..., 0].reshape(-1)[worst]), float(self.stderr[..., 0].reshape(-1)[worst]))
        rate = float(self.check.rate.reshape(-1)[worst])
        error = float(self.check.stderr.reshape(-1)[worst])
        theirs = "diverge" if math.isnan(rate) else f"separate at {measured(rate, error)}"
        of = f" in {int(apart.sum())} of {len(apart)} runs, most in run {worst}" if self.batch else ""
        return (
            f"The check disagrees{of}: λ₁ = {ours} nats per {self.clock} from tangents, but two nearby trajectories {theirs}.\n"
            "Rely on neither: a step that draws random numbers, keeps state or jumps does not have the derivative that was used."
        )

    def _remedy(self, status: Status) -> str:
        if status is Status.DIVERGED:
            return f"The first became non-finite at step {int(self.failed_at[self.codes == status].min())}."
        largest = float(self.stderr.nan_to_num(math.inf).max())
        return self._warning() or f"The largest error bar after {self.steps} steps is {largest:.2g}: take more steps."

    def _answer(self) -> str:
        if self.batch:
            leading = self.exponents[..., 0][self.codes != Status.DIVERGED]
            spread = f"λ₁ from {plain(float(leading.min()))} to {plain(float(leading.max()))}; " if leading.numel() else ""
            runs, each = counted(self.codes.numel(), "run"), counted(self.exponents.shape[-1], "exponent")
            return f"Lyapunov spectra of {runs}, {each} each: {spread}{self.ended()}"
        if self.codes == Status.DIVERGED:
            return f"Lyapunov spectrum: diverged at step {int(self.failed_at)}"
        shown = ", ".join(map(measured, self.exponents[:4].tolist(), self.stderr.tolist()))
        more = f", … ({len(self.exponents)} in total)" if len(self.exponents) > 4 else ""
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
        """The mean spectrum of the batch or of selected items, with the variance within and between them.

        Args:
            items: the selected items, shape (*batch), bool. Default: all. Diverged items are left out and counted.

        Raises:
            DivergedError: all selected items diverged.
        """
        items = torch.ones_like(self.codes, dtype=torch.bool) if items is None else items
        return pool(self.exponents, self.stderr, self.codes, items, self.settings)
