"""The record of a training's curvature."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from separatrix.core.result import Result, Status
from separatrix.core.wording import counted, measured, plain

AT_ITS_EDGE = 0.1  # distance of λ_max / threshold from 1 that is called "at its edge": it oscillates by about this much there
SHOWN = 3  # parameters named in the summary

VERDICTS = ("below its edge of stability", "at its edge of stability", "beyond its edge of stability", "not measured")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Curvature(Result):
    r"""Both ends of the spectrum of  P^{-1/2} H P^{-1/2},  and the threshold of the optimiser.

    H is the Hessian of the loss that the optimiser descends, coupled weight decay included, and P what its update is divided by
    (√v̂ + ε for Adam, 1 for SGD).

    Args:
        largest: (*batch, k), the largest eigenvalues, descending.
        smallest: (*batch, k), the smallest eigenvalues, ascending.
        residuals: (*batch, end, k), ‖A v − λ v‖ of each; an eigenvalue lies within it.
        threshold: (*batch), the eigenvalue beyond which the optimiser's step at frozen P is unstable; ∞ for a rate of 0.
        ratio: (*batch), largest eigenvalue over threshold.
        ratio_error: (*batch), bound of its error from the residual.
        batch_largest: (*batch, minibatch), the largest eigenvalue on each of some mini-batches.
        shares: (*batch, parameter), share of each parameter in the squared norm of the leading direction; they add up to 1.
        in_epsilon: (*batch), share of the leading direction on weights whose divisor is at least half ε; 0 without an ε.
        parameters: names of the parameters, in the order of `shares`.
        epsilon: ε of the optimiser; NaN if it has none.
        products: number of products with the Hessian of all data, of all items together.
        notes: remarks.
    """

    largest: Tensor
    smallest: Tensor
    residuals: Tensor
    threshold: Tensor
    ratio: Tensor
    ratio_error: Tensor
    batch_largest: Tensor
    shares: Tensor
    in_epsilon: Tensor
    parameters: tuple[str, ...]
    epsilon: float
    products: int
    notes: tuple[str, ...] = ()

    drawn_by: ClassVar[str] = "separatrix.plot.curvature:curvature_figure"
    layout: ClassVar[dict[str, str]] = {
        "largest": "batch k",
        "smallest": "batch k",
        "residuals": "batch end k",
        "threshold": "batch",
        "ratio": "batch",
        "ratio_error": "batch",
        "batch_largest": "batch minibatch",
        "shares": "batch parameter",
        "in_epsilon": "batch",
    }

    @property
    def verdict(self) -> Any:
        """On which side of its edge of stability each item is, as text; "at" within 10 % of it."""
        ratio = self.ratio.detach().cpu()
        code = 1 + (ratio > 1 + AT_ITS_EDGE).long() - (ratio < 1 - AT_ITS_EDGE).long()
        words = np.array(VERDICTS)[torch.where(ratio.isnan(), 3, code).numpy()]
        return str(words) if words.ndim == 0 else words

    def leading(self) -> list[tuple[str, float]]:
        """The parameters that carry the leading direction, by descending share, with their shares; of the first item of a batch."""
        shares = self.shares.reshape(-1, self.shares.shape[-1])[0].tolist()
        return sorted(zip(self.parameters, shares, strict=True), key=lambda pair: -pair[1])

    def summary(self) -> str:
        """The answer in words."""
        if self.batch:
            counts = {word: int((self.verdict == word).sum()) for word in VERDICTS}
            said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
            return f"Curvature of {counted(self.codes.numel(), 'state')}: {said}."
        if int(self.codes) == Status.DIVERGED:
            return "Curvature: the loss or its derivatives are not finite here."
        return "\n".join(
            [*self._spectrum_in_words(), *self._directions_in_words(), *(f"{note[0].upper()}{note[1:]}." for note in self.notes)]
        )

    def _remedy(self, status: Status) -> str:
        if status == Status.NOT_CONVERGED:
            return "Pass a larger max_steps or tol: the residuals are above tol times the largest modulus."
        return super()._remedy(status)

    def _spectrum_in_words(self) -> list[str]:
        name = "the Hessian" if math.isnan(self.epsilon) else "the preconditioned Hessian"
        largest, smallest = (
            measured(float(end[0]), float(self.residuals[i, 0])) for i, end in enumerate((self.largest, self.smallest))
        )
        ratio = measured(float(self.ratio), float(self.ratio_error))
        lines = [
            f"{self.settings['optimizer']} at step {self.settings['t']} is {self.verdict}, at {ratio} of its threshold.",
            f"Eigenvalues of {name} from {smallest} to {largest}; threshold {plain(float(self.threshold))}.",
        ]
        if int(self.codes) == Status.NOT_CONVERGED:
            lines.append("The residuals are above the tolerance: pass a larger max_steps.")
        if self.batch_largest.shape[-1]:
            low, mean, high = (
                plain(float(v)) for v in (self.batch_largest.min(), self.batch_largest.mean(), self.batch_largest.max())
            )
            count = self.batch_largest.shape[-1]
            lines.append(f"On {count} mini-batches the largest eigenvalue is {mean} on average, from {low} to {high}.")
        return lines

    def _directions_in_words(self) -> list[str]:
        carried = ", ".join(f"{name} {100 * share:.0f} %" for name, share in self.leading()[:SHOWN] if share >= 0.005)
        lines = [f"The leading direction lies in {carried}."]
        if not math.isnan(self.epsilon):
            share = f"{100 * float(self.in_epsilon):.0f} % of the leading direction"
            lines.append(f"ε = {plain(self.epsilon)} stands outside the root; {share} lies on weights whose root is below ε.")
        return lines
