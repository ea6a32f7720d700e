"""What `analyze` takes a model for: found out by trying it, and by what one forward pass calls."""

from functools import cache

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.core.errors import InputError, UnsupportedModuleError
from separatrix.portrait.find_core import find_core

FEW = {"k": 1, "copies": 2, "steps": 60, "settle": 20, "also": "none"}


class HandLoop(nn.Module):
    """A continuous-time network whose layer loops over time, as task-trained networks are written."""

    def __init__(self, batch_first: bool = False, returns: str = "state", noise: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.input_size, self.hidden_size = 3, 8
        self.i2h, self.h2h = nn.Linear(3, 8), nn.Linear(8, 8)
        self.batch_first, self.returns, self.noise = batch_first, returns, noise
        self.double()

    def recurrence(self, u, h):
        h = 0.8 * h + 0.2 * torch.tanh(self.i2h(u) + self.h2h(h))
        return h + self.noise * torch.randn_like(h) if self.noise else h

    def forward(self, x, hidden=None):
        x = x.transpose(0, 1) if self.batch_first else x
        hidden = x.new_zeros(x.shape[1], 8) if hidden is None else hidden
        hidden = hidden[0] if hidden.ndim == 3 else hidden
        out = []
        for u in x:
            hidden = self.recurrence(u, hidden)
            out.append(hidden)
        outputs = torch.stack(out, 1 if self.batch_first else 0)
        state = {"state": hidden, "state with an axis of layers": hidden[None]}.get(self.returns)
        return outputs if state is None else (outputs, state)


SEQUENCE = torch.randn(1, 1100, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@cache
def largest_exponent_of_the_recurrence(settle: int) -> float:
    """λ₁ along the sequence, by dense QR of automatic Jacobians of what every `HandLoop` does in a step."""
    step, h = HandLoop().recurrence, torch.zeros(8, dtype=torch.float64)
    frame, total = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0], 0.0
    for n, u in enumerate(SEQUENCE[0]):
        frame, upper = torch.linalg.qr(torch.func.jacrev(lambda y, u=u: step(u, y))(h) @ frame)
        h = step(u, h).detach()
        total += float(upper[0, 0].abs().log()) if n >= settle else 0.0
    return total / (SEQUENCE.shape[1] - settle)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("returns", ["state", "state with an axis of layers", "outputs alone"])
def test_a_layer_that_loops_by_hand_is_measured_by_its_own_step(batch_first, returns):
    x = SEQUENCE if batch_first else SEQUENCE.transpose(0, 1)
    portrait = sx.analyze(HandLoop(batch_first, returns), x, k=1, copies=1, also="none")
    right = largest_exponent_of_the_recurrence(portrait.spectrum.settle)
    assert portrait.lambda_1[0] == pytest.approx(right, abs=2e-3)  # frames that began apart differ by O(1/steps)


def test_how_many_copies_are_measured_changes_no_exponent():
    """The batch axis of such a layer was once read as time: λ₁ = −0.16, −0.31, −0.59, −1.17 for 1, 2, 4, 8 copies."""
    x = torch.randn(60, 4, 3, dtype=torch.float64)
    rates = [sx.analyze(HandLoop(), x, **{**FEW, "copies": copies, "steps": 1000}).lambda_1[0] for copies in (1, 4)]
    assert rates[0] == pytest.approx(rates[1], abs=0.01)


def test_such_a_layer_is_found_as_a_part():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.fc = HandLoop(), nn.Linear(8, 2)

        def forward(self, x):
            return self.fc(self.rnn(x)[0])

    core = find_core(Model().double(), torch.randn(20, 4, 3, dtype=torch.float64))
    assert (core.name, core.label) == ("rnn", "HandLoop at 'rnn'")


def test_sx_recurrent_follows_such_a_layer_as_the_layer_runs():
    layer, x = HandLoop(True), torch.randn(5, 30, 3, dtype=torch.float64)
    orbit = sx.trajectory(sx.Recurrent(layer, x), None, 30)
    torch.testing.assert_close(orbit[1:], layer(x)[0].transpose(0, 1).detach())


def test_noise_in_the_step_does_not_hide_what_a_layer_is():
    core = find_core(HandLoop(noise=0.05), torch.randn(20, 4, 3, dtype=torch.float64))
    assert core.label == "HandLoop"


def test_a_module_that_mixes_its_batch_is_no_cell():
    class Mixing(nn.Module):
        input_size, hidden_size = 3, 4

        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(7, 4)

        def forward(self, u, h):
            return torch.tanh(self.mix(torch.cat([u, h - h.mean(0)], -1)))

    with pytest.raises(UnsupportedModuleError, match="depends on the others in the batch"):
        sx.Recurrent(Mixing(), torch.randn(9, 3))


class Looping(nn.Module):
    """A model with a loop of its own over time, batch first."""

    def __init__(self, cell: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wi, self.wh, self.fc = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        if cell is not None:
            self.cell = cell

    def forward(self, x):
        h = x.new_zeros(len(x), 6)
        for t in range(x.shape[1]):
            h = torch.tanh(self.wi(x[:, t]) + self.wh(h))
        return self.fc(h)


class FixedLength(Looping):
    """The length is the model's own."""

    def forward(self, x):
        h = x.new_zeros(len(x), 6)
        for t in range(12):
            h = torch.tanh(self.wi(x[:, t]) + self.wh(h))
        return self.fc(h)


class InPlace(Looping):
    """All states in one buffer that is written to."""

    def forward(self, x):
        states = x.new_zeros(len(x), x.shape[1] + 1, 6)
        for t in range(x.shape[1]):
            states[:, t + 1] = 0.9 * states[:, t] + torch.tanh(x[:, t] @ self.wi.weight.T)
        return self.fc(states[:, -1])


@pytest.mark.parametrize("model", [Looping(), FixedLength(), InPlace()])
def test_a_loop_whose_step_cannot_be_called_is_named_and_never_measured_in_depth(model):
    with pytest.raises(UnsupportedModuleError, match=r"(?s)recurrent, by a handwritten loop over axis 1.*as_cell"):
        sx.analyze(model, torch.randn(4, 12, 3))


class PerStep(Looping):
    """The same network at each step, nothing carried."""

    def forward(self, x):
        return self.fc(torch.stack([torch.tanh(self.wi(x[:, t])) for t in range(x.shape[1])], 1).mean(1))


class Buffered(Looping):
    """The same, written into a buffer."""

    def forward(self, x):
        out = x.new_zeros(len(x), x.shape[1], 6)
        for t in range(x.shape[1]):
            out[:, t] = torch.tanh(self.wi(x[:, t]))
        return self.fc(out.mean(1))


class SharedDepth(nn.Module):
    """One block eight times, on states of 8 numbers."""

    def __init__(self):
        super().__init__()
        self.block = nn.Linear(8, 8)

    def forward(self, x):
        for _ in range(8):
            x = x + torch.tanh(self.block(x))
        return x


@pytest.mark.parametrize(
    ("model", "shape"), [(PerStep(), (4, 12, 3)), (Buffered(), (4, 12, 3)), (SharedDepth(), (5, 8)), (nn.Linear(3, 2), (4, 3))]
)
def test_a_loop_that_carries_nothing_over_time_is_depth(model, shape):
    assert find_core(model, torch.randn(shape)) is None


class Gated(nn.Module):
    """A cell that takes a step length, and returns its state twice."""

    def __init__(self, i: int, n: int) -> None:
        super().__init__()
        self.f, self.a = nn.Linear(i + n, n), nn.Linear(i + n, n)

    def forward(self, x, hx, ts):
        z = torch.cat([x, hx], 1)
        gate = torch.sigmoid(self.a(z) * ts.view(-1, 1))
        h = torch.tanh(self.f(z)) * (1 - gate) + gate * hx
        return h, h


class StateFirst(nn.Module):
    """A cell of (state, input), the state in two arguments."""

    def __init__(self, i: int, n: int) -> None:
        super().__init__()
        self.f = nn.Linear(i + n, n)

    def forward(self, h, c, x):
        c = 0.7 * c + torch.tanh(self.f(torch.cat([x, h], -1)))
        return torch.tanh(c), c


class ConvCell(nn.Module):
    """A cell of images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x, state):
        h, c = state
        i, f, o, g = self.conv(torch.cat([x, h], 1)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class CallsGated(Looping):
    """Called past its hooks, as `self.cell.forward`."""

    def forward(self, x):
        h = x.new_zeros(len(x), 6)
        for t in range(x.shape[1]):
            _, h = self.cell.forward(x[:, t], h, torch.ones(len(x)).to(x))
        return self.fc(h)


class CallsStateFirst(Looping):
    def forward(self, x):
        h = c = x.new_zeros(len(x), 6)
        for t in range(x.shape[1]):
            h, c = self.cell(h, c, x[:, t])
        return self.fc(h)


class CallsConv(Looping):
    def forward(self, x):
        h = c = x.new_zeros(len(x), 2, 4, 4)
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
        return h


@pytest.mark.parametrize(
    ("model", "shape", "jacobian"),
    [
        (CallsGated(Gated(3, 6)), (4, 15, 3), lambda cell, u, s: cell(u[None], s[None], torch.ones(1).double())[0][0]),
        (
            CallsStateFirst(StateFirst(3, 6)),
            (4, 15, 3),
            lambda cell, u, s: torch.cat(cell(s[None, :6], s[None, 6:], u[None]), 1)[0],
        ),
        (
            CallsConv(ConvCell()),
            (4, 15, 1, 4, 4),
            lambda cell, u, s: torch.cat([t.flatten() for t in cell(u[None], tuple(s.reshape(2, 1, 2, 4, 4)))]),
        ),
    ],
)
def test_a_cell_is_found_by_its_calls_whatever_its_signature(model, shape, jacobian):
    """One step of what is measured has the dense Jacobian of the cell as the model calls it."""
    model = model.double()
    x = torch.randn(shape, dtype=torch.float64)
    core = find_core(model, x)
    assert core.name == "cell" and core.calls == 15
    system = sx.Recurrent(core.module, core.inputs, state=core.state)
    state = 0.3 * torch.randn(4, system.dim, dtype=torch.float64)
    eye = torch.eye(system.dim, dtype=torch.float64).expand(4, -1, -1)
    _, pushed = system.pushforward(state, eye, 2)
    for i in range(4):
        dense = torch.func.jacrev(lambda s, i=i: jacobian(model.cell, x[i, 2], s))(state[i])
        torch.testing.assert_close(pushed[i].mT, dense)


def test_initial_states_that_the_model_learns_begin_the_finite_time_exponents():
    class Started(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.rnn = nn.GRU(3, 8, batch_first=True)
            self.start = nn.Parameter(2 * torch.randn(1, 1, 8))

        def forward(self, x):
            return self.rnn(x, self.start.expand(1, len(x), 8).contiguous())[0]

    model, x = Started().double(), torch.randn(3, 10, 3, dtype=torch.float64)
    portrait = sx.analyze(model, x, **FEW)
    assert "initial state is used for the finite-time exponents" in portrait.did[0]
    for rate, sequence in zip(portrait.finite_time, x, strict=True):
        jacobian = torch.func.jacrev(lambda h, u=sequence: model.rnn(u[None], h[None, None])[1][0, 0])(model.start[0, 0])
        assert float(rate) == pytest.approx(float(torch.linalg.svdvals(jacobian)[0].log()) / 10, abs=1e-9)


def test_several_parts_that_show_recurrence_are_listed():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = HandLoop(), HandLoop()

        def forward(self, x):
            return self.a(x)[0] + self.b(x)[0]

    with pytest.raises(UnsupportedModuleError, match="2 recurrent parts: a = HandLoop, b = HandLoop"):
        find_core(Two(), torch.randn(20, 4, 3, dtype=torch.float64))


def test_a_model_that_fails_is_told_with_its_own_words():
    with pytest.raises(InputError, match=r"Looping failed on inputs of shape \(4, 12, 5\)"):
        find_core(Looping(), torch.randn(4, 12, 5))


@pytest.mark.parametrize("shape", [(6, 4), (3, 6, 4)])
@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x, mask=None: self.f(x),
        lambda self, x, return_features=False: self.f(x),
        lambda self, x, *rest: self.f(x),
        lambda self, x, state=None: (self.f(x), None),
        lambda self, x, state=None: (self.f(x), self.f(x)),
    ],
)
def test_a_second_argument_makes_no_recurrent_layer_of_a_network_that_carries_nothing(forward, shape):
    """Its depth is measured; asked for its fixed points, it has none."""
    torch.manual_seed(0)
    kind = type("Net", (nn.Module,), {"forward": forward})
    model = kind()
    model.f = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
    model.input_size = model.hidden_size = 4
    assert isinstance(sx.analyze(model, torch.randn(shape), also="none"), sx.results.DepthPortrait)
    with pytest.raises(sx.errors.UnsupportedModuleError, match="no recurrent part"):
        find_core(model)
