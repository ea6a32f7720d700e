"""Brackets of events: the first part of a step over which the sign changes in the given direction."""

from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.flows.events.root import crosses
from separatrix.flows.events.surface import Surface
from separatrix.flows.field import Field
from separatrix.flows.methods.solver import Solver
from separatrix.flows.steps.mesh import Mesh, Run
from separatrix.flows.steps.piece import Piece

PARTS = 8  # parts of a step at whose ends g is sampled
AT_ONCE = 1_000_000  # state components evaluated together


class Bracket(NamedTuple):
    """For each item: the step that contains its event, the bracket as fractions of that step, and whether there is an event."""

    step: Tensor
    low: Tensor
    high: Tensor
    found: Tensor


@torch.no_grad()
def first_bracket(field: Field, surface: Surface, method: Solver, run: Run, side: Tensor, direction: int) -> Bracket:
    """The first part of a step over which g changes sign in the given direction; steps are processed in chunks."""
    t, h = columns(run.mesh, run.nodes)
    items = len(side)
    step, part, found = torch.zeros_like(side, dtype=torch.int64), torch.zeros_like(side, dtype=torch.int64), side != side
    share = torch.arange(1, PARTS + 1, dtype=run.nodes.dtype, device=side.device).reshape(-1, 1, 1) / PARTS
    some = max(1, AT_ONCE // (PARTS * run.nodes[0].numel()))
    for first in range(0, len(t), some):
        chosen = slice(first, first + some)
        piece = Piece.of(method, field, run.nodes[:-1][chosen], t[chosen], h[chosen])
        piece = Piece(tuple(c[:, None] for c in piece.coefficients))
        signs = surface.value(piece.at(share), t[chosen, None] + share * h[chosen, None]).sign().reshape(-1, items)
        sides = _filled(side, signs)
        crossed = crosses(sides[:-1], signs, direction) & ~found
        here, place = crossed.any(0), crossed.to(torch.int8).argmax(0)
        step, part = torch.where(here, first + place // PARTS, step), torch.where(here, place % PARTS, part)
        found, side = found | here, sides[-1]
        if bool(found.all()):
            break
    low = part.to(run.nodes) / PARTS
    return Bracket(step, low, torch.where(found, low + 1 / PARTS, low), found)


def _filled(side: Tensor, signs: Tensor) -> Tensor:
    """The last nonzero sign before each sample, (times, items), and after the last one."""
    known = torch.cat([side[None], signs.nan_to_num(0.0)])
    index = torch.arange(len(known), device=known.device)[:, None].expand_as(known)
    return known.gather(0, torch.where(known != 0, index, 0).cummax(0).values)


def columns(mesh: Mesh, nodes: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Start times and lengths of all steps, each (steps, items, 1)."""
    t, h = (torch.stack([torch.as_tensor(step[i]) for step in mesh.steps]) for i in (0, 1))
    return t.to(nodes.device, dtype or nodes.dtype), h.to(nodes.device, dtype or nodes.dtype)
