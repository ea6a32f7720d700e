"""The record of attractors and their basins."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from separatrix.analysis.basins.borders import BasinEntropy, UncertaintyExponent, entropy_of, uncertainty_of
from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError
from separatrix.core.result import Result, Status
from separatrix.core.wording import counted, measured

RESTING = ("fixed point", "equilibrium")  # kinds of attractors that are one state: for a map, and for a flow
BOX = 5  # states on each side of a box of the basin entropy, as in its source


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Basins(Result):
    r"""Attractors, largest basin first, and the attractor that each initial state reaches.

    A state that left the finite numbers is `diverged`. One that reached no attractor within `max_steps`, or rests on a state that
    does not attract, is `not_converged`. The label of both is −1.

    Args:
        labels: (*batch), int64, index of the attractor from 0.
        x0: (*batch, dim), the initial states.
        fractions: (attractor), share of all states that reaches it.
        stderr: (attractor), standard error of the fraction: binomial in general; on a lattice √(n/12)/N, if the basin's border
            crosses n of N cells. For a border along the lattice's own lines the error can be larger, up to n/2N.
        orbits: (attractor, time, dim), states of each attractor at equal times; a fixed point is repeated.
        spacing: (attractor), time between these states; 0 for a fixed point.
        period: (attractor), period of a cycle; 0 for a fixed point, NaN otherwise.
        rate: (attractor), nats per unit time: λ₁ by two nearby trajectories if there is no period, NaN otherwise.
        rate_stderr: (attractor), standard error of the rate.
        reach: (attractor), distance at which a state has arrived; between states divided by `settings["scale"]` if that has one
            size per component.
        kind: (attractor), "equilibrium" (of a flow), "fixed point" (of a map), "cycle", "chaotic" (λ₁ exceeds 0 by more than 3
            standard errors), or "quasi-periodic" (the rest).
        is_grid: whether the initial states form a lattice, each batch axis along one of its directions.
    """

    labels: Tensor
    x0: Tensor
    fractions: Tensor
    stderr: Tensor
    orbits: Tensor
    spacing: Tensor
    period: Tensor
    rate: Tensor
    rate_stderr: Tensor
    reach: Tensor
    kind: tuple[str, ...]
    is_grid: bool

    drawn_by: ClassVar[str] = "separatrix.plot.basins:basins_figure"
    layout: ClassVar[dict[str, str]] = {
        "labels": "batch",
        "x0": "batch dim",
        "fractions": "attractor",
        "stderr": "attractor",
        "orbits": "attractor time dim",
        "spacing": "attractor",
        "period": "attractor",
        "rate": "attractor",
        "rate_stderr": "attractor",
        "reach": "attractor",
    }
    units: ClassVar[dict[str, str]] = {
        "x0": "the state's unit",
        "orbits": "the state's unit",
        "spacing": "units of time",
        "period": "units of time",
        "rate": "nats per unit time",
        "rate_stderr": "nats per unit time",
    }

    @property
    def attractors(self) -> Tensor:
        """One state of each attractor, shape (attractor, dim)."""
        return self.orbits[:, -1]

    @property
    def diverged(self) -> float:
        """Share of the states that left the finite numbers."""
        return float((self.codes == Status.DIVERGED).double().mean())

    @property
    def undecided(self) -> float:
        """Share of the states that reached no attractor within the steps."""
        return float((self.codes == Status.NOT_CONVERGED).double().mean())

    @property
    def fates(self) -> Tensor:
        """The labels, with divergence as one more attractor after the last, shape (*batch); −1 for undecided states."""
        return self.labels.masked_fill(self.codes == Status.DIVERGED, len(self.kind))

    def entropy(self, box: int = BOX) -> BasinEntropy:
        r"""Basin entropy and boundary basin entropy, over boxes with `box` states on each side:  S_b = ⟨−Σ_j p_j ln p_j⟩.

        Divergence counts as an attractor; undecided states are ignored.

        Raises:
            InputError: the initial states are not a lattice, or a box does not fit into it.
        Source: Daza, Wagemakers, Georgeot, Guéry-Odelin & Sanjuán 2016, Sci. Rep. 6, 31416.
        """
        self._check_grid("basin entropy")
        check_whole("box", box, 2, min(self.batch))
        return entropy_of(self.fates, box)

    def uncertainty_exponent(self) -> UncertaintyExponent:
        r"""Uncertainty exponent α of  f(ε) ∝ ε^α,  the share of pairs of states at a distance ε whose labels differ.

        The dimension of the border is D − α on a grid of D axes.

        Raises:
            InputError: the initial states are not a lattice, or have fewer than 32 states along an axis.
        Source: McDonald, Grebogi, Ott & Yorke 1985, Physica D 17, 125.
        """
        self._check_grid("an uncertainty exponent")
        if min(self.batch) < 32:
            raise InputError(f"an uncertainty exponent needs at least 32 states along each axis, got {tuple(self.batch)}.")
        return uncertainty_of(self.fates)

    @property
    def basin_entropy(self) -> float:
        """S_b for boxes with 5 states on each side, nats."""
        return self.entropy().value

    @property
    def boundary_basin_entropy(self) -> float:
        """S_bb for boxes with 5 states on each side, nats; above ln 2 the border is fractal."""
        return self.entropy().boundary

    def summary(self) -> str:
        """The attractors with their kinds and shares, and the basin entropy of a grid, in words."""
        lines = [f"{counted(len(self.kind), 'attractor')} reached from {counted(self.codes.numel(), 'state')}"]
        lines += [f"{self.share(i)}: {self.describe(i)}" for i in range(len(self.kind))]
        others = ((self.diverged, "diverged"), (self.undecided, "not converged"))
        lines += [f"{'all' if share == 1 else f'{share:.3g}'} of the states {status}" for share, status in others if share]
        if self.is_grid and min(self.batch) >= BOX and self.undecided < 1:
            lines.append(_in_words(self.entropy()))
        return "\n".join(lines)

    def _remedy(self, status: Status) -> str:
        if status is Status.DIVERGED:
            return "These states left the finite numbers; leave them out of x0."
        return (
            f"These states reached no attractor within max_steps={self.settings['max_steps']}; raise it. States that lie exactly "
            "on a border never reach one."
        )

    def share(self, i: int) -> str:
        """The fraction of one attractor with its standard error, in words."""
        return measured(float(self.fractions[i]), float(self.stderr[i]))

    def describe(self, i: int) -> str:
        """The kind of one attractor with its period or exponent, in words."""
        if self.kind[i] == "cycle":
            return f"cycle of period {float(self.period[i]):.5g}"
        if self.kind[i] in RESTING:
            return self.kind[i]
        return f"{self.kind[i]}, λ₁ = {measured(float(self.rate[i]), float(self.rate_stderr[i]))} nats per unit time"

    def _check_grid(self, what: str) -> None:
        if not self.is_grid:
            raise InputError(f"{what} needs initial states on a grid with equal steps; these are not.\nPass x0=sx.grid(…).")


def _in_words(entropy: BasinEntropy) -> str:
    words = f"basin entropy {measured(entropy.value, entropy.stderr)} nats"
    if entropy.boundary != entropy.boundary:
        return words
    words += f", on the border {measured(entropy.boundary, entropy.boundary_stderr)} (boxes with {entropy.box} states on each side)"
    return words + ("; above ln 2, so the border is fractal at this resolution" if entropy.is_fractal else "")
