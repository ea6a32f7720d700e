"""Which attractors a system has, and which of them each initial state reaches."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from separatrix.analysis.basins.attractors import COPIES, Attractor, kept, nearest
from separatrix.analysis.basins.borders import (
    BasinEntropy,
    UncertaintyExponent,
    binomial_errors,
    entropy_of,
    is_lattice,
    lattice_errors,
    uncertainty_of,
)
from separatrix.analysis.basins.scouts import Plan, discover
from separatrix.analysis.lyapunov.divergence import divergence_rate
from separatrix.analysis.run.units import as_scale, in_units, mixed_sizes, overall
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import DivergedError, InputError, NotConvergedError, ShapeError
from separatrix.core.evolve import Front, begin, check_steps, check_system_type
from separatrix.core.progress import Tick, watched
from separatrix.core.randomness import torch_generator
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted
from separatrix.core.wording import measured as in_words

BOX = 5  # states a side of the boxes of a basin entropy, as in its source
SCOUTS = 64  # orbits that look for attractors together
SCOUT_NUMBERS = 10_000_000  # in memory of their pieces
CHECKS = 20  # times per piece that runs are compared with the attractors
FAR_APART = (1, 2, 3, 7, 50)  # steps at which a system must do as at step 0
ROUNDINGS = 1e5  # that may lie between, relative to the largest |x|
FEWEST = 8  # states of a piece
SIGNIFICANT = 3  # standard errors above 0 of an exponent that is called positive


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
        orbits: (attractor, time, dim), states of each attractor at equal times; of a rest point, that state.
        spacing: (attractor), the time from one of them to the next; 0 for a rest point.
        period: (attractor), of a cycle; 0 for a rest point, NaN where there is none.
        rate: (attractor), nats per unit time: λ₁ by two near trajectories where there is no period, NaN elsewhere.
        rate_stderr: its standard error.
        reach: (attractor), the distance at which a state has arrived; of states divided by `settings["scale"]` where that is one
            size for each number.
        kind: (attractor), "rest point", "cycle", "chaotic" (λ₁ more than 3 standard errors above 0), else "quasi-periodic".
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

    def share(self, i: int) -> str:
        """The fraction of one attractor with its error."""
        return in_words(float(self.fractions[i]), float(self.stderr[i]))

    def describe(self, i: int) -> str:
        """The kind of one attractor, with its period or exponent."""
        if self.kind[i] == "cycle":
            return f"cycle of period {float(self.period[i]):.5g}"
        if self.kind[i] == "rest point":
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


@torch.no_grad()
def basins_of_attraction(
    system: System,
    x0: Tensor | None = None,
    *,
    steps: int = 1_000,
    settle: int = 0,
    tol: float = 1e-3,
    max_steps: int = 50_000,
    scale: float | Tensor | None = None,
    seed: int = 0,
    progress: bool = False,
    throw: bool = False,
) -> Basins:
    r"""Which attractors the initial states reach, found by recurrence, and the share of the states that reaches each.

    Up to 64 scouts are followed until their orbits recur: the later half of an orbit's life lies on the quarter before it. What
    they come to is an attractor if states displaced from it come back. Then all states are followed together until each is as near
    to an attractor as its own states are to each other, and leaves the batch. What is left sends out scouts again.

    Args:
        system: any System that does the same at every step, and is no batch of systems.
        x0: initial states, shape (*batch, dim): a grid such as `sx.grid(…)`, or any others. Default: `system.initial_state()`.
        steps: states to remember of each attractor, and the length of the first pieces that are compared.
        settle: steps that scouts take first. More where long transients look like attractors.
        tol: how near to a rest point a state has arrived, relative to the larger of |x| and `scale`; nearer attractors are one.
        max_steps: after which a state is undecided.
        scale: the size of states, a number; or of each number of the state, shape (dim): distances are then between states divided
            by it. Default: the size of the states that orbits come to, but not above that of x0, nor below a thousandth; each
            component its own if those of x0 differ by more than a thousand.
        seed: of the initial state, the choice of scouts, and the displacements.
        progress: show a bar.
        throw: raise instead of marking states `diverged` or `not_converged`.

    Returns:
        Basins: `labels` and `status` (*batch); `attractors`, `fractions` with `stderr`, `kind`, `period` (attractor); and
        `entropy()`, `uncertainty_exponent()` of a grid.

    Raises:
        InputError: the system depends on time, or a count or tolerance is out of range.
        ShapeError: the system is a batch of systems.
        DivergedError, NotConvergedError: with `throw=True`.

    Limits: distances are Euclidean over the numbers of the state: see `scale`. A transient that lasts longer
        than its scouts are followed passes for an attractor. Attractors nearer to each other than their own remembered states
        are (many dimensions of chaos) are one. Where nothing attracts (no friction, a line of rest points), all is undecided.
    Source: recurrence and proximity as in Datseris & Wagemakers 2022, Chaos 32, 023104, without cells.
    """
    _check(system, steps=steps, settle=settle, tol=tol, max_steps=max_steps, seed=seed)
    front = begin(system, x0, seed=seed)
    _check_autonomous(front, max_steps)
    sizes, unit = _sizes(front, scale, settle + steps)
    front = front if sizes is None else in_units(front, sizes)
    plan = Plan(steps=steps, settle=settle, tol=tol, max_steps=max_steps, seed=seed, unit=unit)
    search = _Search(front, plan)
    for _ in watched(search.run(), len(search.labels), "States decided", progress):
        pass
    basins = _basins(search, front, sizes, {**asdict(plan), "scale": unit if sizes is None else sizes.tolist()})
    if throw:
        _throw(basins)
    return basins


class _Search:
    """The states that are still on their way, and the attractors known so far."""

    def __init__(self, front: Front, plan: Plan) -> None:
        x = front.x.reshape(-1, front.x.shape[-1])
        self.plan = plan
        self.front = Front(front.system, x, lived=torch.zeros(len(x), dtype=torch.int64, device=x.device))
        self.index = torch.arange(len(x), device=x.device)
        self.labels = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        self.codes = torch.full((len(x),), Status.NOT_CONVERGED, dtype=torch.int8, device=x.device)
        self.known: list[Attractor] = []
        self.generator = torch_generator(plan.seed, "cells to refine")
        self.lasted = 0

    def run(self) -> Iterator[Tick]:
        """Scouting and following in turn, twice as long each time, until nothing is left or the steps run out."""
        left = len(self.index)
        while len(self.index) and self.front.n < self.plan.max_steps:
            self._scout()
            until = min(max(2 * self.lasted, 2 * self.front.n, self.plan.steps), self.plan.max_steps)
            while len(self.index) and self.front.n < until:
                self._follow(min(max(self.plan.steps // CHECKS, 1), until - self.front.n))
                yield Tick(self.front.n, left - len(self.index))
                left = len(self.index)
        yield Tick(self.front.n, left)

    def _follow(self, steps: int) -> None:
        """All on their way take some steps; those that have arrived, or diverged, leave."""
        self.front = self.front.advance(steps)
        dead = self.front.failed_at >= 0
        self.codes[self.index[dead]] = Status.DIVERGED
        arrived = torch.zeros_like(dead)
        if self.known:
            score, owner = nearest(self.front.x, self.known)
            arrived = (score <= 1) & ~dead
            self.labels[self.index[arrived]] = owner[arrived]
            self.codes[self.index[arrived]] = Status.OK
        self._keep(~(arrived | dead))

    def _keep(self, rows: Tensor) -> None:
        if not rows.all():
            self.front, self.index = kept(self.front, rows), self.index[rows]

    def _scout(self) -> None:
        """Some of the states run ahead until their orbits recur; what is new and attracts is known from then on."""
        most = min(SCOUTS, max(SCOUT_NUMBERS // (self.plan.steps * self.front.x.shape[-1]), 4))
        rows = torch.randperm(len(self.index), generator=self.generator)[:most].to(self.index.device)
        found = discover(kept(self.front, rows), self.known, self.plan)
        self.known += found.attractors
        self.lasted = found.lasted
        self._keep(torch.ones_like(self.index, dtype=torch.bool).index_fill(0, rows[found.stuck], False))


def _sizes(front: Front, scale: Any, steps: int) -> tuple[Tensor | None, float]:
    """Sizes of the numbers of a state, where each is to have its own, and the size of all otherwise."""
    given = as_scale(scale, front.x)
    if given is not None:
        one = bool((given == given[0]).all())
        return (None, float(given[0])) if one else (given, 1.0)
    x = front.x.reshape(-1, front.x.shape[-1])
    some = x[:: -(-len(x) // SCOUTS)]
    ends = Front(front.system, some, lived=torch.zeros(len(some), dtype=torch.int64, device=x.device)).advance(steps).x
    sizes = mixed_sizes(x, ends)
    return sizes, overall(x, ends) if sizes is None else 1.0


def _basins(search: _Search, front: Front, sizes: Tensor | None, settings: dict[str, Any]) -> Basins:
    """The record, the largest basin first; of equal ones, that of the first state."""
    back = 1.0 if sizes is None else sizes
    batch, x0 = tuple(front.x.shape[:-1]), (front.x * back).clone()
    counts = torch.bincount(search.labels[search.labels >= 0], minlength=len(search.known)).cpu()
    reached = [i for i in range(len(counts)) if counts[i]]
    order = sorted(reached, key=lambda i: (-int(counts[i]), int((search.labels == i).nonzero()[0])))
    place = torch.full((len(search.known) + 1,), -1, dtype=torch.int64, device=front.x.device)
    place[order] = torch.arange(len(order), device=place.device)
    labels, known = place[search.labels].reshape(batch), [search.known[i] for i in order]
    fractions = counts[order].double() / len(search.labels)
    is_grid = is_lattice(x0)
    periods = torch.tensor([one.period() for one in known], dtype=torch.float64)
    rate, error = _rates(front, known, periods, search.plan)
    return Basins(
        codes=search.codes.reshape(batch),
        labels=labels,
        x0=x0,
        fractions=fractions,
        stderr=lattice_errors(labels, len(known)) if is_grid else binomial_errors(fractions, len(search.labels)),
        orbits=back * _orbits(known, search.plan.steps, x0),
        spacing=torch.tensor([0 if one.is_rest else one.spacing for one in known], dtype=torch.float64) * front.system.dt,
        period=periods * front.system.dt,
        rate=rate,
        rate_stderr=error,
        reach=torch.tensor([one.reach for one in known], dtype=torch.float64),
        kind=tuple(_kind(*values) for values in zip(periods.tolist(), rate.tolist(), error.tolist(), strict=True)),
        is_grid=is_grid,
        settings=settings,
    )


def _orbits(known: list[Attractor], steps: int, x: Tensor) -> Tensor:
    if not known:
        return x.new_zeros(0, steps, x.shape[-1])
    return torch.stack([one.states.expand(steps, -1) for one in known])


def _rates(front: Front, known: list[Attractor], periods: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    """λ₁ of the attractors that are no cycles, by two near trajectories, which need no derivative; NaN of the others.

    The mean over orbits from all over the attractor, displaced so that they are not one and the same; and that mean's error.
    """
    generator = torch_generator(plan.seed, "starts beside an attractor")
    rate, error = torch.full_like(periods, torch.nan), torch.full_like(periods, torch.nan)
    for i in periods.isnan().nonzero()[:, 0].tolist():
        states = known[i].states[:: max(plan.steps // COPIES, 1)]
        states = states + known[i].near * torch.randn(states.shape, dtype=torch.float64, generator=generator).to(states)
        each = divergence_rate(front.system, states, steps=plan.steps, settle=plan.steps, seed=plan.seed).rate.double()
        rate[i], error[i] = each.mean(), each.std() / len(each) ** 0.5
    return rate, error


def _kind(period: float, rate: float, error: float) -> str:
    if period == 0:
        return "rest point"
    if period > 0:
        return "cycle"
    return "chaotic" if rate > SIGNIFICANT * error else "quasi-periodic"


def _check(system: System, *, tol: float, **counts: int) -> None:
    check_system_type(system)
    check_seed(counts.pop("seed"))
    for name, value in counts.items():
        check_whole(name, value)
    if not (isinstance(tol, int | float) and 0 < tol < 1):
        raise InputError(f"tol is {tol}; it is a small positive number.")
    if counts["steps"] < FEWEST:
        raise InputError(f"steps is {counts['steps']}; an attractor is seen in {FEWEST} states or more.")
    least = 3 * counts["steps"] + counts["settle"]
    if counts["settle"] < 0 or counts["max_steps"] < least:
        raise InputError(
            f"max_steps is {counts['max_steps']} and settle {counts['settle']}, but seeing an orbit recur takes {least} steps.\n"
            "Raise max_steps, or ask for fewer steps: it takes settle + 3 × steps."
        )
    if system.batch_shape:
        raise ShapeError(
            f"this is a batch of systems: its parameters or inputs have batch axes {tuple(system.batch_shape)}.\n"
            "Each has attractors of its own: ask for one of them at a time, system.at(…), or one input."
        )


def _check_autonomous(front: Front, max_steps: int) -> None:
    """Refuse a system that does not do the same at every step, up to rounding."""
    system, x = front.system, front.x.reshape(-1, front.x.shape[-1])[:FEWEST]
    first = system.step(x, 0)
    largest = first.abs().maximum(x.abs().amax(0)).maximum(first.abs().nan_to_num(0.0, 0.0).amax(0))
    largest = largest.where(largest > 0, 1.0)
    for n in FAR_APART:
        if system.horizon is not None and n >= system.horizon:
            break
        apart = ((system.step(x, n) - first).abs() / largest).nan_to_num(0.0)
        if apart.max() > ROUNDINGS * torch.finfo(x.dtype).eps:
            raise InputError(
                f"the system depends on time: step {n} takes a state {float(apart.max()):.2g} away from where step 0 does, "
                "and a basin is one of a system that does not.\n"
                "Freeze its input, system.frozen(n); or, where that repeats after p steps, pass sx.Iterate(system, p)."
            )
    check_steps(system, max_steps=max_steps)


def _throw(basins: Basins) -> None:
    count = basins.codes.numel()
    if basins.diverged:
        raise DivergedError(f"{round(basins.diverged * count)} of {count} states left the finite numbers.")
    if basins.undecided:
        raise NotConvergedError(
            f"{round(basins.undecided * count)} of {count} states reached no attractor within the steps.\n"
            "Raise max_steps; a state exactly on a border, or where nothing attracts, never gets anywhere."
        )
