"""The options of an optimiser at each step, constant or read from a learning-rate scheduler."""

import copy
import warnings
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError, UnsupportedModuleError
from separatrix.training.optimizers.rule import options


class Constant:
    """The options of each parameter group, the same at all steps."""

    horizon: int | None = None

    def __init__(self, optimizer: Optimizer) -> None:
        self.rows = [read(optimizer)]

    def __call__(self, n: int) -> list[dict[str, Any]]:
        """The options of each group at step n."""
        return self.rows[0]


class Scheduled(Constant):
    """The options of each parameter group from a scheduler. A copy of it, with a copy of the optimiser's options, is stepped.

    Args:
        optimizer: the optimiser.
        schedule: a scheduler of that optimiser, at its own place in the schedule.
        every: number of steps of the optimiser between two of the scheduler.
    """

    def __init__(self, optimizer: Optimizer, schedule: Any, every: int) -> None:
        check_schedule(optimizer, schedule)
        self.every = check_whole("schedule_every", every, 1)
        super().__init__(optimizer)
        self.schedule = copy_of(schedule)
        total = getattr(schedule, "total_steps", None)  # of OneCycleLR, which refuses further steps
        self.horizon = None if total is None else max((total - schedule.last_epoch) * self.every, 0)

    def __call__(self, n: int) -> list[dict[str, Any]]:
        """The options of each group at step n."""
        while len(self.rows) <= n // self.every:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the copy of the optimiser takes no steps
                self.schedule.step()
            self.rows.append(read(self.schedule.optimizer))
        return self.rows[n // self.every]


def read(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The options of each parameter group; the start of Adagrad's sums is that of the optimiser's defaults, as in PyTorch."""
    defaults = {name: optimizer.defaults[name] for name in ("initial_accumulator_value",) if name in optimizer.defaults}
    return [options(group) | defaults for group in optimizer.param_groups]


def check_schedule(optimizer: Optimizer, schedule: Any) -> None:
    """Refuse what is no scheduler, whose rates depend on more than the step, or that belongs to another optimiser."""
    if isinstance(schedule, ReduceLROnPlateau):
        raise UnsupportedModuleError(
            "ReduceLROnPlateau sets the rate by the loss, not by the step, so that it has no table of rates.\n"
            "Leave it out: the rate then stays what it is in the optimiser now."
        )
    if not isinstance(schedule, LRScheduler):
        raise UnsupportedModuleError(
            f"expected a scheduler of torch.optim.lr_scheduler as schedule, got a {type(schedule).__name__}."
        )
    if schedule.optimizer is not optimizer:
        raise InputError(f"the {type(schedule).__name__} belongs to another optimiser.\nPass the scheduler of this one.")


def copy_of(schedule: LRScheduler) -> LRScheduler:
    """A copy of a scheduler, with its optimiser but without parameters and their state."""
    optimizer = schedule.optimizer
    memo: dict[int, Any] = {id(p): torch.empty(0) for group in optimizer.param_groups for p in group["params"]}
    memo[id(optimizer.state)] = {}
    return copy.deepcopy(schedule, memo)
