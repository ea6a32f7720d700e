"""Systems whose step draws random numbers, with the draws held fixed: one realisation, which can be replayed."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from separatrix.core.checks import check_seed
from separatrix.core.derived import Derived
from separatrix.core.evolve import check_system_type
from separatrix.core.parametric import Parametric
from separatrix.core.randomness import drawing
from separatrix.core.system import System
from separatrix.core.twin import twin
from separatrix.systems.drives import Drive

Measure = Callable[[System, Tensor], Tensor]


class Seeded(Derived):
    r"""One realisation of a system whose step draws random numbers:  x_{n+1} = F(x_n, ξ_n),  ξ_n a function of n and a seed.

    Every draw of the step from PyTorch's global generators (`torch.randn_like`, `F.dropout(…, training=True)`, …) is the same
    whenever step n is taken, and the same for all items of a batch, as in `Noisy`. Exponents are those of the random dynamical
    system under one realisation. Tangents are exact: they follow the step with its draws held fixed. The global generators are
    left unchanged. A batch runs through `torch.func.vmap`, or item by item if the step does not support it.

    Args:
        system: any system whose step draws from PyTorch's global generators.
        seed: seed of the realisation.

    Limits: draws from other generators (the step's own, NumPy's or Python's) are not held fixed; a run then raises an error.
    Source: Arnold 1998, Random Dynamical Systems.

    Example:
        >>> held = sx.Seeded(sx.Map(lambda x: x + torch.randn_like(x), dim=2))
        >>> torch.equal(held.step(torch.zeros(2), 5), held.step(torch.zeros(2), 5))
        True
    """

    def __init__(self, system: System, seed: int = 0) -> None:
        check_system_type(system)
        super().__init__(system, horizon=system.horizon)
        self.seed = check_seed(seed)
        self._item_by_item = False

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The inner system's step, with the draws of step n."""
        return self._held(lambda system, y: system.step(y, n), x, n)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The step and its automatic derivative, with the draws of step n."""
        return self._tangents(lambda y: self.step(y, n), x, v)

    def residual(self, x: Tensor, n: int = 0) -> Tensor:
        """The inner system's residual, with the draws of step n."""
        return self._held(lambda system, y: system.residual(y, n), x, n)

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        """The inner system's initial state; its draws from global generators are a function of the seed."""
        with drawing(seed, "initial state of a seeded system"):
            return self.system.initial_state(batch, seed)

    def _held(self, measure: Measure, x: Tensor, n: int) -> Tensor:
        """A measurement of each item separately, all with the same draws."""
        own = self.system.batch_shape
        batch = np.broadcast_shapes(x.shape[:-1], own)
        items = x.expand(*batch, x.shape[-1]).reshape(-1, x.shape[-1])
        index = torch.arange(len(items), device=x.device)

        def one(y: Tensor, i: Tensor) -> Tensor:
            system = _item(twin(self.system), batch, i) if own else self.system
            return measure(system, y[None])[0]

        def drawn(function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
            with drawing(self.seed, "draws of a step", n):
                return function(*arguments)

        if len(items) > 1 and not self._item_by_item:
            try:
                return drawn(vmap(one, randomness="same"), items, index).reshape(*batch, -1)
            except Exception:  # user code may still work item by item; otherwise its own error is raised
                value = torch.stack([drawn(one, y, i) for y, i in zip(items, index, strict=True)])
                self.__dict__["_item_by_item"] = True
                return value.reshape(*batch, -1)
        return torch.stack([drawn(one, y, i) for y, i in zip(items, index, strict=True)]).reshape(*batch, -1)


class _OneOf(Drive):
    """Inputs of one item of a batch, with a batch axis of length 1.

    Args:
        drive: the inputs of all items.
        batch: batch shape of the run.
        item: index of the item in the flattened batch, shape ().
    """

    def __init__(self, drive: Drive, batch: tuple[int, ...], item: Tensor) -> None:
        super().__init__()
        self.source = drive
        self.batch, self.item, self.horizon = batch, item, drive.horizon

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """One item."""
        return (1,)

    def forward(self, n: int) -> Tensor:
        """The n-th input, shape (1, inputs)."""
        u = self.source(n)
        return _taken(u.expand(*self.batch, u.shape[-1]), len(self.batch), self.item)


def _item(system: System, batch: tuple[int, ...], item: Tensor) -> System:
    """A twin for one item of the batch: its parameters and inputs have a batch axis of length 1."""
    for part in list(system.modules()):
        if isinstance(part, Drive):
            continue
        for name, child in part._modules.items():
            if isinstance(child, Drive):
                part._modules[name] = _OneOf(child, batch, item)
        for name, rank in part._ranks.items() if isinstance(part, Parametric) else ():
            value = getattr(part, name)
            if isinstance(value, Tensor) and value.ndim > rank:
                own = value.shape[value.ndim - rank :]
                part.hold(rank=rank, **{name: _taken(value.expand(*batch, *own), len(batch), item)})
    return system


def _taken(values: Tensor, axes: int, item: Tensor) -> Tensor:
    """One item of a tensor with the given number of batch axes, as a batch of 1."""
    return values.flatten(0, axes - 1).index_select(0, item.reshape(1).to(values.device))
