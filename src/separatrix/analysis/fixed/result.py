"""What a search for fixed points found, and the same in words."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from separatrix.analysis.fixed.rounding import is_isolated
from separatrix.core.result import Result, Status
from separatrix.core.wording import counted, plain


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FixedPoints(Result):
    r"""Equilibria of a flow, fixed points of a map, or its cycles, the most attracting first.

    Each guess has a status: `ok` when it came to a point, `not_converged` when it ended elsewhere (at a slow point, perhaps), and
    `diverged` when the system has no finite value there.

    Args:
        points: (point, dim); of a cycle, one of its states.
        residuals: (point), ‖F^p(x) − x‖∞, or the largest component of a flow's field.
        errors: (point), how far rounding may have moved the point, ‖ |DF^p − 1|⁻¹ ε (|x| + |DF^p − 1| |x|) ‖∞ to first order; inf
            where the matrix is singular, as on a line of fixed points. With a scale for each number: over it, times the largest.
        multipliers: (point, eigenvalue), complex, |μ| descending: eigenvalues of DF^p; of a flow, exp(λ dt) with λ those of its
            field. All of them; of states of more than 2,000 numbers the leading 6.
        rates: (point, eigenvalue), nats per unit time: ln|μ| / T, T the time that F^p takes there; of a flow, Re λ.
        frequencies: (point, eigenvalue), radians per unit time: arg μ / T; of a flow, Im λ.
        kind: (point), "stable node", "saddle with 1 unstable direction", …; "undecided" where an eigenvalue is too near the border;
            "on a kink" where the step has no derivative (a ReLU of zero), and so no eigenvalues, which are NaN.
        minimal_period: (point), the smallest number of steps after which the state returns; 1 for a fixed point.
        cycles: (point, phase, dim), the p states of each cycle, the first of them being the point.
        periods: (point), time of one round of the cycle, in the system's unit: of a section, the period of the flow's cycle. None
            where a flow's equilibria were sought, which have none.
        found_by: (point), how many guesses came to it.
        slow: (slow_point, dim), local minima of ‖residual‖ that are not zero: states where the system lingers.
        slow_residuals: (slow_point), ‖residual‖∞ there.
        sensitivity: (point, dim, input), ∂x*/∂u, how a fixed point moves with the frozen input: (1 − DF)⁻¹ ∂F/∂u. None where
            the system has no input, or p > 1; NaN where DF has the eigenvalue 1.
        reached: (*batch, dim), where each guess came to; NaN for those that came to no point.
        size: root mean square of the guesses in units of `settings["unit"]`.
        index_sum: Σ sign det(1 − DF^p) over all points of period p, those of shorter cycles included; of a flow, Σ sign det(−Df).
            None where a point is not isolated, so that it has no sign, or where there are too many numbers for a determinant.
        index_expected: what it is if no point is missing (Lefschetz): 1 for a system that says it maps a ball into itself
            (`System.into_ball`), as PyTorch's own cells with tanh; None where that is not known.
    """

    points: Tensor
    residuals: Tensor
    errors: Tensor
    multipliers: Tensor
    rates: Tensor
    frequencies: Tensor
    kind: tuple[str, ...]
    minimal_period: Tensor
    cycles: Tensor
    found_by: Tensor
    slow: Tensor
    slow_residuals: Tensor
    reached: Tensor
    size: float
    index_sum: int | None = None
    index_expected: int | None = None
    periods: Tensor | None = None
    sensitivity: Tensor | None = None

    drawn_by: ClassVar[str] = "separatrix.plot.fixed_points:fixed_points_figure"
    layout: ClassVar[dict[str, str]] = {
        "points": "point dim",
        "residuals": "point",
        "errors": "point",
        "multipliers": "point eigenvalue",
        "rates": "point eigenvalue",
        "frequencies": "point eigenvalue",
        "minimal_period": "point",
        "cycles": "point phase dim",
        "periods": "point",
        "found_by": "point",
        "slow": "slow_point dim",
        "slow_residuals": "slow_point",
        "reached": "batch dim",
        "sensitivity": "point dim input",
    }
    units: ClassVar[dict[str, str]] = {
        "rates": "nats per unit time",
        "frequencies": "radians per unit time",
        "periods": "units of time",
        **dict.fromkeys(("points", "cycles", "slow", "reached"), "the state's unit"),
    }

    @property
    def eigenvalues(self) -> Tensor:
        """Rates and frequencies as complex numbers λ, per unit time, (point, eigenvalue): of a flow, its field's eigenvalues."""
        return torch.complex(self.rates, self.frequencies)

    @property
    def isolated(self) -> Tensor:
        """Whether a point's place is known to better than `distinct`, (point): not on a line of fixed points, nor in a flat."""
        unit = torch.as_tensor(self.settings.get("unit", 1.0)).to(self.points)
        return is_isolated(self.errors / unit.max(), self.points / unit, self.settings["distinct"])

    @property
    def points_missing(self) -> bool | None:
        """Whether the indices do not add up, so that points are missing. False: they do, which is no proof. None: not known."""
        if self.index_sum is None or self.index_expected is None:
            return None
        return self.index_sum != self.index_expected

    def _indices(self) -> list[str]:
        if self.index_sum is None:
            return []
        what = "det(−Df)" if self.periods is None else "det(1 − DF)" if self.cycles.shape[1] == 1 else "det(1 − DFᵖ)"
        told = f"Σ sign {what} = {self.index_sum}".replace("-", "−")
        if self.points_missing:
            return [f"points are missing: {told}, but {self.index_expected} over all there are"]
        return [told + (", as over all there are" if self.points_missing is False else "")]

    def summary(self) -> str:
        """How many points of which kind, whether their indices add up, and what became of the guesses."""
        kinds = ", ".join(f"{number} × {kind}" for kind, number in Counter(self.kind).items())
        noun = "point" if self.cycles.shape[1] == 1 else "orbit"
        lines = [f"{counted(len(self.points), noun)}{f': {kinds}' if kinds else ''}"]
        if loose := int((~self.isolated).sum()):
            lines.append(f"{counted(loose, noun)} not isolated: on a line of such, or where all is flat to rounding")
        lines += self._indices()
        if len(self.slow):
            least = plain(float(self.slow_residuals.min()))
            lines.append(f"{counted(len(self.slow), 'slow point')}, not converged; the smallest residual is {least}")
        lost = [
            f"{number} {status.words}"
            for status in (Status.NOT_CONVERGED, Status.DIVERGED)
            if (number := int((self.codes == status).sum()))
        ]
        of_which = f", of which {' and '.join(lost)}" if lost else ""
        more = int(self.settings.get("further_starts", 0))
        lines.append(f"from {self.codes.numel():,} guesses{of_which}{f', and {more:,} further starts' if more else ''}")
        return "\n".join(lines)
