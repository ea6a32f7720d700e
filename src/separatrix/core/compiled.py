"""Compiled systems: a step and its pushforward as one kernel.

A small system is computed component by component, so that the pass in `core/fusion.py` can turn a step into a single loop over the
batch.
"""

from types import FunctionType

import torch
from torch import Tensor

from separatrix.core.components import batch_innermost, components
from separatrix.core.derived import Derived
from separatrix.core.system import System
from separatrix.core.tangent import leave_uncompiled

FEW = 8  # largest dim that is computed component by component


class Compiled(Derived):
    """A system whose step and pushforward are compiled by `torch.compile`: for small systems in large batches.

    The first two steps of a run take seconds each to compile; torch caches the result on disk for the next process.

    Args:
        system: any system whose step can be traced: no branch on the values of the state. Tangents by AD are not compiled.

    Example:
        >>> lorenz = sx.Compiled(sx.classic.lorenz63())  # compiled when it runs
        >>> lorenz.dim, lorenz.dt, lorenz.continuous
        (3, 0.01, True)
    """

    def __init__(self, system: System) -> None:
        super().__init__(system, horizon=system.horizon)
        leave_uncompiled()
        options = {}
        if system.dim <= FEW:
            from separatrix.core.fusion import SinkSelections  # not above: the compiler takes a second to import

            options = {"post_grad_custom_pre_pass": SinkSelections()}
        self._step = torch.compile(_own(_step_in_components), options=options)
        self._pushforward = torch.compile(_own(_pushforward_in_components), options=options)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return self._step(self.system, batch_innermost(x), n)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        if self._tangents.is_first(x, v):
            self.system.pushforward(x, v[..., :1, :], n)  # compares the derivative with the step, which compiled code cannot
        return self._pushforward(self.system, batch_innermost(x), batch_innermost(v), n)


def _own(function: FunctionType) -> FunctionType:
    """A copy with its own code object: the compiler allows 8 recompilations for each, and no system uses up another's."""
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


def _step_in_components(system: System, x: Tensor, n: int) -> Tensor:
    return _restacked(system.step(x, n))


def _pushforward_in_components(system: System, x: Tensor, v: Tensor, n: int) -> tuple[Tensor, Tensor]:
    x, v = system.pushforward(x, v, n)
    return _restacked(x), _restacked(v)


def _restacked(x: Tensor) -> Tensor:
    """The same state, taken apart and stacked again, so that the compiler sees a small state's components one by one."""
    return components(*x.unbind(-1)) if x.shape[-1] <= FEW else x
