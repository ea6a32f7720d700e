"""Attractors of a system and their basins, found by recurrence."""

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
from separatrix.core.checks import check_fraction, check_seed, check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.evolve import Front, begin, check_steps, check_system_type
from separatrix.core.progress import watched
from separatrix.core.randomness import torch_generator
from separatrix.core.system import System

FAR_APART = (1, 2, 3, 7, 50)  # steps compared with step 0, to see whether the system depends on time
ROUNDINGS = 1e5  # largest difference between them in roundings of the largest |x|
FEWEST = 8  # least number of states of a piece
SIGNIFICANT = 3  # an exponent is positive if it exceeds 0 by this many standard errors


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
    r"""Attractors that the initial states reach, and the share of the states that reaches each, by recurrence.

    First, up to 64 of the states are followed as scouts until their orbits recur: the later half of an orbit lies on the quarter
    before it. The set that they reach is an attractor if states displaced from it return. Then all states are followed until
    each is as close to an attractor as the attractor's own states are to each other. States that remain send out scouts again.

    Args:
        system: any System whose step does not depend on n; not a batch of systems.
        x0: initial states, shape (*batch, dim): a grid such as `sx.grid(…)`, or any others. Default: `system.initial_state()`.
        steps: number of states stored for each attractor, and length of the first pieces that are compared.
        settle: steps of the scouts before the first comparison. Increase it if long transients pass for attractors.
        distinct: distance at which a state has arrived at a fixed point, relative to the larger of |x| and `scale`; attractors
            closer than that are one.
        max_steps: maximum number of steps of a state.
        scale: size of the states, a number, or of each component, shape (dim); distances are then between states divided by it.
            Default: the size of the states that orbits reach, limited to 1e-3 … 1 times that of x0; separately for each component
            if the sizes in x0 differ by more than a factor of 1,000.
        seed: seed of the initial state, the choice of scouts and the displacements.
        progress: show a progress bar.
        throw: raise instead of marking states `diverged` or `not_converged`.

    Returns:
        Basins: `labels` and `status` (*batch); `attractors`, `fractions` with `stderr`, `kind` and `period` (attractor); on a
        grid also `entropy()` and `uncertainty_exponent()`.

    Raises:
        InputError: the system depends on time, or a count or tolerance is out of range.
        ShapeError: the system is a batch of systems.
        DivergedError, NotConvergedError: with `throw=True`.

    Limits: distances are Euclidean over the components of the state: see `scale`. A transient that outlasts its scouts passes for
        an attractor. Attractors closer to each other than their own stored states (chaos in many dimensions) are one. Without
        attraction (no friction, a line of fixed points) all states are `not_converged`.
    Source: recurrence and proximity as in Datseris & Wagemakers 2022, Chaos 32, 023104, without cells.

    Example:
        >>> flow = sx.Flow(lambda x: x - x**3, 1, 0.05)  # equilibria at −1 and 1, the border at 0
        >>> basins = sx.basins_of_attraction(flow, torch.tensor([[-2.0], [-1.0], [0.5], [3.0]]), steps=50)
        >>> basins.attractors.round(decimals=3).flatten().tolist(), basins.labels.tolist()
        ([-1.0, 1.0], [0, 0, 1, 1])
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
    """The size of each component, None if they share one, and that common size."""
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
    """The record, largest basin first; equal basins in the order of their first states."""
    units = 1.0 if sizes is None else sizes
    batch, x0 = tuple(front.x.shape[:-1]), (front.x * units).clone()
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
        orbits=units * _orbits(known, search.plan.steps, x0),
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
    """λ₁ of the attractors without a period, by two nearby trajectories, and its standard error; NaN for the others.

    The mean over orbits that start all over the attractor, displaced so that they differ. It needs no derivatives.
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
        check_whole(name, value, {"steps": FEWEST, "settle": 0}.get(name))
    check_fraction("distinct", distinct)
    least = 3 * counts["steps"] + counts["settle"]
    if counts["max_steps"] < least:
        raise InputError(
            f"expected max_steps of at least settle + 3 × steps = {least}, to see an orbit recur, got {counts['max_steps']}.\n"
            "Raise max_steps, or lower steps."
        )
    if system.batch_shape:
        raise ShapeError(
            f"expected one system, got a batch: its parameters or inputs have batch axes {tuple(system.batch_shape)}.\n"
            "Pass the systems one at a time: system.at(…), or a single input."
        )


def _check_autonomous(front: Front, max_steps: int) -> None:
    """Refuse a system whose step depends on n beyond rounding."""
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
                f"expected a system that does not depend on time, but steps 0 and {n} from the same state differ by a fraction "
                f"{float(apart.max()):.2g} of its size.\n"
                "Freeze its input, system.frozen(n); for an input of period p, pass sx.Iterate(system, p)."
            )
    check_steps(system, max_steps=max_steps)
