"""What a certificate may cost, planned from sizes alone, so that a network gets the same certificate on every machine.

Note [Effort]
Proofs to 3 · 10⁻⁶ of each norm and a search from 9 starts suit small networks. A ResNet-18 at 224 pixels would take ten minutes
that way, for digits that a product of twenty norms does not need. So the cost of the tight proofs, and of a pass, is estimated
first; where it is too large, each norm is proven to 1 % by the cheapest way, and the search is shorter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from separatrix.bounds.operator_norm.proof import TIGHT, Effort

COARSE = Effort(2e11, 1e-2)
"""About four seconds for a proof on one core."""
PROOFS = 1.5e12
"""Floating-point operations of all tight proofs together, above which the coarse ones are taken."""
FIELDS, ITERATIONS = 32, 16
"""Of a typical proof by counting on a torus."""
SEARCH = 1e12
"""Floating-point operations of a whole search, above which it is shortened."""
PASSES = 2000
"""Of the network, for a search with 9 starts, 30 steps and 60 sweeps from the best 3."""
SHORT_PASSES, FEWEST = 60, 4
"""For each step of a search with 3 starts, of which the best goes on, and two sweeps for a step; and its steps at least."""

PRODUCTS = {"linear", "matmul", "mm", "bmm"}


@dataclass(frozen=True)
class Search:
    """Size of the ascent.

    Args:
        starts: number of random starts.
        steps: number of steps.
        kept: number of starts that go on after a third of the steps, and from which the leading singular vector is sought.
        sweeps: maximum number of steps of that search.
    """

    starts: int = 9
    steps: int = 30
    kept: int = 3
    sweeps: int = 60


def _planned_search(nodes: Sequence[torch.fx.Node]) -> Search:
    """Long or short, by what a pass costs."""
    flops = 2.0 * sum(map(_multiplications, nodes))
    if PASSES * flops <= SEARCH:
        return Search()
    steps = min(max(int(SEARCH / (SHORT_PASSES * flops)), FEWEST), Search.steps)
    return Search(starts=3, steps=steps, kept=1, sweeps=2 * steps)


@dataclass(frozen=True)
class Plan:
    """What the proof of each norm may cost, and the size of the ascent."""

    proofs: Effort
    search: Search


def planned(nodes: Sequence[torch.fx.Node]) -> Plan:
    """For a network of these operators; as for a small one if they are not known."""
    return Plan(_planned_proofs(nodes), _planned_search(nodes))


def _planned_proofs(nodes: Sequence[torch.fx.Node]) -> Effort:
    """Tight or coarse proofs, by what the tight ones of all convolutions would cost together."""
    return TIGHT if sum(map(_proof_flops, nodes)) <= PROOFS else COARSE


def _multiplications(node: torch.fx.Node) -> float:
    """Of a convolution, a product of matrices or an attention; other operators take little beside them."""
    name, values = _name(node), [_value(argument) for argument in node.args[:2]]
    made, first, second = _value(node), *(values if len(values) == 2 else (None, None))
    if made is None or first is None or second is None:
        return 0.0
    if name.startswith("conv"):
        return float(second.numel() * prod((first if "transpose" in name else made).shape[2:]))
    if name in PRODUCTS:
        return float(made.numel() * first.shape[-1])
    return 2.0 * first.numel() * second.shape[-2] if name == "scaled_dot_product_attention" else 0.0


def _proof_flops(node: torch.fx.Node) -> float:
    """Of the proof for one convolution on a torus of its size, about; other operators are cheap beside it."""
    name, values = _name(node), [_value(argument) for argument in (*node.args[:2], node)]
    if not name.startswith("conv") or any(value is None for value in values):
        return 0.0
    image, kernel, made = (tuple(value.shape) for value in values if value is not None)
    fine, coarse = (made, image) if "transpose" in name else (image, made)
    if set(kernel[2:]) == {1}:
        return 0.0
    groups = max(fine[1] // kernel[1], 1)
    strides = [max(round(size / out), 1) for size, out in zip(fine[2:], coarse[2:], strict=True)]
    rows, columns = kernel[0] // groups, kernel[1] * prod(strides)
    frequencies = prod(size + 1 for size in coarse[2:]) / 2
    return groups * 8.0 * frequencies * (rows + columns) ** 2 * (4 * min(rows, columns) + ITERATIONS * FIELDS)


def _value(argument: Any) -> Tensor | None:
    found = argument.meta.get("val") if isinstance(argument, torch.fx.Node) else None
    return found if isinstance(found, Tensor) else None


def _name(node: torch.fx.Node) -> str:
    return getattr(getattr(node.target, "_schema", None), "name", "").removeprefix("aten::")
