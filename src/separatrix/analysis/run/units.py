"""In which units states are counted: the sizes that they have, not those that numbers happen to have."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from separatrix.core.checks import as_numbers
from separatrix.core.derived import InUnit
from separatrix.core.errors import InputError
from separatrix.core.evolve import Front

MIXED = 1e3  # times as large as another: numbers of a state that are not of one size
LEAST = 1e-3  # of where orbits begin: where they come to is not smaller for a tolerance


def as_scale(scale: Any, x: Tensor) -> Tensor | None:
    """The scale asked for, one size for each number of the states x, (dim); None where none was."""
    if scale is None:
        return None
    values, dim = as_numbers("scale", scale).to(x), x.shape[-1]
    if values.shape not in ((), (dim,)) or not bool((torch.isfinite(values) & (values > 0)).all()):
        raise InputError(
            f"scale is {values.tolist()}; it is a positive number, or one for each of the {dim} numbers of the state.\n"
            "Leave it out to have it taken from the states."
        )
    return values.expand(dim).clone()


def filled(size: Tensor) -> Tensor:
    """Sizes, with the largest in the place of those that are 0; 1 where all are."""
    largest = size.amax()
    return torch.where(size > 0, size, largest if largest > 0 else torch.ones_like(largest))


def typical(states: Tensor) -> Tensor:
    """The median size of each number of some states, (*batch, dim), of those that are finite and not 0; 0 where none is."""
    sizes = states.reshape(-1, states.shape[-1]).abs()
    return sizes.where((sizes > 0) & sizes.isfinite(), torch.nan).nanmedian(0).values.nan_to_num(0.0)


def mixed_sizes(*states: Tensor) -> Tensor | None:
    """A size for each number of the state, a power of 2, where these differ much; None where one does for all."""
    size = filled(torch.stack([typical(each) for each in states]).amax(0))
    return power_of_two(size) if float(size.amax() / size.amin()) > MIXED else None


def power_of_two(size: Tensor) -> Tensor:
    """The nearest: division by it changes no digit."""
    return torch.exp2(size.log2().round())


def overall(before: Tensor, after: Tensor) -> float:
    """The size of the states that orbits come to, but not above that of where they began, nor below a thousandth of it."""
    start, end = (float(typical(each.abs().amax(-1, keepdim=True))) for each in (before, after))
    if not start:
        return end or 1.0
    return min(max(end, LEAST * start), start)


def in_units(front: Front, sizes: Tensor) -> Front:
    """The same front with each number of the state in a unit of its own."""
    return replace(front, system=InUnit(front.system, sizes), x=front.x / sizes)
