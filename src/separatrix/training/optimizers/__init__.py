"""The maps of optimisers by name."""

from typing import Any

import torch
from torch.optim import Optimizer

from separatrix.core.errors import UnsupportedModuleError
from separatrix.training.optimizers.adagrad import ADAGRAD
from separatrix.training.optimizers.adam import ADAM
from separatrix.training.optimizers.nadam import NADAM
from separatrix.training.optimizers.rmsprop import RMSPROP
from separatrix.training.optimizers.rule import Rule
from separatrix.training.optimizers.sgd import SGD

OPTIMIZERS: dict[str, Rule] = {
    "SGD": SGD,
    "Adam": ADAM,
    "AdamW": ADAM,
    "NAdam": NADAM,
    "RMSprop": RMSPROP,
    "Adagrad": ADAGRAD,
}
"""By the name of the class in `torch.optim`; a class from elsewhere by its module and name, "package.module.Class"."""


def name_of(kind: type) -> str:
    """The name of an optimiser's class in `OPTIMIZERS`."""
    return kind.__name__ if getattr(torch.optim, kind.__name__, None) is kind else f"{kind.__module__}.{kind.__qualname__}"


def rule_of(optimizer: Any) -> Rule:
    """The map of an optimiser.

    Raises:
        UnsupportedModuleError: it is no optimiser, its map is not known, or it is more than a map of the gradient.
    """
    if not isinstance(optimizer, Optimizer):
        raise UnsupportedModuleError(f"expected an optimiser of torch.optim, got {_words(optimizer)}.")
    name = name_of(type(optimizer))
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UnsupportedModuleError(
            "LBFGS evaluates the loss several times in each step, through a closure: its step is not a map of one gradient.\n"
            f"Pass one of {', '.join(OPTIMIZERS)}."
        )
    if name not in OPTIMIZERS:
        raise UnsupportedModuleError(
            f"the map of the optimiser {name} is not known; known are {', '.join(OPTIMIZERS)}.\n"
            f'If it maps each number alone, write its map: sx.tables.OPTIMIZERS["{name}"] = sx.training.Rule(update, slots), where '
            "update(p, g, state, o) returns the next p and state. See sx.training.Rule."
        )
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        raise UnsupportedModuleError(
            f"this {name} has hooks that run at each step, which are not part of its map.\n"
            "Remove them, or write them into the map: see sx.training.Rule."
        )
    return OPTIMIZERS[name]


def _words(value: Any) -> str:
    return f"the class {value.__name__}: pass an instance" if isinstance(value, type) else f"a {type(value).__name__}"
