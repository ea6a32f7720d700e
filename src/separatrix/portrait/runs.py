"""The calls of a core sorted into runs: in each, the state is carried from one call to the next."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from separatrix.core.structure import leaves
from separatrix.portrait.recording import Call
from separatrix.systems.recurrent.custom_cell import flatten


def runs_of(calls: Sequence[Call]) -> list[list[Call]]:
    """The calls sorted into runs: a call that received the last state of a run belongs to it; otherwise it starts a new run."""
    runs: list[list[Call]] = []
    for call in calls:
        run = next((run for run in reversed(runs) if _carried(run[-1], call)), None)
        if run is None:
            runs.append([call])
        else:
            run.append(call)
    return runs


def _carried(before: Call, after: Call) -> bool:
    """Whether a call received the state that another returned, alone or with an output."""
    returned = before.returned
    second = returned[1] if isinstance(returned, tuple) and len(returned) == 2 else None
    return after.state is not None and any(same_state(after.state, state) for state in (second, returned) if state is not None)


def same_state(one: Any, two: Any) -> bool:
    """Whether two states hold the same numbers in the same order, whatever their containers and axes of length 1."""
    pairs = list(zip_longest(leaves(one), leaves(two)))
    return bool(pairs) and all(a is not None and b is not None and _same_numbers(a, b) for a, b in pairs)


def _same_numbers(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.numel() == b.numel() and torch.equal(a.reshape(-1), b.reshape(-1))


def is_zero(state: Any) -> bool:
    """Whether a state is absent, or all of its numbers are zero."""
    return state is None or not any(bool(part.any()) for part in flatten(state))
