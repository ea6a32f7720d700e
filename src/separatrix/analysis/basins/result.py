"""Attractors and their basins, and the same in words."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from separatrix.analysis.basins.borders import BasinEntropy, UncertaintyExponent, entropy_of, uncertainty_of
from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError
from separatrix.core.result import Result, Status
from separatrix.core.wording import counted
from separatrix.core.wording import measured as in_words

RESTING = ("fixed point", "equilibrium")  # kinds of attractors that are one state: of a map, and of a flow
BOX = 5  # states a side of the boxes of a basin entropy, as in its source


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Basins(Result):
    r"""Attractors, the largest basin first, and which of them each initial state reaches.

    A state that left the finite numbers is `diverged`; one that reached no attractor within the steps, or rests on something that
    does not attract, is `not_converged`. The label of both is −1.

    Args:
        labels: (*batch), int64, the attractor's number from 0.
        x0: (*batch, dim), the initial states.
        fractions: (attractor), the share of all states that reaches it.
        stderr: (attractor), of the fraction: binomial for states at large; on a lattice √(n/12)/N with n of N cells crossed by the
            basin's border. A border along the lattice's own lines can be off by more, up to n/2N.
        orbits: (attractor, time, dim), states of each attractor at equal times; of a fixed point, that state.
        spacing: (attractor), the time from one of them to the next; 0 for a fixed point.
        period: (attractor), of a cycle; 0 for a fixed point, NaN where there is none.
        rate: (attractor), nats per unit time: λ₁ by two near trajectories where there is no period, NaN elsewhere.
        rate_stderr: its standard error.
        reach: (attractor), the distance at which a state has arrived; of states divided by `settings["scale"]` where that is one
            size for each number.
        kind: (attractor), "equilibrium" (of a flow) or "fixed point" (of a map), "cycle", "chaotic" (λ₁ more than 3 standard errors
            above 0), else "quasi-periodic".
        is_grid: whether the states are a lattice, each batch axis one of its directions.
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
        """One state of each, shape (attractor, dim)."""
        return self.orbits[:, -1]

    @property
    def diverged(self) -> float:
        """The share of states that left the finite numbers."""
        return float((self.codes == Status.DIVERGED).double().mean())

    @property
    def undecided(self) -> float:
        """The share of states of which nothing is known."""
        return float((self.codes == Status.NOT_CONVERGED).double().mean())

    @property
    def fates(self) -> Tensor:
        """The labels, with divergence as one more attractor after the last, shape (*batch); −1 for what is undecided."""
        return self.labels.masked_fill(self.codes == Status.DIVERGED, len(self.kind))

    def entropy(self, box: int = BOX) -> BasinEntropy:
        r"""Basin entropy and boundary basin entropy, from boxes of `box` states a side:  S_b = ⟨−Σ_j p_j ln p_j⟩.

        Divergence counts as a fate; undecided states are left out of their boxes.

        Raises:
            InputError: the initial states are no lattice, or a box does not fit into it.
        Source: Daza, Wagemakers, Georgeot, Guéry-Odelin & Sanjuán 2016, Sci. Rep. 6, 31416.
        """
        self._needs_a_grid("basin entropy")
        check_whole("box", box)
        if not 2 <= box <= min(self.batch):
            raise InputError(f"box is {box}; a box holds 2 or more states a side, and the grid has {tuple(self.batch)}.")
        return entropy_of(self.fates, box)

    def uncertainty_exponent(self) -> UncertaintyExponent:
        r"""α of  f(ε) ∝ ε^α,  the share of states that has another label at a distance ε; the border's dimension is D − α.

        Raises:
            InputError: the initial states are no lattice, or have fewer than 32 along an axis.
        Source: McDonald, Grebogi, Ott & Yorke 1985, Physica D 17, 125.
        """
        self._needs_a_grid("an uncertainty exponent")
        if min(self.batch) < 32:
            raise InputError(f"the grid has {tuple(self.batch)} states; an exponent is fitted over 32 or more along each axis.")
        return uncertainty_of(self.fates)

    @property
    def basin_entropy(self) -> float:
        """S_b of boxes of 5 states a side, nats."""
        return self.entropy().value

    @property
    def boundary_basin_entropy(self) -> float:
        """S_bb of boxes of 5 states a side, nats; above ln 2 the border is fractal."""
        return self.entropy().boundary

    def summary(self) -> str:
        """How many attractors, of which kind, and the share of each."""
        lines = [f"{counted(len(self.kind), 'attractor')} reached from {counted(self.codes.numel(), 'state')}"]
        lines += [f"{self.share(i)}: {self.describe(i)}" for i in range(len(self.kind))]
        lost = ((self.diverged, "diverged"), (self.undecided, "not converged"))
        lines += [f"{'all' if share == 1 else f'{share:.3g}'} of the states {what}" for share, what in lost if share]
        if self.is_grid and min(self.batch) >= BOX and self.undecided < 1:
            lines.append(_told(self.entropy()))
        return "\n".join(lines)

    def _remedy(self, status: Status) -> str:
        if status is Status.DIVERGED:
            return "These states left the finite numbers; leave them out of x0."
        return (
            "These states reached no attractor in max_steps; raise it. A state exactly on a border, or where nothing attracts, "
            "never reaches one."
        )

    def share(self, i: int) -> str:
        """The fraction of one attractor with its error."""
        return in_words(float(self.fractions[i]), float(self.stderr[i]))

    def describe(self, i: int) -> str:
        """The kind of one attractor, with its period or exponent."""
        if self.kind[i] == "cycle":
            return f"cycle of period {float(self.period[i]):.5g}"
        if self.kind[i] in RESTING:
            return self.kind[i]
        return f"{self.kind[i]}, λ₁ = {in_words(float(self.rate[i]), float(self.rate_stderr[i]))} nats per unit time"

    def _needs_a_grid(self, what: str) -> None:
        if not self.is_grid:
            raise InputError(f"{what} needs initial states on a grid of equal steps, and these are none.\nPass x0 = sx.grid(…).")


def _told(entropy: BasinEntropy) -> str:
    words = f"basin entropy {in_words(entropy.value, entropy.stderr)} nats"
    if entropy.boundary != entropy.boundary:
        return words
    words += f", on the border {in_words(entropy.boundary, entropy.boundary_stderr)} (boxes of {entropy.box} states a side)"
    return words + (": above ln 2, it is fractal at this resolution" if entropy.is_fractal else "")
