"""What a certificate may cost, planned from sizes alone, so that a network gets the same certificate on every machine.

Note [Effort]
Proofs to 3 · 10⁻⁶ of each norm and a search from 9 starts suit small networks. A ResNet-18 at 224 pixels would take ten minutes
that way, for digits that a product of twenty norms does not need. So the cost of the tight proofs, and of a pass, is estimated first;
where it is too large, each norm is proven to 1 % by the cheapest way, and the search is shorter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from separatrix.bounds.operator_norm.proof import TIGHT, Effort
from separatrix.core.tangent import plain_kernels

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


def planned_search(flops: float) -> Search:
    """The search for a network of which one pass takes so many floating-point operations."""
    if PASSES * flops <= SEARCH:
        return Search()
    steps = min(max(int(SEARCH / (SHORT_PASSES * flops)), FEWEST), Search.steps)
    return Search(starts=3, steps=steps, kept=1, sweeps=2 * steps)


def flops_of(network: nn.Module, shape: Sequence[int], device: torch.device) -> float:
    """Floating-point operations of one pass; 0 if it cannot be counted."""
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), plain_kernels(), counter:
            network(torch.zeros(1, *shape, dtype=torch.float64, device=device))
    except Exception:  # user code, at an input of its own choice
        return 0.0
    return float(counter.get_total_flops())


def planned_proofs(nodes: Sequence[torch.fx.Node]) -> Effort:
    """Tight or coarse proofs, by what the tight ones of all convolutions would cost together."""
    return TIGHT if sum(map(_proof_flops, nodes)) <= PROOFS else COARSE


def _proof_flops(node: torch.fx.Node) -> float:
    """Of the proof for one convolution on a torus of its size, about; other operators are cheap beside it."""
    name = getattr(getattr(node.target, "_schema", None), "name", "")
    values = [_value(argument) for argument in (*node.args[:2], node)]
    if not name.startswith("aten::conv") or any(value is None for value in values):
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
