"""The record of a branch of fixed points, equilibria or cycles, and of its bifurcations."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from separatrix.core.result import Result, Status
from separatrix.core.wording import counted, plain

TOTAL = "total"  # name of the parameter if a conserved total is varied
ENDS = {
    "max_steps": " (stopped by max_steps)",
    "lost": " (lost there)",
    "start": " (turned back)",
    "not isolated": " (fixed points there are not isolated)",
}
REMEDIES = {
    "max_steps": "The branch did not leave the range within max_steps={max_steps} points; raise max_steps or step_size.",
    "lost": "No step from the last point, however short, stayed on the branch; raise tol if rounding exceeds it, or pass scale.",
    "not isolated": "Fixed points there form a curve; pass the quantity that is conserved on it as total=function.",
}


class Bifurcation(NamedTuple):
    """A bifurcation on a branch; passed to `continuation` as x0, it starts the other branch through it.

    Args:
        kind: "fold", "flip", "Neimark–Sacker", "Hopf", "pitchfork", "transcritical" or "branch point".
        parameter: value of the parameter at the bifurcation, known to within the bracket width `error`.
        point: state at the bifurcation, (dim).
        direction: direction of the other branch, (dim + 1): the state's components, then the parameter's. Zeros if there is no
            other branch (a fold), or if it does not consist of fixed points or of cycles of a map (Hopf, Neimark–Sacker).
        period: period of the other branch; after a flip, twice the period of this one.
    """

    kind: str
    parameter: float
    point: Tensor
    error: float
    direction: Tensor
    period: int


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Branch(Result):
    r"""Branch of fixed points, equilibria, or cycles of one period:  the solutions (x, p) of  G(x, p) = 0  along a curve.

    Args:
        parameter: name of the parameter p.
        continuous: whether the eigenvalues are rates of a flow (stable: Re λ < 0) or multipliers of a map (stable: |μ| < 1).
        end: how the branch ended: at the "stop" or the "start" of the range, after "max_steps", "lost" because no step from the
            last point stayed on it, or "not isolated" because it reached a curve of fixed points.
        parameters: (point), values of p in the order of the branch, which may turn back.
        points: (point, dim), states.
        eigenvalues: (point, eigenvalue), complex; of the field's Jacobian for a flow, of the Jacobian of F^period for a map. There
            are dim of them, less one for each conserved quantity.
        stable: (point), bool.
        kind: kind of each bifurcation, in the order of the branch: "fold", "flip", "Neimark–Sacker", "Hopf", "pitchfork",
            "transcritical" or "branch point" (one of the last two, where higher derivatives are not available).
        bifurcation_parameters: (event), value of p at each bifurcation.
        bifurcation_points: (event, dim), state at each bifurcation.
        bifurcation_errors: (event), width of the bracket that contains that value of p.
        bifurcation_directions: (event, dim + 1), direction of the other branch, the parameter last; see `Bifurcation`.
        bifurcation_periods: (event), period of the other branch.
        scale: (dim), unit of each component of the state at the end of the branch, in which steps were measured.
        conserved: conserved quantities in words: "x[0] + x[1]". Each adds an eigenvalue that carries no information, 0 for a flow
            and 1 for a map; `eigenvalues` and `stable` leave it out.
        totals: (total), value of each conserved quantity at the first point. It stays constant along the branch, except for the
            total that is varied.
    """

    parameter: str
    continuous: bool
    end: str
    parameters: Tensor
    points: Tensor
    eigenvalues: Tensor
    stable: Tensor
    kind: tuple[str, ...]
    bifurcation_parameters: Tensor
    bifurcation_points: Tensor
    bifurcation_errors: Tensor
    bifurcation_directions: Tensor
    bifurcation_periods: Tensor
    scale: Tensor
    conserved: tuple[str, ...]
    totals: Tensor

    drawn_by: ClassVar[str] = "separatrix.plot.bifurcations:branch_figure"
    layout: ClassVar[dict[str, str]] = {
        "parameters": "point",
        "points": "point dim",
        "eigenvalues": "point eigenvalue",
        "stable": "point",
        "bifurcation_parameters": "event",
        "bifurcation_points": "event dim",
        "bifurcation_errors": "event",
        "bifurcation_directions": "event component",
        "bifurcation_periods": "event",
        "scale": "dim",
        "totals": "total",
    }

    @property
    def bifurcations(self) -> list[Bifurcation]:
        """The bifurcations, in the order of the branch."""
        rows = zip(
            self.kind,
            self.bifurcation_parameters.tolist(),
            self.bifurcation_points,
            self.bifurcation_errors.tolist(),
            self.bifurcation_directions,
            self.bifurcation_periods.tolist(),
            strict=True,
        )
        return [Bifurcation(*row) for row in rows]

    def summary(self) -> str:
        """The branch and its bifurcations in words."""
        ends = f"{self.parameter} = {plain(float(self.parameters[0]))} … {plain(float(self.parameters[-1]))}"
        how = ENDS.get(self.end, "")
        found = ", ".join(f"{b.kind} at {b.parameter:.10g}" for b in self.bifurcations) or "no bifurcation"
        share = float(self.stable.double().mean())
        constant = self.conserved[1:] if self.settings.get("varies_total") else self.conserved
        held = f", at constant {' and '.join(constant)}" if constant else ""
        return f"{counted(len(self.parameters), 'point')} over {ends}{how}{held}, {share:.0%} of them stable: {found}"

    def _remedy(self, status: Status) -> str:
        return REMEDIES[self.end].format(**self.settings)
