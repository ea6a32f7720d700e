"""Units of the state, taken from the sizes that its components have along orbits."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from separatrix.core.checks import as_numbers
from separatrix.core.derived import InUnit
from separatrix.core.errors import InputError
from separatrix.core.evolve import Front

MIXED = 1e3  # ratio of sizes beyond which each component gets a unit of its own
LEAST = 1e-3  # minimum size where orbits end, relative to where they start


def as_scale(scale: Any, x: Tensor) -> Tensor | None:
    """The scale as one size per component of the states x, (dim); None if there is none."""
    if scale is None:
        return None
    values, dim = as_numbers("scale", scale).to(x), x.shape[-1]
    if values.shape not in ((), (dim,)) or not bool((torch.isfinite(values) & (values > 0)).all()):
        raise InputError(
            f"scale is {values.tolist()}; it must be a positive number, or one for each of the {dim} numbers of the state.\n"
            "Leave it out to take it from the states."
        )
    return values.expand(dim).clone()


def filled(size: Tensor) -> Tensor:
    """Sizes with zeros replaced by the largest; all 1 if all are zero."""
    largest = size.amax()
    return torch.where(size > 0, size, largest if largest > 0 else torch.ones_like(largest))


def typical(states: Tensor) -> Tensor:
    """The median of the finite, nonzero sizes of each component over states (*batch, dim); 0 if there are none."""
    sizes = states.reshape(-1, states.shape[-1]).abs()
    return sizes.where((sizes > 0) & sizes.isfinite(), torch.nan).nanmedian(0).values.nan_to_num(0.0)


def mixed_sizes(*states: Tensor) -> Tensor | None:
    """One size per component, a power of 2, if the components differ in size by more than 1000; otherwise None."""
    size = filled(torch.stack([typical(each) for each in states]).amax(0))
    return power_of_two(size) if float(size.amax() / size.amin()) > MIXED else None


def power_of_two(size: Tensor) -> Tensor:
    """The nearest power of 2: division by it is exact."""
    return torch.exp2(size.log2().round())


def overall(before: Tensor, after: Tensor) -> float:
    """The size of the states where orbits end, but at most that of where they start and at least a thousandth of it."""
    start, end = (float(typical(each.abs().amax(-1, keepdim=True))) for each in (before, after))
    if not start:
        return end or 1.0
    return min(max(end, LEAST * start), start)


def in_units(front: Front, sizes: Tensor) -> Front:
    """The same front with each component of the state in its own unit."""
    return replace(front, system=InUnit(front.system, sizes), x=front.x / sizes)
