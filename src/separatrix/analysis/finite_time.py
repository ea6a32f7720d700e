"""Finite-time Lyapunov exponents as a field over initial states: where neighbours part, and where they stay together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from separatrix.errors import InputError
from separatrix.evolve import begin, check_seed, check_steps, check_system_type, check_whole, in_one_width
from separatrix.orthonormal import lengths, orthonormalise, resolution
from separatrix.result import Result, Status
from separatrix.system import System
from separatrix.wording import counted, plain

ENOUGH_TIME = 10  # units of time of a default run
NEAR = 8  # nats between singular values beyond which they are taken apart
SWEEPS = 5  # after which what couples them is below e^(−8·9)

# Note [Singular values of a long product]
# σ_i/σ_1 falls below rounding after a few dozen nats, so J_T itself shows no more than its leading ones. Its factors do:
# with tangents as rows, v J = R Q at each QR (R lower triangular), so that J_T = e^D-graded triangular times orthonormal. The
# product of the R is kept as D U: D the logarithms of a diagonal, U triangular with 1 on its diagonal and well conditioned,
# because the frame, random at first, turns so that D descends. QR of Uᵀ and a rescaling give the next D U, of the transpose,
# without a large number (a step of the QR algorithm for J Jᵀ, in logarithms): U tends to 1 like (σ_j/σ_i)^(2·sweeps). Values
# that lie near each other would take long, and are left to an SVD in which all that is far away is brought to e^±8.


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

    layout: ClassVar[dict[str, str]] = {"exponents": "batch k", "x0": "batch dim", "time": "batch"}
    units: ClassVar[dict[str, str]] = {"exponents": "nats per unit time", "time": "the system's unit of time"}

    def summary(self) -> str:
        """How many, over what time, and from where to where."""
        leading = self.exponents[..., 0]
        known = leading[self.codes == Status.OK]
        lost = self.codes.numel() - known.numel()
        if not known.numel():
            return f"finite-time exponents of {counted(lost, 'state')}, all of which diverged"
        low, middle, high = (plain(float(value)) for value in (known.min(), known.median(), known.max()))
        told = f"leading finite-time exponent of {counted(known.numel(), 'state')} over a time {plain(float(self.time.max()))}: "
        told += f"{low} … {high}, median {middle} nats per unit time"
        return told + (f" ({lost} diverged)" if lost else "")


def grid(low: Sequence[float], high: Sequence[float], counts: Sequence[int]) -> Tensor:
    """The points of a box at equal distances, ends included, float64, shape (*counts, dim); axis i is coordinate i.

    Args:
        low, high: the box's corners, dim numbers each.
        counts: points along each coordinate; 1 stays at `low`.

    Raises:
        InputError: the three are not equally long, or a count is below 1.
    """
    if not len(low) == len(high) == len(counts) > 0:
        raise InputError(f"a grid needs as many low as high ends and counts, not {len(low)}, {len(high)} and {len(counts)}.")
    if any(not isinstance(count, int) or count < 1 for count in counts):
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
        every: steps between two factorisations; more is faster, and loses what parts by more than 10¹⁰ in so many.
        seed: of the initial state and of the frame, on which the result depends only by rounding.

    Returns:
        FiniteTimeField: `exponents` (*batch, k), `time` (*batch), `x0`, a status for each state.

    Raises:
        InputError: k is not within 1 … dim, or a count is not positive.
        HorizonError: `settle + steps` exceeds the steps the system can take.
    Limits: carries the whole Jacobian, (*batch, dim, dim) numbers. ln σ_i is right to about 1e-12 per step for all i, however
        far the σ_i are apart; a direction that a step erases is −∞, and those after it.
    Source: Shadden, Lekien & Marsden 2005, Physica D 212, 271 (flows); Storm et al. 2024, Phys. Rev. Lett. 132, 057301 (networks).
    """
    check_system_type(system)
    steps = _default_steps(system, settle) if steps is None else steps
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
    product = _Product.of(start, seed)
    while front.n < first + steps:
        front = front.with_tangents(product.frame).advance(min(every, first + steps - front.n))
        product = product.times(front.v)
    time = torch.as_tensor(front.time - begun, dtype=start.dtype, device=start.device).expand(start.shape[:-1]).clone()
    exponents = product.log_singular_values()[..., :k] / time[..., None]
    failed = (front.failed_at >= 0) | exponents.isnan().any(-1)
    return FiniteTimeField(
        codes=torch.where(failed, Status.DIVERGED, Status.OK).to(torch.int8),
        exponents=exponents.where(~failed[..., None], torch.nan),
        x0=start[..., : system.width(settle)].clone(),
        time=time,
        settings={"steps": steps, "k": k, "settle": settle, "every": every, "seed": seed},
    )


def _default_steps(system: System, settle: int) -> int:
    wanted = max(round(ENOUGH_TIME / system.dt), 1)
    return wanted if system.horizon is None else max(system.horizon - settle, 1)


@dataclass(frozen=True)
class _Product:
    """A product of Jacobians as e^D U times an orthonormal frame. See Note [Singular values of a long product].

    Args:
        frame: (*batch, dim, dim), orthonormal rows.
        log: (*batch, dim), D.
        unit: (*batch, dim, dim), U, upper triangular with 1 on its diagonal.
        rank: (*batch), directions not yet lost.
    """

    frame: Tensor
    log: Tensor
    unit: Tensor
    rank: Tensor

    @staticmethod
    def of(x: Tensor, seed: int) -> "_Product":
        """The empty product at the states x, with one random frame for all."""
        dim = x.shape[-1]
        draw = torch.randn(dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        frame = torch.linalg.qr(draw)[0].to(x).expand(*x.shape[:-1], dim, dim)
        unit = torch.eye(dim, dtype=x.dtype, device=x.device).expand_as(frame)
        return _Product(frame, torch.zeros_like(x), unit, torch.full(x.shape[:-1], dim, device=x.device))

    def times(self, v: Tensor) -> "_Product":
        """The product after the frame was pushed to v."""
        frame, log_r = orthonormalise(v)
        lost = log_r.isneginf()
        least = torch.finfo(v.dtype).tiny
        floor = (resolution(v) * lengths(v)).clamp(min=least).log()
        log = self.log + log_r.where(~lost, floor)
        upper = (v @ frame.mT).mT.triu(1) * _above(self.log, log).exp()
        upper = upper + torch.diag_embed(torch.ones_like(log))
        rank = torch.minimum(self.rank, (~lost).sum(-1))
        return _Product(frame, log, upper @ self.unit, rank)

    def log_singular_values(self) -> Tensor:
        """All ln σ_i, descending; NaN where the product is not finite."""
        log, unit = self.log, self.unit
        finite = torch.isfinite(log).all(-1) & torch.isfinite(unit).all(-1).all(-1)
        eye = torch.eye(log.shape[-1], dtype=log.dtype, device=log.device)
        log, unit = log.where(finite[..., None], 0.0), unit.where(finite[..., None, None], eye)
        for _ in range(SWEEPS):
            log, unit = _turned(log, unit)
        parts = [_singular_value_near(log, unit, i) for i in range(log.shape[-1])]
        values = torch.stack(parts, dim=-1).sort(-1, descending=True).values
        index = torch.arange(log.shape[-1], device=log.device)
        return values.where(index < self.rank[..., None], -torch.inf).where(finite[..., None], torch.nan)


def _turned(log: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """D U → the D' U' of its transpose, up to a rotation: with Uᵀ = Q S, Uᵀ D = Q D' U'."""
    s = torch.linalg.qr(unit.mT)[1]
    diagonal = s.diagonal(dim1=-2, dim2=-1)
    scaled = (s / diagonal[..., None]).triu(1) * _above(log, log).exp()
    return log + diagonal.abs().log(), scaled + torch.diag_embed(torch.ones_like(log))


def _above(column: Tensor, row: Tensor) -> Tensor:
    """D_j − D_i above the diagonal, and 0 elsewhere, where its exponential might overflow."""
    return (column[..., None, :] - row[..., :, None]).triu(1)


def _singular_value_near(log: Tensor, unit: Tensor, i: int) -> Tensor:
    """Ln of that singular value of D U which takes the place of D_i."""
    apart = log - log[..., i : i + 1]
    place = (apart > 0).sum(-1, keepdim=True) + (apart[..., :i] == 0).sum(-1, keepdim=True)
    values = torch.linalg.svdvals(apart.clamp(-NEAR, NEAR).exp()[..., None] * unit)
    return values.gather(-1, place)[..., 0].log() + log[..., i]
