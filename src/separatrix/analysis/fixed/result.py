"""The result of a search for fixed points, and its summary in words."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from separatrix.analysis.fixed.rounding import is_isolated
from separatrix.core.result import Result, Status
from separatrix.core.wording import counted, plain


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FixedPoints(Result):
    r"""Fixed points or cycles of a map,  F^p(x) = x,  or equilibria of a flow,  f(x) = 0,  the most attracting first.

    Each guess has a status: `ok` if it converged to a point, `not_converged` if it ended elsewhere (perhaps at a slow point), and
    `diverged` if the system has no finite value there.

    Args:
        points: (point, dim); for a cycle, one of its states.
        residuals: (point), ‖F^p(x) − x‖∞, or the largest component of a flow's field.
        errors: (point), bound on the displacement by rounding, ‖ |DF^p − 1|⁻¹ ε (|x| + |DF^p − 1| |x|) ‖∞ to first order; inf if
            the matrix is singular, as on a line of fixed points. With one scale per component, it is relative to the scale, times
            the largest.
        multipliers: (point, eigenvalue), complex, |μ| descending: eigenvalues of DF^p; for a flow, exp(λ dt) with λ those of its
            field. For states of more than 2,000 numbers only the leading 6.
        rates: (point, eigenvalue), nats per unit time: ln|μ| / T, with T the time that F^p takes there; for a flow, Re λ.
        frequencies: (point, eigenvalue), radians per unit time: arg μ / T; for a flow, Im λ.
        kind: (point), "stable node", "saddle with 1 unstable direction", …; "undecided" if an eigenvalue is too close to the border
            of stability; "on a kink" if the step has no derivative there (a ReLU of zero), in which case eigenvalues are NaN.
        minimal_period: (point), the smallest number of steps after which the state returns; 1 for a fixed point.
        cycles: (point, phase, dim), the p states of each cycle, starting with the point.
        periods: (point), the period of the cycle in units of time; for a section, the period of the flow's cycle. None for
            equilibria of a flow.
        found_by: (point), the number of guesses that converged to it.
        slow: (slow_point, dim), local minima of ‖residual‖ that are not zero, near which the system moves slowly.
        slow_residuals: (slow_point), ‖residual‖∞ there.
        sensitivity: (point, dim, input), ∂x*/∂u = (1 − DF)⁻¹ ∂F/∂u, the derivative of a fixed point by the frozen input. None if
            the system has no input or p > 1; NaN if DF has the eigenvalue 1.
        reached: (*batch, dim), the point to which each guess converged; NaN if it did not.
        size: root mean square of the guesses in units of `settings["unit"]`.
        index_sum: Σ sign det(1 − DF^p) over all points of period p, including those of shorter cycles; for a flow, Σ sign det(−Df).
            None if a point is not isolated and so has no index, or if the state is too large for a determinant.
        index_expected: the value of `index_sum` if no point is missing (Lefschetz): 1 for systems that declare that they map a ball
            into itself (`System.into_ball`), such as PyTorch's tanh cells; None if it is unknown.
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
        """Rates and frequencies as complex numbers λ, per unit time, (point, eigenvalue); for a flow, eigenvalues of its field."""
        return torch.complex(self.rates, self.frequencies)

    @property
    def isolated(self) -> Tensor:
        """Whether the position of a point is known to within `distinct`, (point), bool; False on a line of fixed points."""
        unit = torch.as_tensor(self.settings.get("unit", 1.0)).to(self.points)
        return is_isolated(self.errors / unit.max(), self.points / unit, self.settings["distinct"])

    @property
    def points_missing(self) -> bool | None:
        """Whether the sum of the indices shows that points are missing; False is not a proof of the contrary; None if unknown."""
        if self.index_sum is None or self.index_expected is None:
            return None
        return self.index_sum != self.index_expected

    def _indices(self) -> list[str]:
        if self.index_sum is None:
            return []
        determinant = "det(−Df)" if self.periods is None else "det(1 − DF)" if self.cycles.shape[1] == 1 else "det(1 − DFᵖ)"
        total = f"Σ sign {determinant} = {self.index_sum}".replace("-", "−")
        if self.points_missing:
            return [f"points are missing: {total}, expected {self.index_expected}"]
        return [total + (", as expected if no point is missing" if self.points_missing is False else "")]

    def or_raise(self, throw: bool = True) -> Self:
        """This result; with `throw`, an error if no point was found.

        Raises:
            DivergedError, NotConvergedError: no point was found, and guesses diverged or did not converge.
        """
        return self if len(self.points) else super().or_raise(throw)

    def _remedy(self, status: Status) -> str:
        return "No point was found: pass guesses closer to one, or search from more of them (starts)."

    def summary(self) -> str:
        """The points by kind, the sum of their indices, and the status of the guesses."""
        kinds = ", ".join(f"{number} × {kind}" for kind, number in Counter(self.kind).items())
        noun = "point" if self.cycles.shape[1] == 1 else "orbit"
        lines = [f"{counted(len(self.points), noun)}{f': {kinds}' if kinds else ''}"]
        if not_isolated := int((~self.isolated).sum()):
            lines.append(f"{counted(not_isolated, noun)} not isolated: on a continuum of {noun}s, or flat to rounding")
        lines += self._indices()
        if len(self.slow):
            least = plain(float(self.slow_residuals.min()))
            lines.append(f"{counted(len(self.slow), 'slow point')}, not converged; the smallest residual is {least}")
        failures = [
            f"{number} {status.words}"
            for status in (Status.NOT_CONVERGED, Status.DIVERGED)
            if (number := int((self.codes == status).sum()))
        ]
        failed = f" ({', '.join(failures)})" if failures else ""
        further = int(self.settings.get("further_starts", 0))
        number = self.codes.numel()
        guesses = f"{number:,} guess{'' if number == 1 else 'es'}"
        lines.append(f"from {guesses}{failed}{f' and {further:,} further starts' if further else ''}")
        return "\n".join(lines)
