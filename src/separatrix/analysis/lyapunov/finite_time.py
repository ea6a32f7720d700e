"""Finite-time Lyapunov exponents as a field over initial states: where neighbours part, and where they stay together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from separatrix.analysis.run.product import Product
from separatrix.analysis.run.steps import default_steps
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import InputError
from separatrix.core.evolve import Front, begin, check_steps, check_system_type, in_one_width
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, plain

PARTED = 23  # nats, 10¹⁰, by which tangents may part between two factorisations


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FiniteTimeField(Result):
    r"""How fast neighbours of each initial state part within a time T:  λ_i = (1/T) ln σ_i(J_T).

    Args:
        exponents: (*batch, k), nats per unit time, descending; −∞ for a direction that is lost.
        x0: (*batch, dim), the states at which T begins.
        time: (*batch), T.
    """

    exponents: Tensor
    x0: Tensor
    time: Tensor

    drawn_by: ClassVar[str] = "separatrix.plot.finite_time_field:finite_time_field_figure"
    layout: ClassVar[dict[str, str]] = {"exponents": "batch k", "x0": "batch dim", "time": "batch"}
    units: ClassVar[dict[str, str]] = {"exponents": "nats per unit time", "time": "units of time", "x0": "the state's unit"}

    def summary(self) -> str:
        """How many, over what time, and from where to where."""
        leading = self.exponents[..., 0]
        known = leading[self.codes == Status.OK]
        lost = self.codes.numel() - known.numel()
        if not known.numel():
            return f"finite-time exponents of {counted(lost, 'state')}, all of which diverged"
        low, middle, high = (plain(float(value)) for value in (known.min(), known.median(), known.max()))
        told = f"leading finite-time exponent of {counted(known.numel(), 'state')} over a time {plain(float(self.time.max()))}: "
        told += f"{low} … {high}, median {middle} nats per {self.clock}"
        return told + (f" ({lost} diverged)" if lost else "")


def grid(low: Sequence[float], high: Sequence[float], counts: Sequence[int]) -> Tensor:
    """The points of a box at equal distances, ends included, float64, shape (*counts, dim); axis i is coordinate i.

    Args:
        low, high: the box's corners, dim numbers each.
        counts: points along each coordinate; 1 stays at `low`.

    Raises:
        InputError: the three are not equally long, an end is not finite, or a count is below 1.
    """
    try:
        low, high, counts = [float(a) for a in low], [float(b) for b in high], list(counts)
    except (TypeError, ValueError):
        raise InputError(f"a grid's ends and counts are sequences of numbers, not {low!r}, {high!r} and {counts!r}.") from None
    if not len(low) == len(high) == len(counts) > 0:
        raise InputError(f"a grid needs as many low as high ends and counts, not {len(low)}, {len(high)} and {len(counts)}.")
    if not all(map(math.isfinite, (*low, *high))):
        raise InputError(f"a grid's ends are finite numbers, not {low} and {high}.")
    counts = [check_whole("a grid's count", count) for count in counts]
    if min(counts) < 1:
        raise InputError(f"a grid's counts are whole numbers from 1 on, not {tuple(counts)}.")
    axes = [torch.linspace(a, b, count, dtype=torch.float64) for a, b, count in zip(low, high, counts, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


@torch.no_grad()
def finite_time_lyapunov(
    system: System,
    x0: Tensor | None = None,
    *,
    steps: int | None = None,
    k: int = 1,
    settle: int = 0,
    every: int = 1,
    seed: int = 0,
) -> FiniteTimeField:
    r"""Finite-time Lyapunov exponents of each initial state:  λ_i = (1/T) ln σ_i(J_T),  J_T = ∂x_{n+steps}/∂x_n.

    Ridges of the leading one separate states with different fates: basins of mixing in a flow, classes in a classifier.
    A system whose width changes has a rectangular J_T, with as many singular values as its narrower side.

    Args:
        system: any System.
        x0: initial states, shape (*batch, dim), such as `sx.grid(…)`. Default: `system.initial_state()`.
        steps: how many make T. Default: all that the system can take, or 10 units of time.
        k: number of leading exponents, 1 … dim.
        settle: steps before the first.
        every: steps between two factorisations, fewer where tangents would part by more than 10¹⁰ in so many.
        seed: of the initial state and of the frame, on which the result depends only by rounding.

    Returns:
        FiniteTimeField: `exponents` (*batch, k), `time` (*batch), `x0`, a status for each state.

    Raises:
        InputError: k is not within 1 … dim, or a count is not positive.
        HorizonError: `settle + steps` exceeds the steps the system can take.
    Limits: carries the whole Jacobian, (*batch, dim, dim) numbers. ln σ_i is right to about 1e-12 per step for all i, however
        far the σ_i are apart. A direction that a step erases is −∞, behind all others; of these, those more than 30 nats below
        the erased one are right to about a nat.
    Source: Shadden, Lekien & Marsden 2005, Physica D 212, 271 (flows); Storm et al. 2024, Phys. Rev. Lett. 132, 057301 (networks).
    """
    check_system_type(system)
    steps = default_steps(system, settle) if steps is None else steps
    check_steps(system, settle=settle, steps=steps)
    for name, value in (("steps", steps), ("every", every), ("k", k)):
        check_whole(name, value)
        if value < 1:
            raise InputError(f"{name} is {value}; it is at least 1.")
    most = min(system.width(settle), system.width(settle + steps))
    if k > most:
        raise InputError(f"k is {k} but this {type(system).__name__} has {most} numbers: there are no more exponents.")
    check_seed(seed)
    front = in_one_width(begin(system, x0, seed=seed, one_width=False)).advance(settle)
    start, begun, first = front.x, front.time, front.n
    product = Product.of(start, seed)
    while front.n < first + steps:
        front, product = _block(front, product, min(every, first + steps - front.n), k)
    time = torch.as_tensor(front.time - begun, dtype=start.dtype, device=start.device).expand(start.shape[:-1]).clone()
    exponents = product.log_singular_values()[..., :k] / time[..., None]
    failed = (front.failed_at >= 0) | exponents.isnan().any(-1)
    return FiniteTimeField(
        codes=torch.where(failed, Status.DIVERGED, Status.OK).to(torch.int8),
        exponents=exponents.where(~failed[..., None], torch.nan),
        x0=start[..., : system.width(settle)].clone(),
        time=time,
        settings={"steps": steps, "k": k, "settle": settle, "every": every, "seed": seed, "clock": system.clock},
    )


def _block(front: Front, product: Product, steps: int, k: int) -> tuple[Front, Product]:
    """Some steps with one factorisation behind them; in halves where the k leading tangents would lose each other."""
    ahead = front.with_tangents(product.frame).advance(steps)
    longer = product.times(ahead.v)
    if steps == 1 or not _parts(product, longer, k):
        return ahead, longer
    return _block(*_block(front, product, steps // 2, k), steps - steps // 2, k)


def _parts(before: Product, after: Product, k: int) -> bool:
    growth = (after.log - before.log)[..., :k]
    apart = growth.amax(-1) - growth.amin(-1) > PARTED
    return bool((apart | (before.alive & ~after.alive)[..., :k].any(-1)).any())
