"""Finite-time Lyapunov exponents as a field over initial states: where neighbours separate and where they stay together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from separatrix.analysis.run.leading import TOL, Orbit, leading_values, suits_sweeps
from separatrix.analysis.run.product import Product
from separatrix.analysis.run.steps import default_steps
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import InputError
from separatrix.core.evolve import Front, begin, check_steps, check_system_type, in_one_width
from separatrix.core.memory import check_whole_jacobian
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, plain

SPREAD = 23  # nats, 10¹⁰: maximum ratio of the growth of two tangents between two factorisations


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FiniteTimeField(Result):
    r"""Finite-time Lyapunov exponents of each initial state over a time T:  λ_i = (1/T) ln σ_i(J_T).

    Args:
        exponents: (*batch, k), nats per unit time, descending; −∞ for a direction that is erased.
        x0: (*batch, dim), the states at the start of T.
        time: (*batch), T.
    """

    exponents: Tensor
    x0: Tensor
    time: Tensor

    drawn_by: ClassVar[str] = "separatrix.plot.finite_time_field:finite_time_field_figure"
    layout: ClassVar[dict[str, str]] = {"exponents": "batch k", "x0": "batch dim", "time": "batch"}
    units: ClassVar[dict[str, str]] = {"exponents": "nats per unit time", "time": "units of time", "x0": "the state's unit"}

    def summary(self) -> str:
        """The number of states, the time, and the range of the leading exponent."""
        leading = self.exponents[..., 0][self.codes == Status.OK]
        diverged = self.codes.numel() - leading.numel()
        if not leading.numel():
            return f"finite-time exponents of {counted(diverged, 'state')}: all diverged"
        low, middle, high = (plain(float(value)) for value in (leading.min(), leading.median(), leading.max()))
        states = f"{counted(leading.numel(), 'state')} over a time of {plain(float(self.time.max()))}"
        ended = f" ({diverged} diverged)" if diverged else ""
        return f"leading finite-time exponent of {states}: {low} … {high}, median {middle} nats per {self.clock}{ended}"


def grid(low: Sequence[float], high: Sequence[float], counts: Sequence[int]) -> Tensor:
    """An equally spaced grid over a box, ends included: float64, shape (*counts, dim); axis i is coordinate i.

    Args:
        low, high: the corners of the box, dim numbers each.
        counts: number of points along each coordinate; with 1, the coordinate is `low`.

    Raises:
        InputError: the three differ in length, an end is not finite, or a count is below 1.

    Example:
        >>> points = sx.grid((0, -1), (2, 1), (3, 5))
        >>> points.shape
        torch.Size([3, 5, 2])
        >>> points[2, 0].tolist()
        [2.0, -1.0]
    """
    try:
        low, high, counts = [float(a) for a in low], [float(b) for b in high], list(counts)
    except (TypeError, ValueError):
        raise InputError(f"low, high and counts must be sequences of numbers, got {low!r}, {high!r} and {counts!r}.") from None
    if not len(low) == len(high) == len(counts) > 0:
        raise InputError(f"low, high and counts must have equal lengths, got {len(low)}, {len(high)} and {len(counts)}.")
    if not all(map(math.isfinite, (*low, *high))):
        raise InputError(f"low and high must be finite, got {low} and {high}.")
    counts = [check_whole("a number of counts", count, 1) for count in counts]
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
    progress: bool = False,
    throw: bool = False,
) -> FiniteTimeField:
    r"""Finite-time Lyapunov exponents of each initial state:  λ_i = (1/T) ln σ_i(J_T),  J_T = ∂x_{n+steps}/∂x_n.

    Ridges of the leading exponent separate states with different fates: mixing regions of a flow, classes of a classifier. If
    the width of the system changes, J_T is rectangular, and dim is its smaller side.

    Args:
        system: any System.
        x0: initial states, shape (*batch, dim), such as `sx.grid(…)`. Default: `system.initial_state()`.
        steps: number of steps in T. Default: all the system can take, or 10 units of time.
        k: number of leading exponents, 1 … dim.
        settle: steps before T.
        every: steps between two factorisations, fewer if the growth of two tangents would differ by more than 10¹⁰.
        seed: seed of the initial state and of the frame; the frame changes the result only by rounding.
        progress: show a progress bar.
        throw: raise instead of marking items that diverged or did not converge.

    Returns:
        FiniteTimeField: `exponents` (*batch, k), `time` (*batch), `x0`, a status for each state.

    Raises:
        InputError: k is not in 1 … dim, or a count is not positive.
        HorizonError: `settle + steps` exceeds the steps the system can take.
        DivergedError: with `throw=True`.

    Limits: up to 512 numbers in the state, and for more than a quarter of the exponents, the full Jacobian is carried,
        (*batch, dim, dim) numbers: ln σ_i has an error of about 1e-12 per step for all i, however far apart the σ_i are. So it is
        if gradients are not the transpose of the tangents. Beyond that, k + 1 directions are swept forwards with J and backwards
        with Jᵀ until the residuals bound the errors of ln σ_i by 0.01 (mostly they are 1e-4); otherwise the item is
        `not_converged`. A direction that a step erases has −∞ and comes last; exponents more than 30 nats below it are accurate
        to about one nat.
    Source: Shadden, Lekien & Marsden 2005, Physica D 212, 271 (flows); Storm et al. 2024, Phys. Rev. Lett. 132, 057301 (networks).

    Example:
        >>> stretch = sx.Map(lambda x: x * torch.tensor([2.0, 0.5], dtype=x.dtype), dim=2)
        >>> field = sx.finite_time_lyapunov(stretch, sx.grid((-1, -1), (1, 1), (3, 3)), steps=10, k=2)
        >>> field.exponents[0, 0]  # ln 2 and −ln 2
        tensor([ 0.6931, -0.6931], dtype=torch.float64)
    """
    check_system_type(system)
    steps = default_steps(system, settle) if steps is None else steps
    check_steps(system, settle=settle, steps=steps)
    for name, value in (("steps", steps), ("every", every), ("k", k)):
        check_whole(name, value, 1)
    most = min(system.width(settle), system.width(settle + steps))
    if k > most:
        raise InputError(f"k is {k} but this {type(system).__name__} has only {counted(most, 'exponent')}.")
    check_seed(seed)
    front = in_one_width(begin(system, x0, seed=seed, one_width=False)).advance(settle)
    start, begun = front.x, front.time
    if suits_sweeps(front, k):
        orbit = Orbit(front, steps, "Finite-time exponents", progress)
        front, found = orbit.fronts[-1], leading_values(orbit, (steps,), k, seed)
        logs, error = found.logs[0], found.error[0]
    else:
        check_whole_jacobian(start, 4, f"Pass a smaller k, at most {most // 4}.")
        product = Product.of(start, seed)
        for tick in watched_count(math.ceil(steps / every), "Finite-time exponents", progress):
            front, product = _block(front, product, min(every, steps - tick.index * every), k)
        logs, error = product.log_singular_values(k), torch.zeros((), dtype=start.dtype)
    time = torch.as_tensor(front.time - begun, dtype=start.dtype, device=start.device).expand(start.shape[:-1]).clone()
    exponents = logs / time[..., None]
    failed = (front.failed_at >= 0) | exponents.isnan().any(-1)
    codes = torch.where((error > TOL).any(-1), Status.NOT_CONVERGED, Status.OK).masked_fill(failed, Status.DIVERGED)
    found = FiniteTimeField(
        codes=codes.to(torch.int8),
        exponents=exponents.where(~failed[..., None], torch.nan),
        x0=start[..., : system.width(settle)].clone(),
        time=time,
        settings={"steps": steps, "k": k, "settle": settle, "every": every, "seed": seed, "clock": system.clock},
    )
    return found.or_raise(throw)


def _block(front: Front, product: Product, steps: int, k: int) -> tuple[Front, Product]:
    """Several steps followed by one factorisation, in halves if the growth of the k leading tangents differs too much."""
    ahead = front.with_tangents(product.frame).advance(steps)
    longer = product.times(ahead.v)
    if steps == 1 or not _spreads(product, longer, k):
        return ahead, longer
    return _block(*_block(front, product, steps // 2, k), steps - steps // 2, k)


def _spreads(before: Product, after: Product, k: int) -> bool:
    growth = (after.log - before.log)[..., :k]
    spread = growth.amax(-1) - growth.amin(-1) > SPREAD
    return bool((spread | (before.alive & ~after.alive)[..., :k].any(-1)).any())
