"""The trial step is taken twice: what draws at random and what keeps state is refused by name, with both numbers."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import separatrix as sx
from separatrix.core.errors import InputError
from separatrix.testing import check_module_untouched


class Cell(nn.Module):
    """A leaky cell with noise in its step, as networks of neuroscience have it."""

    def __init__(self, noise: float = 0.05) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.noise = 3, 4, noise
        self.read, self.turn = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        return 0.8 * h + 0.2 * torch.tanh(self.read(u) + self.turn(h)) + self.noise * torch.randn_like(h)


RANDOM = {
    "a recurrent cell": lambda: sx.Recurrent(Cell(), torch.randn(9, 3)),
    "a cell's ensemble": lambda: sx.Recurrent([Cell(), Cell()], torch.randn(9, 3)),
    "a function": lambda: sx.Map(lambda x: x / 2 + torch.randn(3), 3),
    "dropout": lambda: sx.Map(lambda x: F.dropout(x + 1, training=True), 3),
    "noise that is zero at the start": lambda: sx.Map(lambda x: x * torch.rand(3), 3),
    "a flow": lambda: sx.Flow(lambda x: -x + torch.randn_like(x), 3, dt=0.1),
    "a system in another": lambda: sx.Iterate(sx.Map(lambda x: x / 2 + torch.randn(3), 3), 2),
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_step_that_draws_is_refused_and_told_how_to_be_held(name):
    system, before = RANDOM[name](), torch.get_rng_state()
    with pytest.raises(InputError, match=r"draws random numbers from PyTorch's global generator[\s\S]*sx\.Seeded[\s\S]*sx\.Noisy"):
        sx.trajectory(system, steps=2)
    assert torch.equal(torch.get_rng_state(), before)


class Own(sx.System):
    """What one's own system may keep."""

    def __init__(self, change: Callable[["Own"], Tensor | float]) -> None:
        super().__init__(2)
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("memory", torch.zeros(2, dtype=torch.float64))
        self.calls, self.past, self.change = 0, [], change
        self.draws, self.numpy = torch.Generator(), np.random.default_rng(0)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return x / 2 + self.change(self)


def _attribute(system: Own) -> float:
    system.calls += 1
    return 0.0


def _list(system: Own) -> float:
    system.past.append(1.0)
    return 0.0


STATEFUL = {
    "a buffer that counts": (lambda s: 0.0 * s.count.add_(1), "the buffer count of Own went from 1 to 2"),
    "a buffer that remembers": (lambda s: s.memory.add_(1.0), "it went to 1, then to 2"),
    "a buffer's data": (lambda s: 0.0 * s.count.data.add_(1), "the buffer count"),
    "an attribute": (_attribute, "the attribute calls of Own went from 1 to 2"),
    "a list": (_list, "the length of the attribute past of Own went from 1 to 2"),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_a_step_that_keeps_state_is_refused_and_the_system_left_alone(name):
    change, told = STATEFUL[name]
    system = Own(change)
    with pytest.raises(InputError, match=rf"keeps state besides x[\s\S]*{told}[\s\S]*function of \(x, n\)"):
        check_module_untouched(system, lambda: sx.trajectory(system, steps=2))
    assert system.calls == 0 and not system.past
    with pytest.raises(InputError, match="keeps state"):
        sx.trajectory(system, steps=2)
    assert system.count == 0 and system.memory.sum() == 0


OTHER = {
    "its own generator": (lambda s: torch.randn(2, generator=s.draws), "the generator the attribute draws of Own"),
    "its own of NumPy": (lambda s: s.numpy.normal(), "the generator the attribute numpy of Own"),
    "NumPy's": (lambda s: np.random.normal(), "NumPy's global generator"),  # noqa: NPY002
    "Python's": (lambda s: random.random(), "Python's global generator"),
}


@pytest.mark.parametrize("name", OTHER)
def test_draws_of_another_generator_are_told_apart_from_state(name):
    change, told = OTHER[name]
    with pytest.raises(InputError, match=f"draws random numbers from {told}"):
        sx.trajectory(Own(change), steps=2)


class Normed(nn.Module):
    """Batch statistics whatever the mode: each call writes to the running ones."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=True)


def test_running_statistics_are_state_and_stay_the_modules():
    module, x = Normed().double(), torch.randn(4, 3, dtype=torch.float64)
    with pytest.raises(InputError, match=r"the buffer function\.norm\.running_mean of BatchNorm1d went from"):
        check_module_untouched(module, lambda: sx.trajectory(sx.Map(module, 3), x, steps=2))


def _cached(x: Tensor, kept: dict[str, Tensor] = {}) -> Tensor:  # noqa: B006 - what it is a test of
    return x * kept.setdefault("half", torch.tensor(0.5))


PURE = {
    "dropout in evaluation mode": lambda: sx.Map(nn.Sequential(nn.Linear(3, 3), nn.Dropout()).train(), 3),
    "a cache that is filled once": lambda: sx.Map(_cached, 3),
    "draws that it seeds itself": lambda: sx.Map(lambda x: x / 2 + torch.randn(3, generator=torch.Generator().manual_seed(1)), 3),
    "a stream": lambda: sx.Recurrent(nn.GRU(2, 3), sx.Stream(torch.randn(5, 4, 2))),
    "noise by n": lambda: sx.Noisy(sx.Map(lambda x: x / 2, 3), 0.1),
    "held noise": lambda: sx.Seeded(sx.Map(lambda x: x / 2 + torch.randn(3), 3)),
}


@pytest.mark.parametrize("name", PURE)
def test_a_pure_step_passes_and_draws_nothing(name):
    system, before = PURE[name](), torch.get_rng_state()
    assert sx.trajectory(system, steps=3).isfinite().all()
    assert torch.equal(torch.get_rng_state(), before)
