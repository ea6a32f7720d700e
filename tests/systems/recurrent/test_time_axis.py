"""Layers that give their step but do not say which axis is time are tried."""

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx
from separatrix.systems.recurrent.time_axis import reads_batch_first


class Leaky(nn.Module):
    """h' = 0.8 h + 0.2 tanh(W h + V u + b), looped by hand over one axis."""

    def __init__(self, axis: int, returns: str = "outputs") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.input_size, self.hidden_size, self.axis, self.returns = 3, 8, axis, returns
        self.cell = LeakyCell()

    def as_cell(self) -> nn.Module:
        return self.cell

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = x.new_zeros(x.shape[1 - self.axis], 8), []
        for u in x.unbind(self.axis):
            h = self.cell(u, h)
            outputs.append(h)
        return h if self.returns == "the last" else torch.stack(outputs, self.axis)


class LeakyCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.hidden_size = 3, 8
        self.u2h, self.h2h = nn.Linear(3, 8), nn.Linear(8, 8)

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        return 0.8 * h + 0.2 * torch.tanh(self.h2h(h) + self.u2h(u))


@pytest.mark.parametrize("returns", ["outputs", "the last"])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_axis_over_which_a_change_carries_on_is_time(axis, returns):
    layer, before = Leaky(axis, returns).train(), torch.get_rng_state()
    assert reads_batch_first(layer) == (axis == 1)
    assert layer.training and torch.equal(torch.get_rng_state(), before)


def test_what_a_layer_says_of_itself_is_not_tried():
    layer = Leaky(1)
    layer.batch_first = False
    assert not reads_batch_first(layer)


def test_both_orders_are_measured_alike():
    """64 sequences of 20 steps, and not 20 of 64."""
    x = torch.randn(64, 20, 3, generator=torch.Generator().manual_seed(1))
    one, other = (
        sx.analyze(Leaky(axis), x if axis else x.transpose(0, 1), k=1, copies=4, steps=400, settle=50, also="none")
        for axis in (0, 1)
    )
    assert one.finite_time_steps == other.finite_time_steps == 20
    torch.testing.assert_close(one.spectrum.exponents, other.spectrum.exponents, rtol=1e-6, atol=1e-9)
