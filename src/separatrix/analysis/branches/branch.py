"""The record of a branch of fixed points, equilibria or cycles, and of the bifurcations on it."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from separatrix.core.result import Result
from separatrix.core.wording import counted, plain

TOTAL = "total"  # the parameter's name where a conserved total is turned
ENDS = {
    "max_steps": " (stopped by max_steps)",
    "lost": " (lost there)",
    "start": " (turned back)",
    "not isolated": " (there, fixed points are not isolated)",
}


class Bifurcation(NamedTuple):
    """One bifurcation on a branch; as the x0 of `continuation` it begins the other branch through it.

    Args:
        kind: "fold", "flip", "Neimark–Sacker", "Hopf", "pitchfork", "transcritical" or "branch point".
        parameter: its value there, and `error` the width of the bracket it lies in.
        point: the state there, (dim).
        direction: the way in which the other branch leaves, (dim + 1): of the state and, the last number, of the parameter; zeros
            where there is none (a fold), or where it is no branch of fixed points or cycles of steps (Hopf, Neimark–Sacker).
        period: of the cycles on that other branch; after a flip, twice that of this one.
    """

    kind: str
    parameter: float
    point: Tensor
    error: float
    direction: Tensor
    period: int


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Branch(Result):
    r"""A branch of fixed points, or of cycles of one period.

    Args:
        parameter: name of the parameter.
        continuous: the eigenvalues are rates of a flow (stable: Re < 0), not multipliers of a map (stable: |μ| < 1).
        end: where the branch was left: at the "stop" or the "start" of the range, after "max_steps", "lost", or "not isolated",
            where it came to a line of fixed points.
        parameters: (point), in the order of the branch, which may turn.
        points: (point, dim).
        eigenvalues: (point, eigenvalue), complex; of the field's Jacobian, or of the Jacobian of F^period: dim of them, or one
            less for each conserved quantity.
        stable: (point), bool.
        kinds: of the bifurcations, in the order of the branch: "fold", "flip", "Neimark–Sacker", "Hopf", "pitchfork",
            "transcritical" or "branch point" (one of the two, not told apart).
        bifurcation_parameters: (event), the parameter's value at each.
        bifurcation_points: (event, dim), the state at each.
        bifurcation_errors: (event), width of the bracket that the parameter's value lies in.
        bifurcation_directions: (event, dim + 1), the way in which the other branch leaves, the parameter last; see `Bifurcation`.
        bifurcation_periods: (event), of the cycles on the other branch.
        scale: (dim), the unit in which steps along each number of the state were measured at the end.
        conserved: what is conserved, in words: "x[0] + x[1]"; each gives the Jacobian an eigenvalue that says nothing, and that
            `eigenvalues` and `stable` leave out.
        totals: (total), what each of them is at the first point; along the branch it stays so, but for the one that is turned.
    """

    parameter: str
    continuous: bool
    end: str
    parameters: Tensor
    points: Tensor
    eigenvalues: Tensor
    stable: Tensor
    kinds: tuple[str, ...]
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
            self.kinds,
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
        reached = ENDS.get(self.end, "")
        found = ", ".join(f"{b.kind} at {b.parameter:.10g}" for b in self.bifurcations) or "no bifurcation"
        share = float(self.stable.double().mean())
        kept = self.conserved[1:] if self.settings.get("turned") else self.conserved
        held = f", at constant {' and '.join(kept)}" if kept else ""
        return f"{counted(len(self.parameters), 'point')} over {ends}{reached}{held}, {share:.0%} of them stable: {found}"
