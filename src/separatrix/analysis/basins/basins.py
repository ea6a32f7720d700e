"""Which attractors a system has, and which of them each initial state reaches."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from separatrix.analysis.basins.attractors import COPIES, Attractor
from separatrix.analysis.basins.borders import binomial_errors, is_lattice, lattice_errors
from separatrix.analysis.basins.result import RESTING, Basins
from separatrix.analysis.basins.scouts import Plan
from separatrix.analysis.basins.search import SCOUTS, Search
from separatrix.analysis.lyapunov.divergence import divergence_rate
from separatrix.analysis.run.units import as_scale, in_units, mixed_sizes, overall
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.evolve import Front, begin, check_steps, check_system_type
from separatrix.core.progress import watched
from separatrix.core.randomness import torch_generator
from separatrix.core.system import System

FAR_APART = (1, 2, 3, 7, 50)  # steps at which a system must do as at step 0
ROUNDINGS = 1e5  # that may lie between, relative to the largest |x|
FEWEST = 8  # states of a piece
SIGNIFICANT = 3  # standard errors above 0 of an exponent that is called positive


@torch.no_grad()
def basins_of_attraction(
    system: System,
    x0: Tensor | None = None,
    *,
    steps: int = 1_000,
    settle: int = 0,
    distinct: float = 1e-3,
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
        distinct: distance at which a state has arrived at a fixed point, relative to the larger of |x| and `scale`; nearer
            attractors are one.
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
        are (many dimensions of chaos) are one. Where nothing attracts (no friction, a line of fixed points), all is undecided.
    Source: recurrence and proximity as in Datseris & Wagemakers 2022, Chaos 32, 023104, without cells.
    """
    _check(system, steps=steps, settle=settle, distinct=distinct, max_steps=max_steps, seed=seed)
    front = begin(system, x0, seed=seed)
    _check_autonomous(front, max_steps)
    sizes, unit = _sizes(front, scale, settle + steps)
    front = front if sizes is None else in_units(front, sizes)
    plan = Plan(steps=steps, settle=settle, distinct=distinct, max_steps=max_steps, seed=seed, unit=unit)
    search = Search(front, plan)
    for _ in watched(search.run(), len(search.labels), "States decided", progress):
        pass
    basins = _basins(search, front, sizes, {**asdict(plan), "scale": unit if sizes is None else sizes.tolist()})
    return basins.or_raise(throw)


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


def _basins(search: Search, front: Front, sizes: Tensor | None, settings: dict[str, Any]) -> Basins:
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
    resting = RESTING[front.system.continuous]
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
        kind=tuple(_kind(*values, resting) for values in zip(periods.tolist(), rate.tolist(), error.tolist(), strict=True)),
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


def _kind(period: float, rate: float, error: float, resting: str) -> str:
    if period == 0:
        return resting
    if period > 0:
        return "cycle"
    return "chaotic" if rate > SIGNIFICANT * error else "quasi-periodic"


def _check(system: System, *, distinct: float, **counts: int) -> None:
    check_system_type(system)
    check_seed(counts.pop("seed"))
    for name, value in counts.items():
        check_whole(name, value)
    if not (isinstance(distinct, int | float) and 0 < distinct < 1):
        raise InputError(f"distinct is {distinct}; it is a small positive number.")
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
