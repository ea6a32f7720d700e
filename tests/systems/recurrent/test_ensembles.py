"""An ensemble is its networks one by one, whatever they call their weights and whatever else they keep."""

import functools

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx
from separatrix.core.errors import UnsupportedModuleError


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.hidden_size = 3, 4
        self.read, self.w = nn.Linear(3, 4), nn.Linear(4, 4)


class Meeting(Base):
    """Names that a dot, an underscore or a slash apart are one."""

    def __init__(self) -> None:
        super().__init__()
        self.w_weight = nn.Parameter(torch.randn(4, 4))
        self.at = nn.Parameter(torch.randn(4))
        self.register_buffer("read_bias", torch.randn(4))

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.read(u) + self.w(h) + h @ self.w_weight + self.at * h + self.read_bias)


class Bound(Base):
    """Bound methods, partials and closures in its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = self._body
        self.table = {"body": functools.partial(self._body, scale=0.5)}
        self.turn = lambda h: self.w(h)

    def _body(self, h: Tensor, scale: float = 1.0) -> Tensor:
        return scale * self.turn(h)

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.read(u) + self.body(h) + self.table["body"](h))


class Tied(Base):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(4, 4)
        self.again.weight = self.w.weight

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.read(u) + self.w(h) - 0.5 * self.again(h))


@pytest.mark.parametrize("kind", [Meeting, Bound, Tied])
def test_an_ensemble_is_its_networks_one_by_one(kind):
    torch.manual_seed(0)
    cells, u = [kind() for _ in range(3)], torch.randn(6, 3)
    together = sx.trajectory(sx.Recurrent(cells, u), steps=6)
    for i, cell in enumerate(cells):
        h = torch.zeros(1, 4, dtype=torch.float64)
        double = kind().double()
        double.load_state_dict(cell.state_dict())
        for n in range(6):
            h = double(u[n : n + 1].double(), h)
        assert torch.allclose(together[-1, i], h[0], rtol=1e-12)


def test_gradients_reach_every_network():
    cells = [Meeting() for _ in range(3)]
    sx.trajectory(sx.Recurrent(cells, torch.randn(6, 3)), steps=3)[-1].sum().backward()
    assert all(parameter.grad is not None for cell in cells for parameter in cell.parameters())


class Free(Base):
    """A cell with one more attribute, given from outside."""

    def __init__(self, extra: object) -> None:
        super().__init__()
        self._extra = extra

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(self.read(u) + self.w(h))


def _linear(value: float) -> nn.Linear:
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.weight, value)
    nn.init.zeros_(layer.bias)
    return layer


PAIRS = {
    "numbers": (0.1, 0.2),
    "numbers in a list": ([1, {"gain": 0.1}], [1, {"gain": 0.2}]),
    "functions": (torch.tanh, torch.relu),
    "functions of their own": (lambda x: x, lambda x: 2 * x),
    "tensors": (torch.tensor([1.0]), torch.tensor([2.0])),
    "layers in a list": ([_linear(1.0)], [_linear(2.0)]),
    "partials": (functools.partial(torch.clamp, min=0.0), functools.partial(torch.clamp, min=1.0)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_networks_that_keep_something_else_are_no_ensemble(name):
    """Only what is registered gets an axis of networks: anything else would be the first one's for all."""
    one, other = PAIRS[name]
    with pytest.raises(UnsupportedModuleError, match=r"differ in the plain attribute _extra"):
        sx.Recurrent([Free(one), Free(other)], torch.randn(6, 3))
    sx.Recurrent([Free(one), Free(one)], torch.randn(6, 3))
