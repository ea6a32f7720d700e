"""Zeros of scalar functions for many items at once: sign changes, and roots in brackets."""

from collections.abc import Callable

import torch
from torch import Tensor

SEARCH = 100  # maximum number of trials; bisection alone takes 50


def crosses(side: Tensor, now: Tensor, direction: int) -> Tensor:
    """Whether a sign has changed in the given direction. Reaching 0 counts as a change; values that are not finite do not.

    Args:
        side: the sign before; from 0 there is no change.
        now: the sign after.
        direction: +1 for rising, −1 for falling, 0 for both.
    """
    changed = (side != 0) & (now != side) & now.isfinite()
    return changed & (side == -direction) if direction else changed


def root(value: Callable[[Tensor], Tensor], ends: tuple[Tensor, Tensor], at_ends: tuple[Tensor, Tensor], near: Tensor) -> Tensor:
    """A zero in each item's bracket, by inverse quadratic interpolation where that is safe, else by bisection.

    Args:
        value: the function, from one point per item, shape (items), to its values.
        ends: a and b, shape (items); an item with a = b keeps them.
        at_ends: the values at both ends, of opposite signs.
        near: tolerance of the zero.
    Source: Chandrupatla 1997, Adv. Eng. Softw. 28, 145.
    """
    (a, b), (at_a, at_b) = ends, at_ends
    c, t = a, torch.full_like(a, 0.5)
    at_c = at_a
    best = torch.where(at_a.abs() < at_b.abs(), a, b)
    going = (a != b) & (at_b != 0)
    for _ in range(SEARCH):
        if not bool(going.any()):
            break
        x = a + t * (b - a)
        at_x = value(x)
        same = at_x.sign() == at_a.sign()
        c, at_c = torch.where(same, a, b), torch.where(same, at_a, at_b)
        b, at_b = torch.where(same, b, a), torch.where(same, at_b, at_a)
        a, at_a = x, at_x
        best = torch.where(going, torch.where(at_a.abs() < at_b.abs(), a, b), best)
        least = near / (b - c).abs()
        going = going & (least <= 0.5) & (at_a != 0) & (at_b != 0)
        t = _next_share(a, b, c, at_a, at_b, at_c).clamp(min=least, max=1 - least)
    return best


def _next_share(a: Tensor, b: Tensor, c: Tensor, at_a: Tensor, at_b: Tensor, at_c: Tensor) -> Tensor:
    """The relative position of the next trial from a to b: the root of the inverse parabola if it is monotone, else 1/2."""
    xi, phi = (a - b) / (c - b), (at_a - at_b) / (at_c - at_b)
    inverse = at_a / (at_b - at_a) * at_c / (at_b - at_c) + (c - a) / (b - a) * at_a / (at_c - at_a) * at_b / (at_c - at_b)
    return inverse.where((phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi), 0.5)
