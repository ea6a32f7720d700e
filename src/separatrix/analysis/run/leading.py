"""Leading singular values of long products of Jacobians from products with J and Jᵀ, for states whose Jacobian is too large."""

import math
import warnings
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from separatrix.analysis.run.product import Product
from separatrix.analysis.run.tangent_run import random_frame
from separatrix.core.evolve import Front
from separatrix.core.memory import check_memory
from separatrix.core.orthonormal import lengths, orthonormalise
from separatrix.core.progress import watched_count
from separatrix.core.randomness import torch_generator
from separatrix.core.system import System
from separatrix.core.wording import counted

WHOLE = 512  # numbers in a state up to which the whole Jacobian is carried, which then takes less time
PROBES = 16  # random tangents from which the Frobenius norm is estimated
MORE = 1  # directions of a block beyond those asked for
ROWS = 8  # rows of all lags up to which a step mostly takes the time of reading its weights
SWEEPS, GRADED_SWEEPS = 32, 12  # most sweeps
TOL = 1e-2  # residual at which a singular value has converged, relative to it; the value itself is more exact
GRADED = {torch.float64: 1e-6, torch.float32: 1e-2}  # σ_i/σ_1 below which rounding spoils σ_i in a block of one scale
SLOWEST = 0.95  # largest ratio of two changes that is extrapolated
ADJOINT = 1 / 3  # power of the round-off up to which ⟨w, J v⟩ and ⟨Jᵀ w, v⟩ may differ

# Note [Leading values]
# k random tangents do not show the leading singular values of J. Block Lanczos iteration does: a sweep pulls the images of a block
# back with Jᵀ, adds what is new to the subspaces of the sweeps before, and takes the singular values of J on all of them; then it
# pushes the leading right vectors forwards. The residual ‖J v − σ u‖ is the error, since Jᵀ u = σ v exactly. All lags are swept
# together, as many rows of one product, and each until it has converged: short lags, whose values lie close together, take most
# sweeps and fewest steps. Rows keep length 1 and the logarithm of what they would have; the block of each lag has one scale.
# That scale drowns values far below σ_1 in rounding. They come from subspace iteration with QR at each step, whose factors are
# kept in logarithms (see Note [Singular values of a long product]), and which converges like (σ_{i+1}/σ_i)² a sweep.
# ‖J‖_F² is Σ ‖J v_i‖² of the leading right vectors plus what J makes of random tangents without these directions.
# Source: Golub, Luk & Overton 1981, ACM Trans. Math. Softw. 7, 149; Meyer et al. 2021, Hutch++, SOSA (the norm).


@dataclass(frozen=True)
class Leading:
    """What sweeps found of the products over each lag.

    Args:
        logs: (lag, *batch, k), ln σ_i, descending; NaN if the orbit diverges before.
        error: (lag, *batch, k), the residual: a singular value lies within about this of each, nats.
        log_frobenius, log_frobenius_stderr: (lag, *batch), ln ‖J‖_F and its standard error over random tangents.
    """

    logs: Tensor
    error: Tensor
    log_frobenius: Tensor
    log_frobenius_stderr: Tensor

    @property
    def unsure(self) -> Tensor:
        """Whether a value of an item has not converged, (*batch)."""
        return (self.error > TOL).any(-1).any(0)


class Orbit:
    """The states of an orbit before each step, at which Jacobians are applied to rows and their transposes pull rows back.

    Rows have shape (*batch, lag, p, dim); those of a lag are carried through its first steps. They keep length 1; the logarithms
    of their growth, (*batch, lag, p), are float64.
    """

    def __init__(self, front: Front, steps: int, label: str, progress: bool) -> None:
        check_memory("the orbit", float(steps) * front.x.numel(), front.x, "Pass fewer steps or fewer initial states.")
        self.system, self.begun = front.system, front.n
        self.fronts = [front]
        for _ in watched_count(steps, label, progress):
            self.fronts.append(self.fronts[-1].advance(1))

    def forwards(self, rows: Tensor, lags: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Rows times J of each lag, and the logarithms of their growth."""
        rows, logs = rows.clone(), torch.zeros(rows.shape[:-1], dtype=torch.float64, device=rows.device)
        for n in range(lags[-1]):
            self._carry(n, rows, logs, lags, forwards=True)
        return rows, logs

    def backwards(self, rows: Tensor, lags: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Rows times Jᵀ of each lag, and the logarithms of their growth."""
        rows, logs = rows.clone(), torch.zeros(rows.shape[:-1], dtype=torch.float64, device=rows.device)
        for n in reversed(range(lags[-1])):
            self._carry(n, rows, logs, lags, forwards=False)
        return rows, logs

    def at_lags(self, rows: Tensor, lags: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The same rows, (*batch, p, dim), times J of each lag, and the logarithms of their growth."""
        rows, logs = rows[..., None, :, :], torch.zeros(rows[..., None, :, 0].shape, dtype=torch.float64, device=rows.device)
        images, grown = [], []
        for begun, lag in pairwise((0, *lags)):
            rows, logs = rows.clone(), logs.clone()
            for n in range(begun, lag):
                self._carry(n, rows, logs, (lag,), forwards=True)
            images.append(rows)
            grown.append(logs)
        return torch.cat(images, dim=-3), torch.cat(grown, dim=-2)

    def _carry(self, n: int, rows: Tensor, logs: Tensor, lags: tuple[int, ...], *, forwards: bool) -> None:
        """Carry the rows of all lags beyond n across step n, in place."""
        first = bisect_right(lags, n)
        part = rows[..., first:, :, :]
        flat = part.flatten(-3, -2)
        moved = (self.pushed(n, flat) if forwards else self.pulled(n, flat)).unflatten(-2, part.shape[-3:-1])
        size = lengths(moved)
        torch.div(moved, size.where(size > 0, 1.0)[..., None], out=part)
        logs[..., first:, :] += size.double().log()

    def pushed(self, n: int, rows: Tensor) -> Tensor:
        """Rows (*batch, p, dim) across step n by J."""
        return self.system.pushforward(self.fronts[n].x, rows, self.begun + n)[1]

    def pulled(self, n: int, rows: Tensor) -> Tensor:
        """Rows (*batch, p, dim) back across step n by Jᵀ."""
        return pulled_back(self.system, self.fronts[n].x, rows, self.begun + n)


def pulled_back(system: System, x: Tensor, w: Tensor, n: int) -> Tensor:
    """w ↦ J(x)ᵀ w for rows (*batch, p, dim), from the graph of one step at x."""
    with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*batching rule.*")
        state = x.detach().clone().requires_grad_()
        after, rows = system.step(state, n), w.clone().movedim(-2, 0)
        try:
            (pulled,) = torch.autograd.grad(after, state, rows, is_grads_batched=True, retain_graph=True)
        except RuntimeError:  # an operator whose backward vmap refuses
            pulled = torch.stack([torch.autograd.grad(after, state, row, retain_graph=True)[0] for row in rows])
    return pulled.detach().movedim(0, -2)


def suits_sweeps(front: Front, k: int) -> bool:
    """Whether k singular values are to be found by sweeps: of many, for a large state, with gradients that are J's transpose."""
    dim = front.x.shape[-1]
    return dim > WHOLE and 4 * k <= dim and has_adjoint(front)


def _block_size(k: int, lags: tuple[int, ...]) -> int:
    return max(k + MORE, ROWS // len(lags))


def has_adjoint(front: Front) -> bool:
    """Whether the gradient of the step is the transpose of its pushforward, tried at the start of a run."""
    x = front.x
    generator = torch_generator(0, "trial of a transpose")
    v, w = (torch.randn(x.shape, dtype=torch.float64, generator=generator).to(x)[..., None, :] for _ in range(2))
    pushed = front.system.pushforward(x, v, front.n)[1]
    try:
        pulled = pulled_back(front.system, x, w, front.n)
    except RuntimeError:  # no graph from the state to the next one
        return False
    bound = torch.finfo(x.dtype).eps ** ADJOINT * (lengths(pushed) * lengths(w) + lengths(pulled) * lengths(v))
    return bool((((w * pushed).sum(-1) - (pulled * v).sum(-1)).abs() <= bound).all())


def leading_values(orbit: Orbit, lags: tuple[int, ...], k: int, seed: int) -> Leading:
    """The k leading singular values over each lag, at least 1 and increasing, and the Frobenius norm. See Note [Leading values].

    Raises:
        InputError: the rows of all lags do not fit into the memory.
    """
    x = orbit.fronts[0].x
    p = _block_size(k, lags)
    check_memory(
        f"k = {k} directions at {counted(len(lags), 'lag')}",
        (2.0 * PROBES + 16.0 * p) * len(lags) * x.numel(),
        x,
        "Pass fewer lags, a smaller k or fewer initial states.",
    )
    starts = max(2 * p, ROWS)  # none of which is a probe, so that the subspaces do not depend on the probes
    frame = random_frame(x, starts + PROBES, seed)
    images, grown = orbit.at_lags(frame, lags)
    alive = images.isfinite().all(-1).all(-1) & (grown < torch.inf).all(-1)
    scale = grown.amax(-1).nan_to_num(0.0, 0.0, 0.0)
    images = _rescaled(images, grown, scale, alive)
    block = _lanczos(orbit, lags, _strongest(images[..., :starts, :], p), scale, alive, k)
    frobenius, stderr = _frobenius(images[..., starts:, :], frame[..., starts:, :], block)
    values, error = block.values[..., :k], block.error[..., :k]
    logs = values.log() + scale[..., None]
    low = (values <= GRADED[x.dtype] * values[..., :1]) & (values[..., :1] > 0)
    for i, lag in enumerate(lags):
        if bool(low[..., i, :].any()):
            graded, change = _graded(orbit, lag, block.right[..., i, :, :], k)
            logs[..., i, :] = graded.where(low[..., i, :], logs[..., i, :])
            error[..., i, :] = change.where(low[..., i, :], error[..., i, :])
    logs, error = (part.where(alive[..., None], torch.nan).to(x).movedim(-2, 0) for part in (logs, error))
    frobenius, stderr = (part.where(alive, torch.nan).to(x).movedim(-1, 0) for part in (frobenius + scale, stderr))
    return Leading(logs.sort(-1, descending=True).values, error, frobenius, stderr)


@dataclass
class _Block:
    """Leading right vectors v of each lag, J v, and the singular values with their residuals; all of one scale per lag.

    Args:
        values, error: (*batch, lag, p), float64.
        right, image: (*batch, lag, p, dim).
    """

    values: Tensor
    error: Tensor
    right: Tensor
    image: Tensor


def _lanczos(orbit: Orbit, lags: tuple[int, ...], image: Tensor, scale: Tensor, alive: Tensor, k: int) -> _Block:
    """Block Lanczos iteration from images of random directions, (*batch, lag, p, dim), each lag until it has converged."""
    dtype, p = image.dtype, image.shape[-2]
    numbers = torch.zeros(image.shape[:-1], dtype=torch.float64, device=image.device)
    block = _Block(numbers, numbers.clone(), torch.zeros_like(image), torch.zeros_like(image))
    ranges, active = _Ranges.empty(image), torch.arange(len(lags), device=image.device)
    for sweep in range(SWEEPS):
        left, own = tuple(lags[i] for i in active.tolist()), (scale[..., active], alive[..., active])
        fresh = new_directions(ranges.left, image)
        ranges = ranges.widened(fresh, _rescaled(*orbit.backwards(fresh, left), *own))
        u, values, right = ranges.triplets(p)
        image = _rescaled(*orbit.forwards(right, left), *own)
        residual = lengths(image - values[..., None].to(dtype) * u).double()
        residual = (residual / values.where(values > 0, 1.0)).where(values > 0, 0.0)
        block.values[..., active, :], block.error[..., active, :] = values, residual
        block.right[..., active, :, :], block.image[..., active, :, :] = right, image
        known = (residual <= TOL) | (values <= GRADED[dtype] * values[..., :1])
        more = ~known[..., :k].all(-1).flatten(0, -2).all(0) if known.ndim > 2 else ~known[..., :k].all(-1)
        if sweep == 0:
            continue
        if ranges.complete or not bool(more.any()):
            break
        active, ranges, image = active[more], ranges.of(more), image[..., more, :, :]
    return block


@dataclass(frozen=True)
class _Ranges:
    """A partial factorisation  left J = middle right,  where left and right have orthonormal rows.

    Args:
        left, right: (*batch, lag, m, dim).
        middle: (*batch, lag, m, m), float64.
    """

    left: Tensor
    middle: Tensor
    right: Tensor

    @staticmethod
    def empty(image: Tensor) -> "_Ranges":
        none = image[..., :0, :]
        return _Ranges(none, none[..., :0].double(), none)

    @property
    def complete(self) -> bool:
        """Whether the left vectors span the whole space."""
        return self.left.shape[-2] == self.left.shape[-1]

    def widened(self, fresh: Tensor, pulled: Tensor) -> "_Ranges":
        """The factorisation extended by orthonormal rows and by Jᵀ times these."""
        beyond = new_directions(self.right, pulled)
        known, new = ((pulled @ basis.mT).double() for basis in (self.right, beyond))
        above = torch.nn.functional.pad(self.middle, (0, beyond.shape[-2]))
        middle = torch.cat([above, torch.cat([known, new], dim=-1)], dim=-2)
        return _Ranges(torch.cat([self.left, fresh], dim=-2), middle, torch.cat([self.right, beyond], dim=-2))

    def triplets(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The leading left vectors, singular values and right vectors, vectors as rows."""
        u, values, vt = torch.linalg.svd(self.middle, full_matrices=False)
        u, vt = u.mT[..., :count, :].to(self.left), vt[..., :count, :].to(self.left)
        return u @ self.left, values[..., :count], vt @ self.right

    def of(self, kept: Tensor) -> "_Ranges":
        """The factorisation of some of the lags, by a mask."""
        return _Ranges(*(part[..., kept, :, :] for part in (self.left, self.middle, self.right)))


def new_directions(basis: Tensor, rows: Tensor) -> Tensor:
    """Orthonormal rows, orthogonal to the basis, that extend it to a space containing the given rows, as far as there is room.

    Gram–Schmidt twice, which is enough (Giraud et al. 2005, Numer. Math. 101, 87) unless a row lies in the span of the basis. Then
    Householder QR of both together completes the basis with an arbitrary direction.
    """
    m, width = basis.shape[-2:]
    rest = rows[..., : width - m, :]
    for _ in range(2):
        rest = rest - (rest @ basis.mT) @ basis
    fresh = torch.linalg.qr(rest.mT)[0].mT
    if m and bool(((fresh @ basis.mT).abs() > 1e3 * torch.finfo(rows.dtype).eps).any()):
        fresh = torch.linalg.qr(torch.cat([basis, rest], dim=-2).mT)[0].mT[..., m:, :]
    return fresh


def _rescaled(rows: Tensor, logs: Tensor, scale: Tensor, alive: Tensor) -> Tensor:
    """Rows of length 1 with the lengths e^(logs − scale), of one scale per lag; 0 after an orbit has diverged."""
    return (rows * (logs - scale[..., None]).exp().to(rows)[..., None]).where(alive[..., None, None], 0.0)


def _strongest(images: Tensor, p: int) -> Tensor:
    """The p combinations of images that are longest, (*batch, lag, p, dim)."""
    _, vectors = torch.linalg.eigh((images @ images.mT).double())
    return vectors[..., -p:].mT.flip(-2).to(images) @ images


def _frobenius(images: Tensor, probes: Tensor, block: _Block) -> tuple[Tensor, Tensor]:
    """ln ‖J‖_F from the leading right vectors and, without these, random tangents; and its standard error."""
    along = probes[..., None, :, :] @ block.right.mT
    rest = images - along @ block.image
    squares = (rest.shape[-1] - along.shape[-1]) * rest.double().square().sum(-1) / (1 - along.double().square().sum(-1))
    total = block.image.double().square().sum((-2, -1)) + squares.mean(-1)
    error = squares.std(-1) / math.sqrt(squares.shape[-1])
    return total.log() / 2, (error / total.where(total > 0, 1.0)) / 2


def _graded(orbit: Orbit, lag: int, frame: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """ln σ_i over one lag by subspace iteration from orthonormal rows, and its change in the last sweep, (*batch, k)."""
    logs = change = torch.full_like(frame[..., :k, 0], torch.inf)
    for _ in range(GRADED_SWEEPS):
        product = Product.of_frame(frame)
        for n in range(lag):
            product = product.times(orbit.pushed(n, product.frame))
        before, last = logs, change
        logs = product.log_singular_values(k)
        change = (logs - before).abs().where(logs != before, 0.0)
        ratio = (change / last.where(last > 0, 1.0)).clamp(max=SLOWEST)
        if bool((change * ratio / (1 - ratio) <= TOL / 10).logical_or(change.isnan()).all()):
            break
        frame = product.frame
        for n in reversed(range(lag)):
            frame = orthonormalise(orbit.pulled(n, frame))[0]
    return logs.double(), change.double()
