"""Recurrent networks that loop over time themselves, as laboratories and tutorials write them."""

import torch
import torch.nn.functional as F
from torch import nn

from foreign.networks_idioms import numbers
from foreign.oracle import Looped


class CTRNN(nn.Module):
    """The leaky network of task training in neuroscience: sizes as attributes, time first, forward(u, hidden=None)."""

    def __init__(self, i=3, n=8, alpha=0.2):
        super().__init__()
        self.input_size, self.hidden_size, self.alpha = i, n, alpha
        self.i2h, self.h2h = nn.Linear(i, n), nn.Linear(n, n)

    def recurrence(self, u, h):
        return (1 - self.alpha) * h + self.alpha * torch.tanh(self.i2h(u) + self.h2h(h))

    def forward(self, u, hidden=None):
        hidden = u.new_zeros(u.shape[1], self.hidden_size) if hidden is None else hidden
        out = []
        for t in range(len(u)):
            hidden = self.recurrence(u[t], hidden)
            out.append(hidden)
        return torch.stack(out), hidden


class TaskNet(nn.Module):
    """A CTRNN as a part, and a readout of all its states."""

    def __init__(self):
        super().__init__()
        self.rnn, self.fc = CTRNN(), nn.Linear(8, 2)

    def forward(self, x):
        states, _ = self.rnn(x)
        return self.fc(states), states


class BatchFirstLeaky(nn.Module):
    """Batch first, x[:, t] in a range over x.size(1), outputs written into a list."""

    def __init__(self, alpha=0.3):
        super().__init__()
        self.wi, self.wh, self.wo, self.alpha = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 1), alpha

    def forward(self, x):
        h = torch.zeros(x.size(0), 6, dtype=x.dtype, device=x.device)
        ys = []
        for t in range(x.size(1)):
            h = (1 - self.alpha) * h + self.alpha * torch.relu(self.wi(x[:, t]) + self.wh(h))
            ys.append(self.wo(h))
        return torch.stack(ys, dim=1)


class Preallocated(nn.Module):
    """States written into a preallocated tensor."""

    def __init__(self):
        super().__init__()
        self.wi, self.wh = nn.Linear(2, 5), nn.Linear(5, 5, bias=False)

    def forward(self, x):
        states = torch.zeros(x.shape[0], x.shape[1] + 1, 5).to(x)
        for t in range(x.shape[1]):
            states[:, t + 1] = torch.tanh(self.wi(x[:, t]) + self.wh(states[:, t].clone()))
        return states[:, 1:]


class LowRank(nn.Module):
    """A low-rank network: h ← h + noise + α(−h + m nᵀφ(h)/N + I u), with noise in evaluation too."""

    def __init__(self, n=10, rank=2, noise=0.05, alpha=0.2):
        super().__init__()
        self.hidden_size, self.noise_std, self.alpha = n, noise, alpha
        self.m, self.n = nn.Parameter(torch.randn(n, rank)), nn.Parameter(torch.randn(n, rank))
        self.wi, self.wo = nn.Parameter(torch.randn(3, n)), nn.Parameter(torch.randn(n, 1))
        self.h0 = nn.Parameter(torch.zeros(n), requires_grad=False)

    def forward(self, u):
        h = self.h0.expand(u.shape[0], -1)
        out = []
        for t in range(u.shape[1]):
            rate = torch.tanh(h) @ self.n @ self.m.T / self.hidden_size
            h = h + self.alpha * (-h + rate + u[:, t] @ self.wi)
            if self.noise_std:
                h = h + self.noise_std * torch.randn_like(h)
            out.append(torch.tanh(h) @ self.wo / self.hidden_size)
        return torch.stack(out, 1)


def quiet_low_rank():
    """The same without noise."""
    return LowRank(noise=0.0)


class Dale(nn.Module):
    """Excitatory and inhibitory units: |W| times a diagonal of signs, by F.linear in the loop."""

    def __init__(self, n=8):
        super().__init__()
        self.weight, self.bias, self.win = nn.Parameter(torch.randn(n, n) / n), nn.Parameter(torch.zeros(n)), nn.Linear(3, n)
        self.register_buffer("sign", torch.diag(torch.tensor([1.0] * 6 + [-1.0] * 2)))

    def effective(self):
        return self.weight.abs() @ self.sign

    def forward(self, x):
        h = x.new_zeros(x.shape[1], 8)
        r = torch.relu(h)
        states = []
        for u in x:
            h = 0.8 * h + 0.2 * (self.win(u) + F.linear(r, self.effective(), self.bias))
            r = torch.relu(h)
            states.append(r)
        return torch.stack(states), h


class TwoDelays(nn.Module):
    """h_t from h_{t−1} and h_{t−2}."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.u = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(2, 4)

    def forward(self, x):
        h1 = h2 = x.new_zeros(len(x), 4)
        for u in x.unbind(1):
            h1, h2 = torch.tanh(self.a(h1) + self.b(h2) + self.u(u)), h1
        return h1


class TutorialGRU(nn.Module):
    """init_hidden by next(self.parameters()), as PyTorch's word-level tutorial has it."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 2)

    def init_hidden(self, batch):
        return next(self.parameters()).new_zeros(1, batch, 8)

    def forward(self, x):
        y, _ = self.rnn(x, self.init_hidden(len(x)))
        return self.out(y[:, -1])


def gru(model, u, h):
    """One step of a GRU of one layer, by its own equations."""
    rnn, n = model, h.shape[-1]
    gi = F.linear(u, rnn.weight_ih_l0, rnn.bias_ih_l0).split(n, -1)
    gh = F.linear(h, rnn.weight_hh_l0, rnn.bias_hh_l0).split(n, -1)
    r, z = torch.sigmoid(gi[0] + gh[0]), torch.sigmoid(gi[1] + gh[1])
    return (1 - z) * torch.tanh(gi[2] + r * gh[2]) + z * h


def lstm(model, u, state):
    """One step of an LSTM of one layer, by its own equations."""
    h, c = state.chunk(2, -1)
    pre = F.linear(u, model.weight_ih_l0, model.bias_ih_l0) + F.linear(h, model.weight_hh_l0, model.bias_hh_l0)
    i, f, g, o = pre.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.cat([torch.sigmoid(o) * torch.tanh(c), c], -1)


class LearnedStart(nn.Module):
    """A GRU with a trained h₀."""

    def __init__(self):
        super().__init__()
        self.rnn, self.h0, self.out = nn.GRU(3, 6, batch_first=True), nn.Parameter(torch.randn(1, 1, 6)), nn.Linear(6, 2)

    def forward(self, x):
        y, _ = self.rnn(x, self.h0.expand(-1, len(x), -1).contiguous())
        return self.out(y)


class TokenLSTM(nn.Module):
    """Embedding, LSTM, tied decoder: a language model whose forward takes (tokens, hidden) and gives both back."""

    def __init__(self):
        super().__init__()
        self.drop, self.encoder, self.rnn, self.decoder = nn.Dropout(0.2), nn.Embedding(11, 6), nn.LSTM(6, 6), nn.Linear(6, 11)
        self.decoder.weight = self.encoder.weight

    def forward(self, tokens, hidden=None):
        output, hidden = self.rnn(self.drop(self.encoder(tokens)), hidden)
        return F.log_softmax(self.decoder(self.drop(output)), -1), hidden


class HandLSTM(nn.Module):
    """An LSTM from scratch: one matrix product, chunk(4), a list of outputs."""

    def __init__(self, i=3, n=5):
        super().__init__()
        self.n, self.w, self.u = n, nn.Linear(i, 4 * n), nn.Linear(n, 4 * n, bias=False)

    def forward(self, x, states=None):
        h, c = states or (x.new_zeros(len(x), self.n), x.new_zeros(len(x), self.n))
        out = []
        for t in range(x.shape[1]):
            i, f, g, o = (self.w(x[:, t]) + self.u(h)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            out.append(h.unsqueeze(1))
        return torch.cat(out, 1), (h, c)


def hand_lstm_step(m, u, s):
    """Its step."""
    h, c = s.chunk(2, -1)
    i, f, g, o = (m.w(u) + m.u(h)).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return torch.cat([o.sigmoid() * c.tanh(), c], -1)


class CellLoop(nn.Module):
    """nn.LSTMCell in a loop, states in lists by layer."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTMCell(3, 5), nn.Linear(5, 2)

    def forward(self, x):
        h, c = x.new_zeros(len(x), 5), x.new_zeros(len(x), 5)
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t, :], (h, c))
        return self.head(h)


def lstm_cell_step(cell, u, s):
    """The step of an nn.LSTMCell."""
    return torch.cat(cell(u, s.chunk(2, -1)), -1)


class TwoCells(nn.Module):
    """Two nn.GRUCells stacked by hand: the state of the network is both of theirs."""

    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.ModuleList([nn.GRUCell(3, 4), nn.GRUCell(4, 5)]), nn.Linear(5, 1)

    def forward(self, x):
        h = [x.new_zeros(len(x), 4), x.new_zeros(len(x), 5)]
        for u in x.unbind(1):
            for i, cell in enumerate(self.cells):
                h[i] = cell(u if i == 0 else h[i - 1], h[i])
        return self.head(h[-1])


def two_cells_step(m, u, s):
    """Their step."""
    a = m.cells[0](u, s[:, :4])
    return torch.cat([a, m.cells[1](a, s[:, 4:])], -1)


class NamedCell(nn.Module):
    """A closed-form continuous cell, called as self.cell.forward(…) with the time between samples."""

    class CfC(nn.Module):
        """σ(−f t) g + (1 − σ(−f t)) h."""

        def __init__(self, i=2, n=5):
            super().__init__()
            self.backbone, self.f, self.g, self.k = nn.Linear(i + n, 8), nn.Linear(8, n), nn.Linear(8, n), nn.Linear(8, n)

        def forward(self, u, h, ts=1.0):
            z = torch.tanh(self.backbone(torch.cat([u, h], -1)))
            gate = torch.sigmoid(-self.f(z) * ts)
            return gate * torch.tanh(self.g(z)) + (1 - gate) * torch.tanh(self.k(z))

    def __init__(self):
        super().__init__()
        self.cell, self.fc = self.CfC(), nn.Linear(5, 1)

    def forward(self, x):
        h = torch.zeros(x.size(0), 5, device=x.device, dtype=x.dtype)
        for t in range(x.size(1)):
            h = self.cell.forward(x[:, t], h, 1.0)
        return self.fc(h)


class LiquidCell(nn.Module):
    """A liquid time constant network: a fused semi-implicit solver of several unfoldings in each step."""

    def __init__(self, i=2, n=4, unfolds=3):
        super().__init__()
        self.unfolds, self.a, self.tau = unfolds, nn.Parameter(torch.randn(n)), nn.Parameter(torch.rand(n) + 0.5)
        self.f, self.n = nn.Linear(i + n, n), n

    def cell(self, u, h):
        for _ in range(self.unfolds):
            f = torch.sigmoid(self.f(torch.cat([u, h], -1)))
            h = (h + 0.3 * f * self.a) / (1 + 0.3 * (1 / self.tau + f))
        return h

    def forward(self, x):
        h, out = x.new_zeros(len(x), self.n), []
        for u in x.unbind(1):
            h = self.cell(u, h)
            out.append(h)
        return torch.stack(out, 1)


class Reservoir(nn.Module):
    """An echo state network: matrices as buffers, one of them sparse, leak, and a linear readout."""

    def __init__(self, n=12):
        super().__init__()
        w = torch.randn(n, n) * (torch.rand(n, n) < 0.4)
        w = 0.9 * w / torch.linalg.eigvals(w).abs().max()
        self.register_buffer("win", torch.rand(n, 2) - 0.5)
        self.register_buffer("w", w.to_sparse())
        self.readout, self.n = nn.Linear(n, 1), n

    def forward(self, u):
        x, states = u.new_zeros(self.n, u.shape[1]), []
        for t in range(u.shape[0]):
            x = 0.5 * x + 0.5 * torch.tanh(self.win @ u[t].T + torch.sparse.mm(self.w, x))
            states.append(x.T)
        return self.readout(torch.stack(states))


def reservoir_step(m, u, s):
    """Its step, dense."""
    return 0.5 * s + 0.5 * torch.tanh(u @ m.win.T + s @ m.w.to_dense().T)


class StatefulReservoir(nn.Module):
    """A reservoir that keeps its state in a buffer from one call to the next."""

    def __init__(self, n=6):
        super().__init__()
        self.register_buffer("state", torch.zeros(n))
        self.win, self.w = nn.Linear(2, n, bias=False), nn.Linear(n, n, bias=False)

    def forward(self, u):
        out = []
        for one in u:
            self.state = torch.tanh(self.win(one) + self.w(self.state))
            out.append(self.state)
        return torch.stack(out)


class IndependentRNN(nn.Module):
    """IndRNN: each unit feeds on itself only."""

    def __init__(self, n=6):
        super().__init__()
        self.win, self.w = nn.Linear(3, n), nn.Parameter(torch.rand(n))

    def forward(self, x):
        h = x.new_zeros(len(x), 6)
        out = []
        for t in range(x.shape[1]):
            h = F.relu(self.win(x[:, t]) + self.w * h)
            out.append(h)
        return torch.stack(out, 1)


class SRU(nn.Module):
    """Gates of all steps at once before the loop, and only elementwise work inside."""

    def __init__(self, n=4):
        super().__init__()
        self.w = nn.Linear(n, 3 * n)

    def forward(self, x):
        z, f, r = self.w(x).chunk(3, -1)
        f, r = f.sigmoid(), r.sigmoid()
        c, out = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            c = f[:, t] * c + (1 - f[:, t]) * z[:, t]
            out.append(r[:, t] * torch.tanh(c) + (1 - r[:, t]) * x[:, t])
        return torch.stack(out, 1)


def sru_step(m, u, c):
    """Its step."""
    z, f, _ = m.w(u).chunk(3, -1)
    return f.sigmoid() * c + (1 - f.sigmoid()) * z


class MinGRU(nn.Module):
    """minGRU in parallel form: a scan over the whole sequence by cumulative sums of logarithms, no loop at all."""

    def __init__(self, i=3, n=4):
        super().__init__()
        self.z, self.h = nn.Linear(i, n), nn.Linear(i, n)

    def forward(self, x):
        keep, add = F.logsigmoid(-self.z(x)), F.logsigmoid(self.z(x)) + F.softplus(self.h(x)).log()
        total = keep.cumsum(1)
        return (total + torch.logcumsumexp(add - total, 1)).exp()


class PhasedLSTM(nn.Module):
    """An oscillating gate by the step's index: the step depends on t."""

    def __init__(self, n=4):
        super().__init__()
        self.cell, self.period = nn.LSTMCell(2, n), nn.Parameter(torch.tensor([3.0, 5.0, 7.0, 9.0]))

    def forward(self, x):
        h = c = x.new_zeros(len(x), 4)
        for t in range(x.shape[1]):
            phase = (t % self.period) / self.period
            k = torch.where(phase < 0.5, 2 * phase, torch.zeros_like(phase))
            h2, c2 = self.cell(x[:, t], (h, c))
            h, c = k * h2 + (1 - k) * h, k * c2 + (1 - k) * c
        return h


class ConvLSTM(nn.Module):
    """A convolutional LSTM over (batch, time, channel, height, width)."""

    def __init__(self):
        super().__init__()
        self.conv, self.hidden_dim = nn.Conv2d(1 + 2, 4 * 2, 3, padding=1), 2

    def forward(self, x):
        b, _, _, height, width = x.shape
        h = c = x.new_zeros(b, 2, height, width)
        for t in range(x.shape[1]):
            i, f, o, g = self.conv(torch.cat([x[:, t], h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return h


def conv_lstm_step(m, u, s):
    """Its step."""
    h, c = (part.reshape(-1, 2, 3, 3) for part in s.chunk(2, -1))
    i, f, o, g = m.conv(torch.cat([u, h], 1)).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return torch.cat([(o.sigmoid() * c.tanh()).flatten(1), c.flatten(1)], -1)


class LayerNormLSTM(nn.Module):
    """A layer-norm LSTM cell with its own parameters, looped as PyTorch's TorchScript example does."""

    class Cell(nn.Module):
        """Norms on both products and on the cell state."""

        def __init__(self, i, n):
            super().__init__()
            self.wi, self.wh = nn.Parameter(torch.randn(4 * n, i)), nn.Parameter(torch.randn(4 * n, n))
            self.ni, self.nh, self.nc = nn.LayerNorm(4 * n), nn.LayerNorm(4 * n), nn.LayerNorm(n)

        def forward(self, x, state):
            h, c = state
            i, f, g, o = (self.ni(x @ self.wi.T) + self.nh(h @ self.wh.T)).chunk(4, 1)
            c = self.nc(f.sigmoid() * c + i.sigmoid() * g.tanh())
            h = o.sigmoid() * c.tanh()
            return h, (h, c)

    def __init__(self):
        super().__init__()
        self.cell = self.Cell(3, 4)

    def forward(self, x, state):
        out = []
        for u in x.unbind(0):
            y, state = self.cell(u, state)
            out.append(y)
        return torch.stack(out), state


class Zoneout(nn.Module):
    """Units keep their old value at random in training and on average otherwise; left in train mode."""

    def __init__(self, p=0.2):
        super().__init__()
        self.cell, self.p = nn.GRUCell(3, 5), p

    def forward(self, x):
        h = x.new_zeros(len(x), 5)
        for u in x.unbind(1):
            new = self.cell(u, h)
            mask = torch.bernoulli(torch.full_like(h, self.p)) if self.training else self.p
            h = mask * h + (1 - mask) * new
        return h


class GRUD(nn.Module):
    """GRU-D: values, masks and intervals as one input; the state decays with the interval before the step."""

    def __init__(self):
        super().__init__()
        self.gamma, self.cell = nn.Linear(1, 5), nn.GRUCell(4, 5)

    def forward(self, x):
        values, mask, delta = x[..., :2], (x[..., 2:4] > 0).to(x), x[..., 4:].abs()
        h = x.new_zeros(len(x), 5)
        for t in range(x.shape[1]):
            h = h * torch.exp(-F.relu(self.gamma(delta[:, t])))
            h = self.cell(torch.cat([mask[:, t] * values[:, t], mask[:, t]], -1), h)
        return h


def gru_d_step(m, x, h):
    """Its step."""
    h = h * torch.exp(-F.relu(m.gamma(x[:, 4:].abs())))
    mask = (x[:, 2:4] > 0).to(x)
    return m.cell(torch.cat([mask * x[:, :2], mask], -1), h)


class MultiplicativeLSTM(nn.Module):
    """mLSTM: an intermediate state (W x)(U h) instead of h in the gates."""

    def __init__(self, i=3, n=4):
        super().__init__()
        self.wmx, self.wmh, self.wx, self.wm, self.n = nn.Linear(i, n), nn.Linear(n, n), nn.Linear(i, 4 * n), nn.Linear(n, 4 * n), n

    def step(self, x, state):
        h, c = state
        m = self.wmx(x) * self.wmh(h)
        i, f, o, g = (self.wx(x) + self.wm(m)).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def forward(self, x):
        state = (x.new_zeros(x.shape[0], self.n),) * 2
        for t in range(x.shape[1]):
            state = self.step(x[:, t], state)
        return state[0]


class Spiking(nn.Module):
    """Leaky integrate-and-fire units with a surrogate gradient, membrane kept by the loop."""

    class Spike(torch.autograd.Function):
        """A step; fast sigmoid in the backward pass."""

        @staticmethod
        def forward(ctx, v):
            ctx.save_for_backward(v)
            return (v > 0).to(v)

        @staticmethod
        def backward(ctx, grad):
            (v,) = ctx.saved_tensors
            return grad / (1 + 10 * v.abs()) ** 2

    def __init__(self, n=6, beta=0.9):
        super().__init__()
        self.fc, self.rec, self.beta = nn.Linear(3, n), nn.Linear(n, n, bias=False), beta

    def forward(self, x):
        mem = spk = x.new_zeros(len(x), 6)
        out = []
        for t in range(x.shape[1]):
            mem = self.beta * mem + self.fc(x[:, t]) + self.rec(spk) - spk
            spk = self.Spike.apply(mem - 1)
            out.append(spk)
        return torch.stack(out, 1)


class Bidirectional(nn.Module):
    """A bidirectional LSTM tagger."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.LSTM(3, 4, bidirectional=True, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


class AlwaysPacks(nn.Module):
    """Packs by lengths that it takes beside the inputs."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.GRU(3, 5, batch_first=True), nn.Linear(5, 1)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out, h = self.rnn(packed)
        return self.out(nn.utils.rnn.pad_packed_sequence(out, batch_first=True)[0]), h


class EncoderOfWindows(nn.Module):
    """A convolution over time, then a GRU of two layers, then pooling, as in speech and sensors."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4)
        self.rnn, self.head = nn.GRU(4, 3, num_layers=2, batch_first=True, dropout=0.3), nn.Linear(3, 2)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x.transpose(1, 2)))).transpose(1, 2)
        return self.head(self.rnn(x)[0].mean(1))


def stacked_gru_step(m, u, s):
    """Two layers."""
    out = []
    for layer, h in enumerate(s.chunk(2, -1)):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        wi, wh, bi, bh = (getattr(m.rnn, f"{name}_l{layer}") for name in names)
        gi, gh = F.linear(u, wi, bi).chunk(3, -1), F.linear(h, wh, bh).chunk(3, -1)
        r, z = torch.sigmoid(gi[0] + gh[0]), torch.sigmoid(gi[1] + gh[1])
        u = (1 - z) * torch.tanh(gi[2] + r * gh[2]) + z * h
        out.append(u)
    return torch.cat(out, -1)


def windows(x):
    """What the convolution makes of the inputs, (time, sequences, …), in float64."""
    from foreign.oracle import exact

    m = exact(EncoderOfWindows)
    with torch.no_grad():
        return F.relu(m.norm(m.conv(x.double().transpose(1, 2)))).permute(2, 0, 1)


class Elman(nn.Module):
    """PyTorch's name classifier: input and state concatenated, forward(input, hidden) → (output, hidden), one step a call."""

    def __init__(self, i=3, n=6, o=2):
        super().__init__()
        self.hidden_size = n
        self.i2h, self.h2h, self.h2o, self.softmax = nn.Linear(i, n), nn.Linear(n, n), nn.Linear(n, o), nn.LogSoftmax(dim=1)

    def forward(self, input, hidden):
        hidden = F.tanh(self.i2h(input) + self.h2h(hidden))
        return self.softmax(self.h2o(hidden)), hidden

    def initHidden(self):
        return torch.zeros(1, self.hidden_size)


def leaky(m, u, h):
    """One step of a CTRNN."""
    return m.recurrence(u, h)


def data_parallel_tagger():
    """DataParallel around an LSTM tagger."""
    return nn.DataParallel(Tagger())


def compiled_tagger():
    """torch.compile around an LSTM tagger."""
    return torch.compile(Tagger(), backend="eager")


class Tagger(nn.Module):
    """What is wrapped."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


class SingleUnit(nn.Module):
    """One unit, one input, one sequence."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(1, 1, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


def rnn_step(m, u, h):
    """One step of an nn.RNN of one layer."""
    rnn = m.rnn
    return torch.tanh(F.linear(u, rnn.weight_ih_l0, rnn.bias_ih_l0) + F.linear(h, rnn.weight_hh_l0, rnn.bias_hh_l0))


class ResetEachStep(nn.Module):
    """A cell that is given a fresh state at every step: no recurrence at all, but for its name."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x):
        return torch.stack([self.cell(u, torch.zeros_like(u[:, :1]).expand(-1, 4)) for u in x.unbind(1)], 1)


TIME_FIRST = {"sequences": lambda x: x}
U3, U2 = numbers(4, 12, 3), numbers(4, 12, 2)
T3 = numbers(30, 4, 3)
LOOP = r"loop|as_cell|module="

CASES = [
    Looped(CTRNN, T3, leaky, 8, refused={"analyze": LOOP}, **TIME_FIRST),
    Looped(TaskNet, T3, lambda m, u, h: leaky(m.rnn, u, h), 8, refused={"analyze": LOOP}, **TIME_FIRST),
    Looped(
        BatchFirstLeaky,
        U3,
        lambda m, u, h: 0.7 * h + 0.3 * torch.relu(m.wi(u) + m.wh(h)),
        6,
        refused={"analyze": LOOP},
    ),
    Looped(Preallocated, U2, lambda m, u, h: torch.tanh(m.wi(u) + m.wh(h)), 5, refused={"analyze": LOOP}),
    Looped(LowRank, U3, lambda m, u, h: h, 10, refused={"analyze": "noise|random|draw|" + LOOP}),
    Looped(
        quiet_low_rank,
        U3,
        lambda m, u, h: h + m.alpha * (-h + torch.tanh(h) @ m.n @ m.m.T / m.hidden_size + u @ m.wi),
        10,
        refused={"analyze": LOOP},
    ),
    Looped(
        Dale,
        T3,
        lambda m, u, h: 0.8 * h + 0.2 * (m.win(u) + F.linear(torch.relu(h), m.effective(), m.bias)),
        8,
        refused={"analyze": LOOP},
        **TIME_FIRST,
    ),
    Looped(
        TwoDelays,
        U2,
        lambda m, u, s: torch.cat([torch.tanh(m.a(s[:, :4]) + m.b(s[:, 4:]) + m.u(u)), s[:, :4]], -1),
        8,
        refused={"analyze": LOOP},
    ),
    Looped(TutorialGRU, numbers(5, 14, 4), lambda m, u, h: gru(m.rnn, u, h), 8),
    Looped(LearnedStart, U3, lambda m, u, h: gru(m.rnn, u, h), 6),
    Looped(
        TokenLSTM,
        torch.randint(0, 11, (12, 4), generator=torch.Generator().manual_seed(0)),
        lambda m, u, s: lstm(m.rnn, m.encoder(u), s),
        12,
        **TIME_FIRST,
    ),
    Looped(HandLSTM, U3, hand_lstm_step, 10, refused={"analyze": LOOP}),
    Looped(CellLoop, U3, lambda m, u, s: lstm_cell_step(m.cell, u, s), 10),
    Looped(TwoCells, U3, two_cells_step, 9, refused={"analyze": r"2 recurrent parts.*cells\.0"}),
    Looped(NamedCell, U2, lambda m, u, h: m.cell.forward(u, h), 5, refused={"analyze": LOOP}),
    Looped(NamedCell, U2, lambda m, u, h: m.cell.forward(u, h), 5, module="cell", refused={"analyze": LOOP}, name="NamedCell-told"),
    Looped(LiquidCell, U2, lambda m, u, h: m.cell(u, h), 4, refused={"analyze": LOOP}),
    Looped(Reservoir, numbers(20, 4, 2), reservoir_step, 12, refused={"analyze": LOOP}, **TIME_FIRST),
    Looped(
        StatefulReservoir,
        numbers(25, 2),
        lambda m, u, h: torch.tanh(m.win(u) + m.w(h)),
        6,
        sequences=lambda x: x[:, None],
        refused={"analyze": "state|buffer|" + LOOP},
    ),
    Looped(IndependentRNN, U3, lambda m, u, h: F.relu(m.win(u) + m.w * h), 6, refused={"analyze": LOOP}),
    Looped(SRU, numbers(4, 12, 4), sru_step, 4, refused={"analyze": LOOP}),
    Looped(PhasedLSTM, U2, lambda m, u, s: s, 8, refused={"analyze": "changes the state in between|" + LOOP}),
    Looped(
        ConvLSTM,
        numbers(2, 6, 1, 3, 3),
        conv_lstm_step,
        36,
        refused={"analyze": LOOP},
    ),
    Looped(
        LayerNormLSTM,
        T3,
        lambda m, u, s: torch.cat(m.cell(u, s.chunk(2, -1))[1], -1),
        8,
        given=lambda x: (x, (torch.zeros(4, 4), torch.zeros(4, 4))),
        refused={"analyze": LOOP},
        **TIME_FIRST,
    ),
    Looped(
        Zoneout,
        U3,
        lambda m, u, h: 0.2 * h + 0.8 * m.cell(u, h),
        5,
        refused={"analyze": "changes the state in between|" + LOOP},
    ),
    Looped(GRUD, numbers(4, 10, 5), gru_d_step, 5, refused={"analyze": "changes the state in between|" + LOOP}),
    Looped(MultiplicativeLSTM, U3, lambda m, u, s: torch.cat(m.step(u, s.chunk(2, -1)), -1), 8, refused={"analyze": LOOP}),
    Looped(Spiking, U3, lambda m, u, s: s, 12, refused={"analyze": "spik|jump|surrogate|" + LOOP}),
    Looped(Bidirectional, U3, lambda m, u, s: s, 8, refused={"analyze": "bidirectional"}),
    Looped(
        AlwaysPacks,
        U3,
        lambda m, u, h: gru(m.rnn, u, h),
        5,
        given=lambda x: (x, torch.tensor([12, 12, 12, 12])),
    ),
    Looped(EncoderOfWindows, U2, stacked_gru_step, 6, sequences=windows),
    Looped(
        Elman,
        T3,
        lambda m, u, h: m(u, h)[1],
        6,
        **TIME_FIRST,
    ),
    Looped(data_parallel_tagger, U3, lambda m, u, s: lstm(m.rnn, u, s), 8, plain=Tagger),
    Looped(compiled_tagger, U3, lambda m, u, s: lstm(m.rnn, u, s), 8, plain=Tagger),
    Looped(SingleUnit, numbers(1, 200, 1), rnn_step, 1),
    Looped(Tagger, U3.numpy(), lambda m, u, s: lstm(m.rnn, u, s), 8, sequences=lambda x: torch.from_numpy(x).transpose(0, 1)),
]
