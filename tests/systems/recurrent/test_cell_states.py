"""States of cells as people write them: named tuples, dicts, dataclasses, complex numbers, beside outputs in either order."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx
from separatrix.core.evolve import trajectory
from separatrix.core.structure import leaves

WIDTH = 4


class Pair(NamedTuple):
    """Hidden and cell state."""

    h: Tensor
    c: Tensor


@dataclass
class Held:
    """The same, as a dataclass."""

    h: Tensor
    c: Tensor


class Cell(nn.Module):
    """An LSTM cell whose state is of some class of one's own."""

    input_size = 2

    def __init__(self, make) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.lstm = nn.LSTMCell(2, WIDTH)
        self.make = make

    def forward(self, u: Tensor, state):
        """The new state, of the state's own class."""
        assert type(state) is type(self.make(u, u))
        h, c = (state["h"], state["c"]) if isinstance(state, dict) else (state.h, state.c)
        return self.make(*self.lstm(u, (h, c)))


FORMS = {
    "named tuple": Pair,
    "dataclass": Held,
    "dict": lambda h, c: {"h": h, "c": c},
    "ordered dict": lambda h, c: OrderedDict(c=c, h=h),
    "dict filled in either order": lambda h, c: {"c": c, "h": h} if h.ndim > 1 else {"h": h, "c": c},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_state_of_any_class_has_the_exponents_of_a_tuple(form):
    """Against PyTorch's own cell, whose state is a pair."""
    make, inputs = FORMS[form], torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    cell = Cell(make)
    example = make(torch.zeros(WIDTH), torch.zeros(WIDTH))
    system, own = sx.Recurrent(cell, inputs, state=example), sx.Recurrent(cell.lstm, inputs)
    found, expected = (sx.lyapunov_spectrum(one, steps=30, settle=0).exponents.sum() for one in (system, own))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)  # the order of the numbers is that of the sorted keys
    state = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    after = system.unpack(system.step(system.pack(make(*state)), 7))
    wanted = make(*own.unpack(own.step(own.pack(*state), 7)))
    for got, right in zip(leaves(after), leaves(wanted), strict=True):
        torch.testing.assert_close(got, right, rtol=1e-12, atol=1e-12)
    x = torch.randn(3, 2 * WIDTH)
    assert type(system.unpack(x)) is type(example)
    assert torch.equal(system.pack(system.unpack(x)), x)


def test_a_number_in_the_state_that_changes_is_refused_by_name():
    class Counting(nn.Module):
        input_size = 2

        def forward(self, u: Tensor, state: dict) -> dict:
            return {"h": state["h"] / 2, "t": state["t"] + 1}

    with pytest.raises(sx.errors.ShapeError, match="changed t from 0 to 1, which is not a tensor"):
        sx.Recurrent(Counting(), torch.zeros(5, 2), state={"h": torch.zeros(3), "t": 0})


class Readout(nn.Module):
    """A leaky cell with a readout as wide as its state, returned in either order."""

    def __init__(self, order: str, own) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.input_size, self.hidden_size = 2, WIDTH
        self.i2h, self.h2h, self.h2o = nn.Linear(2, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.order, self.own = order, own

    def state(self, u: Tensor, h: Tensor) -> Tensor:
        """The state alone."""
        return 0.5 * h + 0.5 * torch.tanh(self.i2h(u) + self.h2h(h))

    def forward(self, u: Tensor, h: Tensor):
        """Both."""
        after = self.state(u, h)
        out = self.own(self, u, h, after)
        return (after, out) if self.order == "state, out" else (out, after)


class Alone(nn.Module):
    """The state of another cell, without its readout."""

    def __init__(self, cell: Readout) -> None:
        super().__init__()
        self.cell, self.input_size, self.hidden_size = cell, 2, WIDTH

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        """The new state."""
        return self.cell.state(u, h)


OUTS = {
    "linear": lambda cell, u, h, after: cell.h2o(after),
    "of the input too": lambda cell, u, h, after: cell.h2o(after) + cell.i2h(u),
    "the state itself": lambda cell, u, h, after: after,
    "a copy": lambda cell, u, h, after: after.clone(),
    "spikes": lambda cell, u, h, after: (after > 0).to(after),
}


@pytest.mark.parametrize("out", OUTS)
@pytest.mark.parametrize("order", ["state, out", "out, state"])
def test_the_state_beside_a_readout_of_its_width_is_found(order, out):
    cell, inputs = Readout(order, OUTS[out]), torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    expected = sx.lyapunov_spectrum(sx.Recurrent(Alone(cell), inputs), steps=20, settle=5).exponents
    found = sx.lyapunov_spectrum(sx.Recurrent(cell, inputs), steps=20, settle=5).exponents
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ["state, out", "out, state"])
def test_where_nothing_tells_the_state_the_user_does(order):
    """An output that reads the old state and the new one: each part reaches the old state past the other, or may."""
    cell, inputs = Readout(order, lambda cell, u, h, after: cell.h2o(torch.tanh(h)) + after**2), torch.randn(30, 2)
    with pytest.raises(sx.errors.UnsupportedModuleError, match="cannot be inferred which is the state"):
        sx.Recurrent(cell, inputs)
    expected = sx.lyapunov_spectrum(sx.Recurrent(Alone(cell), inputs), steps=20, settle=5).exponents
    found = sx.lyapunov_spectrum(sx.Recurrent(cell, inputs, returns=order), steps=20, settle=5).exponents
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_state_made_with_the_help_of_the_output_is_told_by_its_name():
    class Named(NamedTuple):
        y: Tensor
        state: Tensor

    class Spiking(nn.Module):
        input_size, hidden_size = 2, 2

        def forward(self, u: Tensor, h: Tensor) -> Named:
            before = 0.9 * h + u
            spike = torch.sigmoid(5 * (before - 1))
            return Named(spike, before - spike)

    class Plain(Spiking):
        def forward(self, u: Tensor, h: Tensor) -> Tensor:
            return super().forward(u, h).state

    u, x = torch.randn(9, 2), torch.randn(2, dtype=torch.float64)
    assert torch.equal(sx.Recurrent(Spiking(), u).step(x), sx.Recurrent(Plain(), u).step(x))


def test_a_wrong_word_for_what_is_returned_is_refused():
    with pytest.raises(sx.errors.InputError, match="returns is 'both'; expected 'state', 'out, state' or 'state, out'"):
        sx.Recurrent(Readout("out, state", OUTS["linear"]), torch.zeros(5, 2), returns="both")
    with pytest.raises(sx.errors.InputError, match="but the cell returns a Tensor, not a pair"):
        sx.Recurrent(Alone(Readout("out, state", OUTS["linear"])), torch.zeros(5, 2), returns="out, state")


def normal(*moduli: float) -> Tensor:
    """A normal complex matrix, with eigenvalues of these moduli: its exponents need no averaging."""
    draw = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(len(moduli), len(moduli), dtype=torch.complex128, generator=draw))
    values = torch.polar(torch.tensor(moduli, dtype=torch.float64), torch.arange(1.0, len(moduli) + 1, dtype=torch.float64))
    return q @ torch.diag(values) @ q.mH


def twice(values: Tensor) -> Tensor:
    """ln |eig|, each twice, descending: a complex direction is two real ones."""
    return values.sort(descending=True).values.repeat_interleave(2)


class ComplexCell(nn.Module):
    """z ↦ A z + b u, with complex weights."""

    input_size, hidden_size = 1, 3

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.a = nn.Parameter(normal(1.2, 0.7, 0.3).to(dtype))
        self.b = nn.Parameter(torch.ones(3, dtype=dtype))

    def forward(self, u: Tensor, z: Tensor) -> Tensor:
        """The new state."""
        return z.to(self.a) @ self.a.mT + u.to(self.a) * self.b


def test_a_complex_linear_map_has_the_logarithms_of_its_eigenvalues_each_twice():
    a = normal(1.2, 0.7, 0.3)
    expected = twice(torch.linalg.eigvals(a).abs().log())
    real = torch.cat([torch.cat([a.real, -a.imag], 1), torch.cat([a.imag, a.real], 1)], 0)
    torch.testing.assert_close(expected, torch.linalg.eigvals(real).abs().log().sort(descending=True).values)
    system = sx.Map(lambda z: z @ a.mT.to(z), 3, is_complex=True)
    assert system.dim == 6
    spectrum = sx.lyapunov_spectrum(system, steps=50, settle=100)
    torch.testing.assert_close(spectrum.exponents, expected, atol=1e-9, rtol=0)
    sx.testing.check_system(system)


@pytest.mark.parametrize("example", [None, torch.zeros(3), torch.zeros(3, dtype=torch.complex64)])
def test_a_complex_cell_is_measured_whatever_it_says_of_its_state(example):
    """Its weights are cast to complex128; that its state is complex is found out where nobody says it."""
    cell = ComplexCell(torch.complex128)
    system = sx.Recurrent(cell, torch.randn(160, 1), state=example)
    expected = twice(torch.linalg.eigvals(cell.a.detach()).abs().log())
    torch.testing.assert_close(sx.lyapunov_spectrum(system, steps=50, settle=100).exponents, expected, atol=1e-9, rtol=0)
    z = torch.randn(2, 3, dtype=torch.complex128)
    assert torch.equal(system.unpack(system.pack(z)), z)
    assert torch.allclose(system.step(system.pack(z)), system.pack(cell(system.drive(0).double().expand(2, 1), z)))


def test_complex_weights_in_single_precision_are_cast():
    system = sx.Recurrent(ComplexCell(torch.complex64), torch.zeros(9, 1))
    assert sx.lyapunov_spectrum(system, steps=5, settle=0).exponents.dtype == torch.float64


def test_a_complex_module_is_a_map_and_a_flow():
    layer = nn.Linear(2, 2, bias=False, dtype=torch.complex64)
    layer.weight.data = normal(1.2, 0.5).to(torch.complex64)
    z = torch.randn(5, 2, dtype=torch.complex128)
    system, flow = sx.Map(layer, 2, is_complex=True), sx.Flow(layer, 2, dt=0.1, is_complex=True)
    a = layer.weight.detach().to(torch.complex128)
    state = trajectory(system, system.pack(z), 2)[1]
    torch.testing.assert_close(system.unpack(state), z @ a.mT, rtol=1e-12, atol=1e-12)
    step = sum(torch.matrix_power(0.1 * a, k) / math.factorial(k) for k in range(5))  # of Runge–Kutta's method
    spectrum = sx.lyapunov_spectrum(flow, steps=50, settle=400)
    torch.testing.assert_close(spectrum.exponents, 10 * twice(torch.linalg.eigvals(step).abs().log()), atol=1e-6, rtol=0)
    assert flow.unpack(flow.pack(z)).dtype == torch.complex128


def test_the_stuart_landau_oscillator_has_one_vanishing_exponent():
    """ż = (1 + 2i) z − |z|² z: on its cycle |z| = 1 the exponents are 0 along it and −2 across."""
    flow = sx.Flow(lambda z: (1 + 2j) * z - z.abs() ** 2 * z, 1, dt=0.02, is_complex=True, start=(1.0, 0.0))
    spectrum = sx.lyapunov_spectrum(flow, steps=100, settle=200)
    torch.testing.assert_close(spectrum.exponents, torch.tensor([0.0, -2.0], dtype=torch.float64), atol=1e-5, rtol=0)
    assert math.isclose(float(flow.unpack(flow.initial_state()).abs()), 1.0)
