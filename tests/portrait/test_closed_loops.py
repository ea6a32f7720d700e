"""Loops inside models: a recurrent part whose next input the model makes of its output."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.portrait.find_core import find_core

FEW = {"k": 1, "copies": 2, "steps": 60, "settle": 20, "also": "none"}


class Generator(nn.Module):
    """A cell read by a linear layer whose output is the next input: h' = tanh((W_hh + W_out) h), with the identity for W_ih."""

    def __init__(self, size: int = 20, steps: int = 30) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.cell, self.out, self.steps = nn.RNNCell(size, size, bias=False), nn.Linear(size, size, bias=False), steps
        with torch.no_grad():
            self.cell.weight_ih.copy_(torch.eye(size))
            self.cell.weight_hh.normal_(0, 0.3 / size**0.5)
            self.out.weight.normal_(0, 3 / size**0.5)

    def forward(self, u):
        h = u.new_zeros(len(u), self.cell.hidden_size)
        outputs = []
        for _ in range(self.steps):
            h = self.cell(u, h)
            u = self.out(h)
            outputs.append(u)
        return torch.stack(outputs, 1)


class Layered(Generator):
    """The same through layers, called on sequences of one step."""

    def __init__(self, kind, batch_first: bool) -> None:
        super().__init__(6, 12)
        self.rnn, self.head = kind(6, 6, 2, batch_first=batch_first), nn.Linear(6, 6)
        del self.cell, self.out
        self.axis = 1 if batch_first else 0

    def forward(self, u):
        state, outputs = None, []
        for _ in range(self.steps):
            y, state = self.rnn(u.unsqueeze(self.axis), state)
            u = torch.tanh(3 * self.head(y.squeeze(self.axis)))
            outputs.append(u)
        return torch.stack(outputs, 1)


class Driven(Generator):
    """An input of its own at each turn, besides the output fed back."""

    def forward(self, x):
        h, y = x.new_zeros(len(x), self.cell.hidden_size), 0.0
        for t in range(x.shape[1]):
            h = self.cell(x[:, t] + y, h)
            y = self.out(h)
        return y


class Attending(nn.Module):
    """A decoder that attends to an encoding with its state, and feeds its output back in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.encode, self.query = nn.Linear(4, 6), nn.Linear(6, 6)
        self.cell, self.out = nn.GRUCell(6 + 3, 6), nn.Linear(6, 3)

    def forward(self, x):
        memory = torch.tanh(self.encode(x))
        h, y, outputs = x.new_zeros(len(x), 6), x.new_zeros(len(x), 3), []
        for _ in range(10):
            weights = torch.softmax((memory @ self.query(h)[..., None]).squeeze(-1), -1)
            context = (weights[..., None] * memory).sum(1)
            h = self.cell(torch.cat([context, y], -1), h)
            y = self.out(h)
            outputs.append(y)
        return torch.stack(outputs, 1)


class Choosing(nn.Module):
    """The next token is the most likely one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.cell, self.out = nn.Embedding(7, 5), nn.GRUCell(5, 6), nn.Linear(6, 7)

    def forward(self, token):
        h, outputs = torch.zeros(len(token), 6).to(self.out.weight), []
        for _ in range(12):
            h = self.cell(self.embed(token), h)
            token = self.out(h).argmax(-1)
            outputs.append(token)
        return torch.stack(outputs, 1)


class Remembering(Generator):
    """What is fed back is smoothed over the past, which the cell's state does not hold."""

    def forward(self, u):
        h, mean = u.new_zeros(len(u), self.cell.hidden_size), u
        for _ in range(self.steps):
            h = self.cell(mean, h)
            mean = 0.5 * mean + 0.5 * self.out(h)
        return mean


def test_a_generator_is_measured_as_the_loop_it_is():
    """Its core under a recording of its own output is ordered, λ₁ about −2; as it runs it is chaotic."""
    model = Generator(40, 60).double()
    portrait = sx.analyze(model, torch.randn(1, 40, dtype=torch.float64), k=1, copies=4, steps=400, settle=200, also="none")
    matrix = (model.cell.weight_hh + model.out.weight).detach()
    h, v, total = torch.randn(40, dtype=torch.float64), torch.randn(40, dtype=torch.float64), 0.0
    for n in range(8_000):  # two trajectories' worth of tangent, by hand
        h = torch.tanh(matrix @ h)
        v = (1 - h * h) * (matrix @ (v / v.norm()))
        total += float(v.norm().log()) if n >= 500 else 0.0
    rate, error = portrait.lambda_1
    assert rate == pytest.approx(total / 7_500, abs=4 * error + 0.02)
    assert portrait.side == "chaotic" and portrait.regime == "closed loop"
    assert "closed loop in which the model reads its own output" in portrait.verdict


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("model", [Generator(6, 12), Layered(nn.GRU, True), Layered(nn.LSTM, False)])
def test_a_turn_of_the_loop_is_what_the_models_own_next_turn_does(model, batch):
    """From the state after its first call, the turns reproduce the outputs of the whole forward pass."""
    model, u = model.double(), torch.randn(batch, 6, dtype=torch.float64)
    core = find_core(model, u)
    assert core.feedback.kind == "closed"
    turn = core.feedback.turn
    with torch.no_grad():
        orbit = sx.trajectory(turn, None, model.steps - 1)
        top = turn.network.unpack(orbit)
        h = top[0] if isinstance(top, tuple) else top
        h = h if isinstance(model, Generator) and not isinstance(model, Layered) else h[-1]
        made = model.out(h) if hasattr(model, "out") else torch.tanh(3 * model.head(h))
        torch.testing.assert_close(made, model(u)[0])
    sx.testing.check_system(turn)


def test_a_loop_with_an_input_at_each_turn_is_followed_turn_by_turn():
    """The product of the Jacobians of its turns is the Jacobian of the model's last state in its first."""
    model, x = Driven(6).double(), torch.randn(3, 9, 6, dtype=torch.float64)
    core = find_core(model, x)
    assert core.feedback.kind == "driven"
    turn = core.feedback.turn
    assert turn.horizon == 8

    def last(h, i):
        for t in range(1, 9):
            h = model.cell((x[i, t] + model.out(h))[None], h[None])[0]
        return h

    states = turn.states[0].detach()
    eye = torch.eye(6, dtype=torch.float64).expand(3, -1, -1)
    front, tangents = states, eye
    with torch.no_grad():
        for n in range(8):
            front, tangents = turn.pushforward(front, tangents, n)
    for i in range(3):
        torch.testing.assert_close(tangents[i].mT, torch.func.jacrev(lambda h, i=i: last(h, i))(states[i]))
    portrait = sx.analyze(model, x, k=1, copies=2, also="none")
    assert portrait.regime == "driven loop" and portrait.finite_time_steps == 8


def test_attention_is_inside_the_loop():
    model, x = Attending().double(), torch.randn(2, 5, 4, dtype=torch.float64)
    core = find_core(model, x)
    assert core.feedback.kind == "closed"
    memory = torch.tanh(model.encode(x[:1]))

    def turn(h):
        weights = torch.softmax((memory @ model.query(h)[..., None]).squeeze(-1), -1)
        return model.cell(torch.cat([(weights[..., None] * memory).sum(1), model.out(h)], -1), h)

    state = torch.randn(1, 6, dtype=torch.float64)
    eye = torch.eye(6, dtype=torch.float64)[None]
    _, pushed = core.feedback.turn.pushforward(state, eye)
    torch.testing.assert_close(pushed[0].mT, torch.func.jacrev(lambda h: turn(h[None])[0])(state[0]))


@pytest.mark.parametrize(
    ("model", "inputs", "kind", "told"),
    [
        (Choosing(), torch.randint(0, 7, (3,)), "choices", "discrete choices made from its own outputs"),
        (Remembering(6, 12), torch.randn(2, 6), "remembers", "more of its past than its current state"),
    ],
)
def test_a_loop_that_cannot_be_closed_is_said_to_be_a_recording(model, inputs, kind, told):
    portrait = sx.analyze(model, inputs, **FEW)
    assert find_core(model, inputs).feedback.kind == kind
    assert "for the core under a recording of its own outputs" in portrait.verdict and told in portrait.verdict


def test_a_cell_that_reads_given_inputs_feeds_on_nothing():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.out = nn.GRUCell(3, 6), nn.Linear(6, 2)

        def forward(self, x):
            h, outputs = x.new_zeros(len(x), 6), []
            for t in range(x.shape[1]):
                h = self.cell(x[:, t], h)
                outputs.append(self.out(h))
            return torch.stack(outputs, 1)

    assert find_core(Reader(), torch.randn(4, 9, 3)).feedback.kind == "none"


class Readout(nn.Module):
    """A cell that returns a readout of its state beside it: (u, h) → (y, h)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.input_size, self.hidden_size = 1, 5
        self.w, self.o = nn.Linear(6, 5), nn.Linear(5, 1)
        self.double()

    def forward(self, u, h):
        h = torch.tanh(self.w(torch.cat([u, h], -1)))
        return 2 * self.o(h), h


class Talking(nn.Module):
    """Its readout is its next input, beside a sequence or alone."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Readout()

    def forward(self, x, length=30):
        y, h, ys = x[:, 0], x.new_zeros(len(x), 5), []
        for t in range(length if x.shape[1] == 1 else x.shape[1]):
            y, h = self.cell(y if x.shape[1] == 1 else y + x[:, t], h)
            ys.append(y)
        return torch.stack(ys, 1)


def test_a_cell_that_is_given_all_that_it_returned_is_a_closed_loop_of_all_of_it():
    """The state is readout and hidden state together; dense QR of that map."""
    model = Talking()
    found = sx.analyze(model, torch.ones(2, 1, 1, dtype=torch.float64), copies=2, steps=400, settle=50, also="none")
    assert "closed loop" in found.verdict and found.spectrum.dim == 6
    x, frame, total = torch.ones(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64), 0.0

    def step(s):
        return torch.cat(model.cell(s[:1], s[1:]))

    for n in range(450):
        frame, upper = torch.linalg.qr(torch.func.jacrev(step)(x).detach() @ frame)
        x, total = step(x).detach(), total + (upper.diagonal().abs().log() if n >= 50 else 0.0)
    assert found.pooled.exponents[:5] == pytest.approx(total[:5] / 400, abs=5e-3)  # complex pairs turn: O(1/T)
    assert float(found.pooled.exponents[5]) == -math.inf  # the readout follows from the state


def test_an_output_that_is_no_part_of_the_state_and_comes_back_as_input_is_said():
    x = torch.randn(4, 30, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = sx.analyze(Talking(), x, k=1, copies=2, steps=100, settle=20, also="none")
    assert "under a recording of its own outputs" in found.verdict


class Forecaster(nn.Module):
    """Reads data step by step, then goes on by itself; or, every other step, is given the data again."""

    def __init__(self, ahead: int = 40, sampled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.out, self.ahead, self.sampled = nn.RNNCell(3, 6), nn.Linear(6, 3), ahead, sampled
        self.out.weight.data *= 4

    def forward(self, x):
        h, y, ys = torch.zeros(len(x), 6), x[:, 0], []  # float32, whatever the weights are
        for t in range(x.shape[1]):
            h = self.cell(y if self.sampled and t % 2 == 0 else x[:, t], h)
            y = self.out(h)
        for _ in range(self.ahead):
            h = self.cell(y, h)
            y = self.out(h)
            ys.append(y)
        return torch.stack(ys or [y], 1)


@pytest.mark.parametrize("warm", [1, 2, 15])
def test_a_loop_that_begins_after_any_number_of_steps_on_data_is_closed(warm):
    model, x = Forecaster(), torch.randn(2, warm, 3, generator=torch.Generator().manual_seed(0))
    found = sx.analyze(model, x, copies=2, steps=300, settle=100, also="none")
    assert found.regime == "closed loop"
    model = model.double()
    h, frame, total = torch.zeros(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64), 0.0
    for n in range(1100):
        frame, upper = torch.linalg.qr(torch.func.jacrev(lambda h: model.cell(model.out(h), h))(h).detach() @ frame)
        h, total = model.cell(model.out(h), h).detach(), total + (upper.diagonal().abs().log() if n >= 100 else 0.0)
    assert found.lambda_1[0] == pytest.approx(float(total[0]) / 1000, abs=4 * found.lambda_1[1] + 2 / 300)


def test_a_loop_that_is_fed_every_other_step_is_measured_as_it_ran():
    """The finite-time exponent over the sequence, against the product of dense Jacobians of every turn."""
    model, x = (
        Forecaster(ahead=0, sampled=True).double(),
        torch.randn(2, 25, 3, generator=torch.Generator().manual_seed(1)).double(),
    )
    found = sx.analyze(model, x, copies=2, also="none")
    assert found.regime == "driven loop"
    for item in range(2):
        h = model.cell(x[item, 0], torch.zeros(6, dtype=torch.float64)).detach()
        product = torch.eye(6, dtype=torch.float64)
        for t in range(1, 25):

            def turn(h, t=t, item=item):
                return model.cell(model.out(h) if t % 2 == 0 else x[item, t], h)

            product, h = torch.func.jacrev(turn)(h).detach() @ product, turn(h).detach()
        true = float(torch.linalg.matrix_norm(product, 2).log()) / 24
        assert float(found.finite_time[item]) == pytest.approx(true, abs=1e-9)


def test_teacher_forcing_by_a_coin_is_refused_whatever_the_global_generator_is():
    class Forced(Forecaster):
        def forward(self, x):
            h, y = torch.zeros(len(x), 6), x[:, 0]
            for t in range(x.shape[1]):
                h = self.cell(x[:, t] if torch.rand(()) < 0.5 else y, h)
                y = self.out(h)
            return y

    x = torch.randn(2, 25, 3, generator=torch.Generator().manual_seed(1))
    for seed in range(3):
        torch.manual_seed(seed)
        with pytest.raises(sx.errors.InputError, match="draws random numbers"):
            sx.analyze(Forced(), x, copies=2, also="none")


class Memory(NamedTuple):
    """A state of two parts."""

    h: torch.Tensor
    c: torch.Tensor


class KeptIn(nn.Module):
    """An LSTM cell whose state is kept in a container, fed with a readout of it."""

    def __init__(self, pack, unpack) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.out, self.pack, self.unpack = nn.LSTMCell(3, 5), nn.Linear(5, 3), pack, unpack
        self.cell = self.Cell(self)

    class Cell(nn.Module):
        def __init__(self, outer) -> None:
            super().__init__()
            self.inner, self.pack, self.unpack = outer.inner, outer.pack, outer.unpack

        def forward(self, u, state):
            return self.pack(*self.inner(u, self.unpack(state)))

    def forward(self, u, steps=30):
        state, ys = self.pack(u.new_zeros(len(u), 5), u.new_zeros(len(u), 5)), []
        for _ in range(steps):
            state = self.cell(u, state)
            u = self.out(self.unpack(state)[0])
            ys.append(u)
        return torch.stack(ys, 1)


CONTAINERS = {
    "tuple": (lambda h, c: (h, c), lambda s: s),
    "list": (lambda h, c: [h, c], lambda s: (s[0], s[1])),
    "named tuple": (Memory, lambda s: (s.h, s.c)),
    "dict": (lambda h, c: {"h": h, "c": c}, lambda s: (s["h"], s["c"])),
    "nested": (lambda h, c: {"a": Memory(h, c)}, lambda s: (s["a"].h, s["a"].c)),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_loop_is_closed_whatever_the_state_is_kept_in(name):
    """λ₁ of the loop, by QR of dense Jacobians of (h, c)."""
    model = KeptIn(*CONTAINERS[name])
    found = sx.analyze(model, torch.ones(2, 3), module="cell", k=1, copies=1, steps=60, settle=40, also="none")
    assert found.regime == "closed loop"
    model = model.double()

    def turn(s):
        return torch.cat(model.inner(model.out(s[:5]), (s[:5], s[5:])))

    s, v, total = torch.ones(10, dtype=torch.float64), torch.randn(10, dtype=torch.float64), 0.0
    for n in range(400):
        s, v = torch.func.jvp(turn, (s.detach(),), ((v / v.norm()).detach(),))
        total += float(v.detach().norm().log()) if n >= 100 else 0.0
    assert found.lambda_1[0] == pytest.approx(total / 300, abs=4 * found.lambda_1[1] + 2 / 60)


def test_a_loop_that_cannot_be_tried_is_said_and_inputs_may_be_kept_in_anything():
    """A model that takes no other outputs than its own; a cell whose input is a dictionary, which its readout fills."""

    class Proud(Forecaster):
        def forward(self, x):
            h, ys = torch.zeros(len(x), 6), []
            for t in range(x.shape[1]):
                h = self.cell(x[:, t], h)
                if bool((h.abs() > 1).any()):
                    raise ValueError("a tanh unit lies within 1")
                ys.append(h)
            return torch.stack(ys, 1)

    x = torch.randn(2, 25, 3, generator=torch.Generator().manual_seed(1))
    assert "is unknown: the model fails" in sx.analyze(Proud(), x, **FEW).verdict

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.RNNCell(3, 6)

        def forward(self, u, h):
            return self.inner(u["x"], h)

    class Filled(nn.Module):
        def __init__(self, closed) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.cell, self.out, self.closed = Named(), nn.Linear(6, 3), closed

        def forward(self, x):
            h, ys = x.new_zeros(len(x), 6), []
            for t in range(25):
                h = self.cell({"x": self.out(h) if self.closed else x[:, t]}, h)
                ys.append(h)
            return torch.stack(ys, 1)

    assert "closed loop" in sx.analyze(Filled(True), x, module="cell", **FEW).verdict
    assert "loop" not in sx.analyze(Filled(False), x, module="cell", **FEW).verdict
