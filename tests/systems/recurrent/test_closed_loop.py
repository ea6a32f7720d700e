"""Recurrent networks that feed on their own output."""

import math

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError


def unrolled(core: nn.Module, readout: nn.Module, state, steps: int) -> torch.Tensor:
    """What the modules do when called by hand, each input being the readout of the output before: h of the top layer."""
    tops = []
    for _ in range(steps):
        top = state[0] if isinstance(state, tuple) else state
        u = readout(top if isinstance(core, nn.RNNCellBase) else top[-1])
        state = core(u, state) if isinstance(core, nn.RNNCellBase) else core(u[None], state)[1]
        top = state[0] if isinstance(state, tuple) else state
        tops.append(top if isinstance(core, nn.RNNCellBase) else top[-1])
    return torch.stack(tops)


@pytest.mark.parametrize(
    "core", [nn.RNNCell(3, 5), nn.LSTMCell(3, 5), nn.GRU(3, 5, 2), nn.LSTM(3, 5, 2), nn.LSTM(3, 5, proj_size=2)]
)
def test_the_loop_is_what_the_modules_do_when_called_by_hand(core):
    torch.manual_seed(0)
    core = core.double()
    width = getattr(core, "proj_size", 0) or 5
    readout = nn.Sequential(nn.Linear(width, 3), nn.Tanh()).double()
    loop = sx.ClosedLoop(core, readout)
    x0 = loop.initial_state((4,), seed=1)
    orbit = sx.trajectory(loop, x0, 6)
    with torch.no_grad():
        torch.testing.assert_close(loop.output(orbit[1:]), unrolled(core, readout, loop.unpack(x0), 6))
    sx.testing.check_system(loop, x0[0])


def test_a_linear_loop_has_the_exponents_of_its_matrix():
    """The step h' = relu(W h + V R h) with positive numbers everywhere is linear: λ = ln |eig(W + V R)|."""
    torch.manual_seed(0)
    core, readout = nn.RNNCell(2, 4, bias=False, nonlinearity="relu").double(), nn.Linear(4, 2, bias=False).double()
    with torch.no_grad():
        for weight in (core.weight_ih, core.weight_hh, readout.weight):
            weight.uniform_(0.1, 0.4)
    matrix = core.weight_hh + core.weight_ih @ readout.weight
    scale = float(torch.linalg.eigvals(matrix.detach()).abs().max())
    loop = sx.ClosedLoop(core, readout, dt=0.5)
    spectrum = sx.lyapunov_spectrum(loop, torch.ones(4, dtype=torch.float64), steps=200, settle=50)
    assert spectrum.exponents[0] == pytest.approx(math.log(scale) / 0.5, abs=1e-9)


def test_what_else_drives_a_loop_is_given_to_the_readout():
    core, readout = nn.GRUCell(2, 4).double(), nn.Linear(4, 2).double()
    inputs = torch.randn(9, 3, 2, dtype=torch.float64)
    loop = sx.ClosedLoop(core, lambda y, u: readout(y) + u, inputs)
    h = loop.initial_state((3,))
    orbit = sx.trajectory(loop, h, 9)
    with torch.no_grad():
        for n, u in enumerate(inputs):
            h = core(readout(h) + u, h)
            torch.testing.assert_close(orbit[n + 1], h)
    assert loop.horizon == 9


def test_a_cell_of_ones_own_closes_its_loop_too():
    class Leaky(nn.Module):
        hidden_size, input_size = 6, 2

        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(8, 6)

        def forward(self, u, h):
            return 0.5 * h + 0.5 * torch.tanh(self.mix(torch.cat([u, h], -1)))

    cell, readout = Leaky().double(), nn.Linear(6, 2).double()
    loop = sx.ClosedLoop(cell, readout)
    x = loop.initial_state((3,))
    torch.testing.assert_close(loop.step(x), cell(readout(x), x))
    sx.testing.check_system(loop, x[0])


@pytest.mark.parametrize(
    ("core", "readout", "error", "message"),
    [
        (nn.GRU(3, 5), nn.Linear(4, 3), ShapeError, "readout failed on the core's output"),
        (nn.GRU(3, 5), nn.Linear(5, 2), ShapeError, r"returns \(2, 2\), but this GRU.* takes inputs of shape \(2, 3\)"),
        (nn.GRU(3, 5), None, InputError, "got a NoneType"),
        ([nn.GRUCell(3, 5), nn.GRUCell(3, 5)], nn.Linear(5, 3), UnsupportedModuleError, "ensemble"),
    ],
)
def test_what_closes_no_loop_is_refused(core, readout, error, message):
    with pytest.raises(error, match=message):
        sx.ClosedLoop(core, readout)
