"""Networks whose inputs are their own earlier outputs: the loop that runs is what counts, not the core under a recording."""

import torch
import torch.nn.functional as F
from torch import nn

from foreign.networks_idioms import numbers
from foreign.oracle import Looped


def gain(linear, size):
    """Weights of the given standard deviation times 1/√n."""
    nn.init.normal_(linear.weight, std=size / linear.weight.shape[1] ** 0.5)
    nn.init.zeros_(linear.bias)


class FreeRunning(nn.Module):
    """An RNNCell read by a Linear whose output is the next input, for x.shape[1] steps after the first."""

    def __init__(self, n=10, g=2.5):
        super().__init__()
        self.cell, self.out = nn.RNNCell(n, n), nn.Linear(n, n)
        nn.init.normal_(self.cell.weight_hh, std=0.3 / n**0.5)
        nn.init.eye_(self.cell.weight_ih)
        gain(self.out, g)

    def forward(self, x, length=30):
        h, u, ys = x.new_zeros(len(x), 10), x[:, 0], []
        for _ in range(length):
            h = self.cell(u, h)
            u = self.out(h)
            ys.append(u)
        return torch.stack(ys, 1)


class WarmedUp(nn.Module):
    """A GRU warmed up on the data and then fed with its own predictions, as forecasters do."""

    def __init__(self, n=8):
        super().__init__()
        self.rnn, self.out = nn.GRU(3, n, batch_first=True), nn.Linear(n, 3)

    def forward(self, x, future=40):
        y, h = self.rnn(x)
        u, ys = self.out(y[:, -1:]), []
        for _ in range(future):
            y, h = self.rnn(u, h)
            u = self.out(y)
            ys.append(u)
        return torch.cat(ys, 1)


class Greedy(nn.Module):
    """A decoder that feeds back the token of the largest logit."""

    def __init__(self):
        super().__init__()
        self.embedding, self.cell, self.out = nn.Embedding(7, 4), nn.GRUCell(4, 6), nn.Linear(6, 7)

    def forward(self, h, length=15):
        token, logits = torch.zeros(len(h), dtype=torch.long, device=h.device), []
        for _ in range(length):
            h = self.cell(self.embedding(token), h)
            logits.append(self.out(h))
            token = logits[-1].argmax(-1)
        return torch.stack(logits, 1)


class InputFeeding(nn.Module):
    """An attention decoder with input feeding: the last attended state is part of the next input."""

    def __init__(self, n=5):
        super().__init__()
        self.encoder, self.cell = nn.GRU(3, n, batch_first=True), nn.GRUCell(3 + n, n)
        self.attend, self.mix = nn.Linear(n, n, bias=False), nn.Linear(2 * n, n)

    def forward(self, x):
        memory, h = self.encoder(x)
        h, feed, out = h[0], x.new_zeros(len(x), 5), []
        for u in x.unbind(1):
            h = self.cell(torch.cat([u, feed], -1), h)
            weights = torch.softmax(torch.einsum("bn,btn->bt", self.attend(h), memory), -1)
            feed = torch.tanh(self.mix(torch.cat([h, torch.einsum("bt,btn->bn", weights, memory)], -1)))
            out.append(feed)
        return torch.stack(out, 1)


class Seq2Seq(nn.Module):
    """Encoder and decoder, teacher forcing by a coin toss in forward."""

    def __init__(self, n=6):
        super().__init__()
        self.encoder, self.decoder, self.out = nn.LSTM(2, n, batch_first=True), nn.LSTM(2, n, batch_first=True), nn.Linear(n, 2)

    def forward(self, source, target=None, teacher_forcing_ratio=0.5, length=12):
        _, state = self.encoder(source)
        u, ys = source[:, -1:], []
        for t in range(length):
            y, state = self.decoder(u, state)
            y = self.out(y)
            ys.append(y)
            forced = target is not None and torch.rand(1).item() < teacher_forcing_ratio
            u = target[:, t : t + 1] if forced else y
        return torch.cat(ys, 1)


class ClosedReservoir(nn.Module):
    """An echo state network whose readout is its input, written as a map of its state."""

    def __init__(self, n=10):
        super().__init__()
        self.register_buffer("w", 0.9 * torch.randn(n, n) / n**0.5)
        self.register_buffer("win", torch.rand(n, 3) - 0.5)
        self.readout = nn.Linear(n, 3, bias=False)

    def forward(self, r):
        return torch.tanh(r @ self.w.T + self.readout(r) @ self.win.T)


class Controller(nn.Module):
    """A GRU policy in a loop with a differentiable pendulum: the plant's state is fed back through the observation."""

    def __init__(self, n=5):
        super().__init__()
        self.cell, self.policy = nn.GRUCell(2, n), nn.Linear(n, 1)

    def forward(self, start, steps=40):
        angle, speed = start[:, :1], start[:, 1:]
        h, path = start.new_zeros(len(start), 5), []
        for _ in range(steps):
            h = self.cell(torch.cat([angle, speed], -1), h)
            speed = 0.98 * speed + 0.05 * (-torch.sin(angle) + self.policy(h))
            angle = angle + 0.05 * speed
            path.append(angle)
        return torch.stack(path, 1)


class LatentRNN(nn.Module):
    """A variational network whose own sample is the next step's latent: draws in evaluation."""

    def __init__(self, n=5, z=2):
        super().__init__()
        self.cell, self.prior = nn.GRUCell(z, n), nn.Linear(n, 2 * z)

    def forward(self, h, steps=15):
        out = []
        for _ in range(steps):
            mean, log = self.prior(h).chunk(2, -1)
            h = self.cell(mean + log.exp() * torch.randn_like(mean), h)
            out.append(h)
        return torch.stack(out, 1)


class FeedbackInside(nn.Module):
    """Driven and fed back: the input is the data beside the last output, as in reservoir computing with feedback."""

    def __init__(self, n=8):
        super().__init__()
        self.cell, self.out = nn.RNNCell(2 + 1, n), nn.Linear(n, 1)
        gain(self.out, 4.0)

    def forward(self, x):
        h, y, ys = x.new_zeros(len(x), 8), x.new_zeros(len(x), 1), []
        for u in x.unbind(1):
            h = self.cell(torch.cat([u, y], -1), h)
            y = self.out(h)
            ys.append(y)
        return torch.stack(ys, 1)


def rnn_cell(cell, u, h):
    """The step of an nn.RNNCell."""
    return torch.tanh(F.linear(u, cell.weight_ih, cell.bias_ih) + F.linear(h, cell.weight_hh, cell.bias_hh))


def free_step(m, u, h):
    """The core and its readout: what comes in is what went out, so that the state is h alone."""
    return rnn_cell(m.cell, m.out(h), h)


def warmed_step(m, u, h):
    """A GRU of its own prediction."""
    from foreign.networks_loops import gru

    return gru(m.rnn, m.out(h), h)


def decoded_step(m, u, s):
    """An LSTM of its own prediction: hidden state and memory."""
    h, c = s.chunk(2, -1)
    h, c = m.decoder(m.out(h)[:, None], (h[None].contiguous(), c[None].contiguous()))[1]
    return torch.cat([h[0], c[0]], -1)


def controlled_step(m, u, s):
    """Policy, angle and speed."""
    h, angle, speed = s[:, :5], s[:, 5:6], s[:, 6:]
    h = m.cell(torch.cat([angle, speed], -1), h)
    speed = 0.98 * speed + 0.05 * (-torch.sin(angle) + m.policy(h))
    return torch.cat([h, angle + 0.05 * speed, speed], -1)


def settled(dim):
    """Any start that is not zero: the loop's own attractor is what is measured."""

    def start(model, count):
        return 0.5 * torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    return start


def clock(x):
    """A closed loop has no inputs: only steps."""
    return torch.zeros(300, 4, 1)


CLOSED = r"own (earlier )?(output|state)|closed|feeds? back|recording|ClosedLoop|fed"
RECORDED = "under a recording"


def feeding_step(m, u, h):
    """The decoder; what it attended to before follows from its state, over the memory of the one sequence."""
    memory = m.encoder(LONG3.double())[0][0]
    seen = torch.softmax(m.attend(h) @ memory.T, -1) @ memory
    return m.cell(torch.cat([u, torch.tanh(m.mix(torch.cat([h, seen], -1)))], -1), h)


def encoded(model, count):
    """The encoder's last state."""
    return model.encoder(LONG3.double())[1][0]


LONG3, LONG2 = numbers(1, 26, 3), numbers(1, 160, 2)
CASES = [
    Looped(FreeRunning, numbers(4, 1, 10), free_step, 10, sequences=clock, start=settled(10)),
    Looped(WarmedUp, numbers(4, 20, 3), warmed_step, 8, sequences=clock, start=settled(8)),
    Looped(Greedy, numbers(4, 6), lambda m, u, s: s, 6, said=RECORDED, refused={"analyze": CLOSED}),
    Looped(
        InputFeeding,
        LONG3,
        feeding_step,
        5,
        module="cell",
        start=encoded,
        steps=(20, 5),
        said=RECORDED,
        refused={"analyze": CLOSED},
    ),
    Looped(Seq2Seq, numbers(4, 10, 2), decoded_step, 12, module="decoder", sequences=clock, start=settled(12)),
    Looped(Controller, numbers(4, 2), controlled_step, 7, sequences=clock, start=settled(7), said=RECORDED),
    Looped(LatentRNN, numbers(4, 5), lambda m, u, s: s, 5, refused={"analyze": "random|draw|noise"}),
    Looped(
        FeedbackInside,
        LONG2,
        lambda m, u, h: rnn_cell(m.cell, torch.cat([u, m.out(h)], -1), h),
        8,
        steps=(120, 30),
    ),
]
