"""The steepest slope of a map, found by gradient ascent: a lower bound of its Lipschitz constant."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.bounds.certificate.effort import Search
from separatrix.core.ending import stoppable, why_ended
from separatrix.core.errors import UnsupportedModuleError
from separatrix.core.randomness import torch_generator
from separatrix.core.tangent import plain_kernels, pullback, pushforward

SCALES = (0.1, 1.0, 10.0)  # of random starts: the root mean square of their numbers
# Of the two points, by turns over the starts, relative to the start's size: wide smooths kinks, near sees spikes.
DISTANCES = (0.3, 0.01)
STRIDE = 0.3  # of the start, relative to its size
LAST = 0.1  # of the distance and the stride, that is left of them at the end
NARROWED = 3  # what part of the steps all starts are given
SETTLED = 1e-10  # where Lanczos' iteration ends: relative rise of σ² in a sweep
AGREEMENT = 1e-6  # by which a derivative may differ from the difference quotient, relative; else the quotient counts
SAFETY = 10.0  # times the unit round-off, what a network may add to its output

NO_DERIVATIVE = (UnsupportedModuleError, RuntimeError, NotImplementedError)
"""What PyTorch raises where no derivative goes through: then quotients alone are measured."""

Function = Callable[[Tensor], Tensor]

# Note [Quotients prove]
# ‖f(a) − f(b)‖ / ‖a − b‖ is a lower bound of the Lipschitz constant for any f; a derivative is one only if autograd differentiates
# what is computed, which `detach` and handwritten backward passes can break. So the derivative is checked against a quotient at the
# end. The ascent uses quotients, not derivatives: after ReLUs the Jacobian is piecewise constant and has no slope to ascend.


@dataclass(frozen=True)
class Ascent:
    """One step of the ascent from all starts.

    Args:
        quotient: (starts), ‖f(x + δu/2) − f(x − δu/2)‖ / δ.
    """

    quotient: Tensor
    steps: int = 1


class Steepest:
    """Pairs of points that climb together, and the steepest of them.

    Args:
        f: maps (count, dim) to (count, width), each row separately.
        x: starts, (count, dim).
        seed: seed of the directions.
        search: number of steps, of starts that go on after the first of them, and of sweeps of Lanczos' iteration.
    """

    def __init__(self, f: Function, x: Tensor, seed: int, search: Search) -> None:
        self.f, self.x, self.search = f, x, search
        random = torch_generator(seed, "directions of an ascent")
        self.u = _unit(torch.randn(x.shape, dtype=x.dtype, generator=random).to(x.device))
        self.size = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=0.1 * x.shape[-1] ** 0.5)
        turns = [DISTANCES[i // len(SCALES) % len(DISTANCES)] for i in range(len(x))]
        self.apart = self.size * x.new_tensor(turns)[:, None]
        self.best = x.new_full((len(x),), -1.0)
        self.kept = (self.x, self.u)

    def climb(self) -> Iterator[Ascent]:
        """Gradient ascent of the quotient in x and u, with two points that approach each other."""
        steps = self.search.steps
        for n in range(steps):
            if n == steps // NARROWED:
                self._narrow()
            share = LAST ** (n / max(steps - 1, 1))
            quotient, along_x, along_u = self._slopes(share * self.apart)
            self._keep(quotient)
            self.x = self.x + STRIDE * share * self.size * _unit(along_x)
            self.u = _unit(torch.where(along_u.abs().amax(-1, keepdim=True) > 0, along_u, self.u))
            yield Ascent(quotient)

    def _slopes(self, distance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with plain_kernels(), torch.enable_grad():
            x, u = (value.detach().requires_grad_() for value in (self.x, self.u))
            ends = self.f(torch.cat([x + distance * u / 2, x - distance * u / 2]))
            first, second = ends.chunk(2)
            quotient = torch.linalg.vector_norm(first - second, dim=-1) / distance[:, 0]
            known = quotient.isfinite() & (quotient > 0)
            if not ends.requires_grad or not known.any():
                return quotient.detach(), torch.zeros_like(x), torch.zeros_like(x)
            try:
                along = torch.autograd.grad(quotient[known].sum(), (x, u), allow_unused=True, materialize_grads=True)
            except (RuntimeError, NotImplementedError):  # no derivative goes through: quotients at the starts alone
                along = (torch.zeros_like(x), torch.zeros_like(x))
        return quotient.detach(), along[0].nan_to_num(0.0), along[1].nan_to_num(0.0)

    def _keep(self, quotient: Tensor) -> None:
        better = quotient.nan_to_num(-1.0, posinf=-1.0) > self.best
        self.best = torch.where(better, quotient, self.best)
        self.kept = tuple(torch.where(better[:, None], new, old) for new, old in zip((self.x, self.u), self.kept, strict=True))

    def _narrow(self) -> None:
        """Only the best starts go on."""
        best = self.best.argsort(descending=True)[: self.search.kept]
        self.x, self.u, self.size, self.apart, self.best = (
            part[best] for part in (self.x, self.u, self.size, self.apart, self.best)
        )
        self.kept = tuple(part[best] for part in self.kept)

    @torch.no_grad()
    def polished(self) -> tuple[Tensor, Tensor, Tensor]:
        """The leading singular pair of the Jacobian at the points of the best starts: points, right vectors, σ.

        Source: Golub & Van Loan 2013, Matrix Computations, §10.1, Lanczos on JᵀJ, each direction orthogonal to all before it.
        """
        x, u = (kept[self.best.argsort(descending=True)[: self.search.kept]] for kept in self.kept)
        basis, images = u[:, None], u[:, None][:, :0]
        ritz = x.new_zeros(len(x))
        for _ in range(min(self.search.sweeps, x.shape[-1])):
            image = self._gram(x, basis[:, -1])
            images = torch.cat([images, image[:, None]], 1)
            values, vectors = torch.linalg.eigh(_symmetric(basis @ images.mT))
            u = (vectors[:, None, :, -1] @ basis)[:, 0]
            before, ritz = ritz, values[:, -1]
            if (ritz <= before * (1 + SETTLED)).all():
                break
            following = _unit(_off(basis, _off(basis, image)))
            basis = torch.cat([basis, following[:, None]], 1)
        u = _unit(u)
        return x, u, torch.linalg.vector_norm(pushforward(self.f, x, u[:, None])[1][:, 0], dim=-1).nan_to_num(0.0)

    def _gram(self, x: Tensor, u: Tensor) -> Tensor:
        """v ↦ JᵀJ v."""
        pushed = pushforward(self.f, x, u[:, None])[1].nan_to_num(0.0, 0.0, 0.0)
        with plain_kernels():
            return pullback(self.f, x, pushed)[1][:, 0].nan_to_num(0.0, 0.0, 0.0)


def lower_bound(f: Function, steepest: Steepest, unit: float) -> float:
    """The largest slope found, confirmed by a difference quotient on one item. See Note [Quotients prove].

    Args:
        f: the map.
        steepest: the pairs after their ascent.
        unit: round-off of the lowest precision in f.
    """
    x, u = steepest.kept
    i = int(steepest.best.argmax())
    pairs = [(x[i], u[i], 0.0)]
    with stoppable(), contextlib.suppress(*NO_DERIVATIVE):
        if why_ended():
            return borne_out(f, *pairs[0], unit)
        at, along, sigma = steepest.polished()
        i = int(sigma.argmax())
        pairs.append((at[i], along[i], float(sigma[i])))
    return max(borne_out(f, *pair, unit) for pair in pairs)


@torch.no_grad()
def borne_out(f: Function, x: Tensor, u: Tensor, sigma: float, unit: float) -> float:
    """σ or the quotient at a small distance, if they agree; otherwise the quotient, less the possible rounding error."""
    distance = unit ** (1 / 3) * max(float(torch.linalg.vector_norm(x)), 1.0)
    a, b = x + distance / 2 * u, x - distance / 2 * u
    first, second = f(a[None])[0], f(b[None])[0]
    between = float(torch.linalg.vector_norm(a - b))
    if between == 0:  # a network that draws random numbers may give no direction; coinciding points prove nothing
        return 0.0
    quotient = float(torch.linalg.vector_norm(first - second)) / between
    rounding = SAFETY * unit * float(torch.linalg.vector_norm(first) + torch.linalg.vector_norm(second)) / between
    if not math.isfinite(quotient):
        return 0.0
    return min(quotient, sigma) if abs(quotient - sigma) <= AGREEMENT * sigma + rounding else max(quotient - rounding, 0.0)


def _unit(v: Tensor) -> Tensor:
    return v / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)


def _off(basis: Tensor, v: Tensor) -> Tensor:
    """What of v, (count, dim), is orthogonal to the rows of (count, k, dim)."""
    return v - ((v[:, None] @ basis.mT) @ basis)[:, 0]


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2
