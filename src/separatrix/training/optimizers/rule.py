"""What the map of an optimiser is: a function of numbers, applied to each parameter alone."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

Slots = dict[str, Tensor]
Settings = SimpleNamespace
Update = Callable[[Tensor, Tensor, Slots, Settings], tuple[Tensor, Slots]]


@dataclass(frozen=True)
class Rule:
    r"""The map of an optimiser on each number of the parameters,  (p, g, state) ↦ (p', state').

    Args:
        update: `update(p, g, state, o)` returns the next p and the next state, a dictionary with the keys of `state`. p, the
            gradient g and the tensors of the state have one shape, and each number is mapped alone. g already contains weight decay
            that is coupled, and its sign is that of a descent. `o` holds the options of the parameter group by their names in
            `torch.optim` (`o.lr`, `o.betas`, …) and the step `o.t`, counted from 1. What the update is divided by, if it depends
            on gradients, goes through `o.scale`, which returns it unchanged: `sx.curvature` reads it there, and holds it fixed to
            find the edge of stability.
        slots: the tensors of the optimiser's state, by name, for the options of a group. Default: none.
        start: their value before the first step. Default: 0.
        counted: the numbers in the optimiser's state after `o.t` steps. Default: the step.
        timed: whether the map depends on the step `o.t`. Default: it does.

    Example:
        >>> def signs(p, g, state, o):
        ...     return p - o.lr * g.sign(), {}
        >>> sx.tables.OPTIMIZERS["my_package.SignDescent"] = sx.training.Rule(signs)  # for optimisers of that class
        >>> del sx.tables.OPTIMIZERS["my_package.SignDescent"]
    """

    update: Update
    slots: Callable[[Settings], tuple[str, ...]] = lambda o: ()
    start: Callable[[Settings], float] = lambda o: 0.0
    counted: Callable[[Settings], dict[str, float]] = lambda o: {"step": o.t}
    timed: Callable[[Settings], bool] = lambda o: True


def options(group: dict[str, Any]) -> dict[str, Any]:
    """The options of a parameter group, with tensors as numbers."""
    return {name: _plain(value) for name, value in group.items() if name not in ("params", "param_names")}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    return float(value) if isinstance(value, Tensor) else value


def descended(p: Tensor, g: Tensor, o: Settings) -> Tensor:
    """The gradient that an optimiser follows: −g if it ascends, with coupled weight decay added."""
    decay = coupled_decay(o)
    return sign(o) * g + decay * p if decay else sign(o) * g


def sign(o: Settings) -> float:
    """1 for a descent, −1 for an ascent."""
    return -1.0 if getattr(o, "maximize", False) else 1.0


def coupled_decay(o: Settings) -> float:
    """The weight decay that is part of the gradient."""
    return 0.0 if getattr(o, "decoupled_weight_decay", False) else getattr(o, "weight_decay", 0.0)


def free_decay(o: Settings) -> float:
    """The weight decay that is not part of the gradient."""
    return o.weight_decay if getattr(o, "decoupled_weight_decay", False) else 0.0


def decayed(p: Tensor, o: Settings) -> Tensor:
    """The parameters after weight decay that is not part of the gradient."""
    decay = free_decay(o)
    return (1 - o.lr * decay) * p if decay else p


def root(v: Tensor) -> Tensor:
    """√v; its derivative at 0, where a weight has had no gradient, is 0. Below 0, where no optimiser comes, √|v|."""
    size = v.abs()
    return torch.where(size > 0, size, 1.0).sqrt().where(size > 0, 0.0)
