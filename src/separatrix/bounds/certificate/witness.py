"""A second measurement beside the ascent: whole Jacobians at many points and scales, and pairs of distant points."""

import torch
from torch import Tensor

from separatrix.bounds.certificate.steepest import Function, borne_out
from separatrix.core.errors import SeparatrixError
from separatrix.core.randomness import torch_generator
from separatrix.core.tangent import plain_kernels

SIZES = (1e-6, 1e-3, 0.1, 1.0, 10.0, 1e3)  # root mean squares of the places
ROWS, ENTRIES = 64, 1 << 20  # of all Jacobians: passes backwards, and numbers kept
NEAR = 1e-3  # distance of two near points, relative
KEPT = 4  # places whose leading singular vectors are tried


def dense_lower_bound(f: Function, x: Tensor, unit: float) -> float:
    """The largest quotient along leading right singular vectors of Jacobians, each from an SVD, or of two points of one size.

    Args:
        f: maps (count, dim) to (count, width), each row separately.
        x: any input, (count, dim).
        unit: round-off of the lowest precision in f.
    """
    places = _places(x[:1])
    far = _largest(f, [places], [places.roll(1, 0)], unit)
    return max([far, *(borne_out(f, place, u, sigma, unit) for place, u, sigma in _leading(f, places))])


def quotients(f: Function, x: Tensor, unit: float) -> float:
    """The largest quotient over pairs of distant and nearby points, without derivatives; 0 if f fails at all of them."""
    random = torch_generator(0, "pairs of points")
    places = torch.cat([_places(x[:1]), x])
    along = torch.randn(places.shape, dtype=x.dtype, generator=random).to(x.device)
    steps = [NEAR * places.abs().amax(-1, keepdim=True).clamp(min=1.0) * one for one in (along, places.sign())]
    return _largest(f, [places] * 3, [places.roll(1, 0), *(places + step for step in steps)], unit)


def _largest(f: Function, ones: list[Tensor], others: list[Tensor], unit: float) -> float:
    pairs = zip(torch.cat(ones), torch.cat(others), strict=True)
    return max((_quotient(f, a, b, unit) for a, b in pairs if bool((a != b).any())), default=0.0)


def _places(x: Tensor) -> Tensor:
    """0, constants, one nonzero component, and random points of all scales."""
    random = torch_generator(0, "places of Jacobians")
    ones, one = torch.ones_like(x), torch.zeros_like(x)
    one[:, 0] = 1.0
    drawn = [size * torch.randn(x.shape, dtype=x.dtype, generator=random).to(x.device) for size in SIZES for _ in range(2)]
    return torch.cat([0 * ones, ones, -ones, one, *drawn])


def _leading(f: Function, places: Tensor) -> list[tuple[Tensor, Tensor, float]]:
    """Points, directions and singular values; empty if the Jacobians are too large or f is not differentiable."""
    with torch.no_grad():
        width = f(places[:1]).shape[-1]
    if width > ROWS or width * places.numel() > ENTRIES:
        return []
    with plain_kernels(), torch.enable_grad():
        at = places.clone().requires_grad_()
        made = f(at)
        if not made.requires_grad:
            return []
        try:
            rows = [torch.autograd.grad(column.sum(), at, retain_graph=True)[0] for column in made.unbind(-1)]
        except (RuntimeError, NotImplementedError):
            return []
    jacobians = torch.stack(rows, 1).detach()
    sane = jacobians.isfinite().flatten(1).all(1)
    if not sane.any():
        return []
    places = places[sane]
    _, sigma, right = torch.linalg.svd(jacobians[sane], full_matrices=False)
    best = sigma[:, 0].argsort(descending=True)[:KEPT].tolist()
    return [(places[i], right[i, 0], float(sigma[i, 0])) for i in best]


@torch.no_grad()
def _quotient(f: Function, a: Tensor, b: Tensor, unit: float) -> float:
    """‖f(a) − f(b)‖ / ‖a − b‖, less the possible rounding error; 0 if f fails."""
    try:
        first, second = f(a[None])[0], f(b[None])[0]
    except SeparatrixError:
        raise
    except Exception:  # the user's code, at one of these inputs
        return 0.0
    between = float(torch.linalg.vector_norm(a - b))
    rounding = 10 * unit * float(torch.linalg.vector_norm(first) + torch.linalg.vector_norm(second))
    found = (float(torch.linalg.vector_norm(first - second)) - rounding) / between
    return found if 0 < found < float("inf") else 0.0
