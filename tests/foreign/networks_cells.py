"""Cells as papers and libraries write them: states of many kinds, what they return, what they are built of."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreign.oracle import Celled


class Cell(nn.Module):
    """Says its sizes."""

    def __init__(self, i=3, n=5):
        super().__init__()
        self.input_size, self.hidden_size = i, n


class Peephole(Cell):
    """An LSTM cell whose gates see the cell state; returns (h, (h, c))."""

    def __init__(self):
        super().__init__(3, 4)
        self.x, self.h, self.peep = nn.Linear(3, 16), nn.Linear(4, 16, bias=False), nn.Parameter(torch.randn(3, 4))

    def forward(self, u, state):
        h, c = state
        i, f, g, o = (self.x(u) + self.h(h)).chunk(4, -1)
        c2 = torch.sigmoid(f + self.peep[0] * c) * c + torch.sigmoid(i + self.peep[1] * c) * torch.tanh(g)
        h2 = torch.sigmoid(o + self.peep[2] * c2) * torch.tanh(c2)
        return h2, (h2, c2)


class Coupled(Cell):
    """coRNN: (h, z) with a damped oscillator, in one implicit-explicit step."""

    def __init__(self, n=4):
        super().__init__(2, n)
        self.f = nn.Linear(2 + 2 * n, n)

    def forward(self, u, state):
        h, z = state
        z = z + 0.1 * (torch.tanh(self.f(torch.cat([u, h, z], -1))) - h - 0.5 * z)
        return h + 0.1 * z, z


class Unicorn(Cell):
    """UnICORNN: independent oscillators with a learned step each."""

    def __init__(self, n=4):
        super().__init__(2, n)
        self.w, self.c, self.v = nn.Parameter(torch.rand(n)), nn.Parameter(torch.randn(n)), nn.Linear(2, n)

    def forward(self, u, state):
        y, z = state
        z = z - 0.1 * torch.sigmoid(self.c) * (torch.tanh(self.w * y + self.v(u)) + 0.9 * y)
        return y + 0.1 * torch.sigmoid(self.c) * z, z


class LongExpressive(Cell):
    """LEM: two learned time scales."""

    def __init__(self, n=4):
        super().__init__(3, n)
        self.x, self.y, self.z = nn.Linear(3, 4 * n), nn.Linear(n, 3 * n), nn.Linear(n, n)

    def forward(self, u, state):
        y, z = state
        a, b, c, d = self.x(u).chunk(4, -1)
        p, q, r = self.y(y).chunk(3, -1)
        dt, du = 0.5 * torch.sigmoid(a + p), 0.5 * torch.sigmoid(b + q)
        z = (1 - dt) * z + dt * torch.tanh(c + r)
        y = (1 - du) * y + du * torch.tanh(self.z(z) + d)
        return y, z


class Unitary(Cell):
    """A complex state, a unitary diagonal and modReLU."""

    def __init__(self, n=3):
        super().__init__(2, n)
        self.phase, self.win, self.bias = nn.Parameter(torch.rand(n) * 6), nn.Linear(2, 2 * n), nn.Parameter(-0.05 * torch.rand(n))

    def forward(self, u, h):
        h = h * torch.exp(1j * self.phase) + torch.complex(*self.win(u).chunk(2, -1))
        return h * F.relu(h.abs() + self.bias) / (h.abs() + 1e-3)


class DiagonalSSM(Cell):
    """S5 or LRU: a complex diagonal of e^{−e^ν + iθ} kept as pairs of reals; returns (y, state)."""

    def __init__(self, n=3):
        super().__init__(2, n)
        self.nu, self.theta = nn.Parameter(torch.randn(n) - 1), nn.Parameter(torch.rand(n))
        self.b, self.c = nn.Parameter(torch.randn(n, 2, 2)), nn.Linear(2 * n, 2)

    def forward(self, u, state):
        decay = torch.exp(-torch.exp(self.nu))
        a, b = decay * torch.cos(self.theta), decay * torch.sin(self.theta)
        drive = torch.einsum("bi,nic->bnc", u, self.b)
        re, im = state.unbind(-1)
        state = torch.stack([a * re - b * im, b * re + a * im], -1) + drive
        return self.c(torch.relu(state.flatten(1))), state


class Selective(Cell):
    """Mamba's step: Δ of the input, exp(ΔA), a state per channel."""

    def __init__(self, d=2, n=3):
        super().__init__(d, d * n)
        self.log_a, self.delta, self.bc = nn.Parameter(torch.randn(d, n)), nn.Linear(d, d), nn.Linear(d, 2 * n)

    def forward(self, u, s):
        dt = F.softplus(self.delta(u))
        b, c = self.bc(u).chunk(2, -1)
        s = torch.exp(-dt[..., None] * self.log_a.exp()) * s + (dt * u)[..., None] * b[:, None]
        return (s * c[:, None]).sum(-1), s


class Legendre(Cell):
    """A Legendre memory unit: fixed A and B as buffers, (h, m)."""

    def __init__(self, n=3, order=3):
        super().__init__(2, n)
        q = torch.arange(order, dtype=torch.float32)
        i, j = torch.meshgrid(q, q, indexing="ij")
        a = (2 * i + 1) * torch.where(i < j, -1.0, (-1.0) ** (i - j + 1))
        self.register_buffer("a", torch.matrix_exp(a / 10))
        self.register_buffer("b", ((2 * q + 1) * (-1.0) ** q / 10)[:, None])
        self.e, self.wx, self.wh, self.wm = nn.Linear(2 + n + order, 1), nn.Linear(2, n), nn.Linear(n, n), nn.Linear(order, n)

    def forward(self, u, state):
        h, m = state
        m = m @ self.a.T + self.e(torch.cat([u, h, m], -1)) @ self.b.T
        h = torch.tanh(self.wx(u) + self.wh(h) + self.wm(m))
        return h, (h, m)


class Exponential(Cell):
    """sLSTM of xLSTM: exponential gates with a normaliser and a stabiliser, a state of four."""

    def __init__(self, n=3):
        super().__init__(2, n)
        self.g = nn.Linear(2 + n, 4 * n)

    def forward(self, u, state):
        h, c, n, m = state
        z, i, f, o = self.g(torch.cat([u, h], -1)).chunk(4, -1)
        f = F.logsigmoid(f)
        new = torch.maximum(f + m, i)
        c = torch.exp(f + m - new) * c + torch.exp(i - new) * torch.tanh(z)
        n = torch.exp(f + m - new) * n + torch.exp(i - new)
        h = torch.sigmoid(o) * c / n.clamp(min=1e-6)
        return h, (h, c, n, new)


class TimeMix(Cell):
    """RWKV's time mixing: the last input and two running sums are the state, a dictionary."""

    def __init__(self, n=3):
        super().__init__(n, n)
        self.mix, self.decay = nn.Parameter(torch.rand(n)), nn.Parameter(torch.randn(n))
        self.k, self.v, self.r = nn.Linear(n, n, bias=False), nn.Linear(n, n, bias=False), nn.Linear(n, n, bias=False)

    def forward(self, u, state):
        x = self.mix * u + (1 - self.mix) * state["last"]
        k, v = self.k(x).exp(), self.v(x)
        keep = torch.exp(-torch.exp(self.decay))
        num, den = keep * state["num"] + k * v, keep * state["den"] + k
        return torch.sigmoid(self.r(x)) * num / (den + 1e-3), {"den": den, "last": u, "num": num}


class Memory(NamedTuple):
    """The state of the next cell."""

    h: Tensor
    c: Tensor


class NamedState(Cell):
    """A NamedTuple as state, read by its names."""

    def __init__(self):
        super().__init__(3, 4)
        self.cell = nn.LSTMCell(3, 4)

    def forward(self, u, state):
        return Memory(*self.cell(u, (state.h, state.c)))


class ReadoutLast(Cell):
    """Returns (state, readout), and both have the same width."""

    def __init__(self, n=4):
        super().__init__(3, n)
        self.f, self.out = nn.Linear(3 + n, n), nn.Linear(n, n)

    def forward(self, u, h):
        h = torch.tanh(self.f(torch.cat([u, h], -1)))
        return h, 5 * self.out(h)


class ReadoutFirst(ReadoutLast):
    """Returns (readout, state), and both have the same width."""

    def forward(self, u, h):
        h, y = super().forward(u, h)
        return y, h


class StateFirst(Cell):
    """forward(hidden, x): the state comes first."""

    def __init__(self, n=4):
        super().__init__(3, n)
        self.x, self.h = nn.Linear(3, n), nn.Linear(n, n)

    def forward(self, hidden, x):
        return torch.tanh(self.x(x) + self.h(hidden))


class FastWeights(Cell):
    """A matrix of fast weights beside h, written by outer products."""

    def __init__(self, n=3):
        super().__init__(2, n)
        self.h, self.x = nn.Linear(n, n), nn.Linear(2, n)

    def forward(self, u, state):
        h, a = state
        a = 0.9 * a + 0.5 * h[..., :, None] * h[..., None, :]
        pre = self.h(h) + self.x(u)
        h = torch.tanh(pre + torch.einsum("bij,bj->bi", a, torch.tanh(pre)))
        return h, a


class TuringMachine(Cell):
    """A small differentiable memory: content addressing, erase and add; (controller, memory, weights)."""

    def __init__(self, n=3, rows=4, width=2):
        super().__init__(2, n)
        self.controller, self.heads = nn.GRUCell(2 + width, n), nn.Linear(n, 3 * width + 1)

    def forward(self, u, state):
        h, memory, weights = state
        h = self.controller(torch.cat([u, torch.einsum("br,brw->bw", weights, memory)], -1), h)
        key, erase, add, beta = self.heads(h).split([2, 2, 2, 1], -1)
        weights = torch.softmax(F.softplus(beta) * F.cosine_similarity(memory, key[:, None], dim=-1, eps=1e-6), -1)
        memory = memory * (1 - weights[..., None] * torch.sigmoid(erase)[:, None]) + weights[..., None] * torch.tanh(add)[:, None]
        return h, (h, memory, weights)


class Hypernetwork(Cell):
    """A small cell writes the scales of a larger one's weights."""

    def __init__(self):
        super().__init__(2, 5)
        self.small, self.scale, self.w, self.x = nn.GRUCell(2, 2), nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(2, 3)

    def forward(self, u, h):
        small = self.small(u, h[:, :2])
        return torch.cat([small, torch.tanh(self.scale(small) * self.w(h[:, 2:]) + self.x(u))], -1)


class NormedCell(Cell):
    """Weights under weight_norm and spectral_norm, and a layer norm."""

    def __init__(self, n=4):
        super().__init__(3, n)
        self.x = nn.utils.parametrizations.weight_norm(nn.Linear(3, n))
        self.h = nn.utils.parametrizations.spectral_norm(nn.Linear(n, n))
        self.norm = nn.LayerNorm(n)

    def forward(self, u, h):
        return torch.tanh(self.norm(self.x(u) + self.h(h)))


class Orthogonal(Cell):
    """A recurrent matrix that is the exponential of a skew one, by a parametrisation, and modReLU."""

    def __init__(self, n=4):
        super().__init__(2, n)
        self.h, self.x = nn.utils.parametrizations.orthogonal(nn.Linear(n, n, bias=False)), nn.Linear(2, n)
        self.b = nn.Parameter(0.1 * torch.rand(n))

    def forward(self, u, h):
        z = self.h(h) + self.x(u)
        return torch.sign(z) * F.relu(z.abs() - self.b)


class PiecewiseLinear(Cell):
    """A PLRNN with a clipped basis expansion, in plain parameters."""

    def __init__(self, n=4, basis=3):
        super().__init__(2, n)
        self.a, self.w, self.c = nn.Parameter(torch.rand(n)), nn.Parameter(torch.randn(n, n) / 4), nn.Parameter(torch.randn(n, 2))
        self.alpha, self.t = nn.Parameter(torch.randn(basis)), nn.Parameter(torch.randn(basis, n))

    def forward(self, u, z):
        parts = F.relu(z[:, None] - self.t) - F.relu(z)[:, None]
        return self.a * z + (self.alpha[:, None] * parts).sum(1) @ self.w.T + u @ self.c.T


class NoisyCell(Cell):
    """Noise in the step, in evaluation too."""

    def __init__(self, n=4):
        super().__init__(3, n)
        self.f = nn.Linear(3 + n, n)

    def forward(self, u, h):
        return torch.tanh(self.f(torch.cat([u, h], -1))) + 0.05 * torch.randn_like(h)


class DropoutCell(Cell):
    """Dropout on the state; left in train mode."""

    def __init__(self, n=4):
        super().__init__(3, n)
        self.f, self.drop = nn.Linear(3 + n, n), nn.Dropout(0.4)

    def forward(self, u, h):
        return torch.tanh(self.f(torch.cat([u, self.drop(h)], -1)))


class CountingCell(Cell):
    """Counts its own calls in an attribute, and its learning rate of the state decays with them."""

    def __init__(self, n=4):
        super().__init__(3, n)
        self.f, self.calls = nn.Linear(3 + n, n), 0

    def forward(self, u, h):
        self.calls += 1
        return h + torch.tanh(self.f(torch.cat([u, h], -1))) / (1 + self.calls)


class ScriptedCell(Cell):
    """torch.jit.script around a cell."""

    def __new__(cls):
        return torch.jit.script(LeakyCell())


class LeakyCell(nn.Module):
    """A leaky cell with type annotations."""

    def __init__(self):
        super().__init__()
        self.input_size, self.hidden_size = 3, 4
        self.x, self.h = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        return 0.7 * h + 0.3 * torch.tanh(self.x(u) + self.h(h))


class AttentionOverPast(Cell):
    """A window of the last four states is the state, attended to by the newest."""

    def __init__(self, n=2, window=4):
        super().__init__(2, n)
        self.f, self.q = nn.Linear(2 + 2 * n, n), nn.Linear(n, n)

    def forward(self, u, past):
        weights = torch.softmax(torch.einsum("bn,bwn->bw", self.q(past[:, -1]), past), -1)
        seen = torch.einsum("bw,bwn->bn", weights, past)
        h = torch.tanh(self.f(torch.cat([u, past[:, -1], seen], -1)))
        return torch.cat([past[:, 1:], h[:, None]], 1)


class GatedByFunction(Cell):
    """Weights made by a closure that was passed in, no parameter of its own but one."""

    def __init__(self, n=3):
        super().__init__(2, n)
        fixed = torch.linspace(-1, 1, n * n).reshape(n, n)
        self.gain = nn.Parameter(torch.tensor(1.3))
        self.mix = lambda h: torch.tanh(h @ fixed.to(h) * self.gain)
        self.x = nn.Linear(2, n)

    def forward(self, u, h):
        return self.mix(h) + 0.1 * self.x(u)


def told(value, at):
    """The state after a call: the whole value, or one of two."""
    return value if at is None else value[at]


def flat(state):
    """A state's tensors as one vector."""
    if isinstance(state, Tensor):
        state = torch.view_as_real(state) if state.is_complex() else state
        return state.flatten(1)
    return torch.cat([flat(part) for part in (state.values() if isinstance(state, dict) else state)], -1)


def split(example):
    """The module's own state of a vector, as the example is built."""

    def of(s):
        pieces = iter(s.split([part.numel() * (2 if part.is_complex() else 1) for part in tensors(example)], -1))

        def fill(one):
            if isinstance(one, Tensor):
                piece = next(pieces)
                if one.is_complex():
                    return torch.view_as_complex(piece.reshape(-1, *one.shape, 2).contiguous())
                return piece.reshape(-1, *one.shape)
            if isinstance(one, dict):
                return {key: fill(part) for key, part in one.items()}
            made = [fill(part) for part in one]
            return type(one)(*made) if hasattr(one, "_fields") else tuple(made)

        return fill(example)

    return of


def tensors(example):
    """Its tensors."""
    if isinstance(example, Tensor):
        return [example]
    return [one for part in (example.values() if isinstance(example, dict) else example) for one in tensors(part)]


def of(make, width, example, at=None, swapped=False, **more):
    """A case whose state looks like the example; `at` is where it stands in what the cell returns."""
    read = split(example)

    def step(m, u, s):
        return flat(told(m(read(s), u) if swapped else m(u, read(s)), at))

    dim = sum(part.numel() * (2 if part.is_complex() else 1) for part in tensors(example))
    given = None if isinstance(example, Tensor) and example.ndim == 1 and not example.is_complex() else example
    return Celled(make, width, dim, step, given, **more)


def zeros(*sizes):
    """Two or more parts of a state."""
    parts = tuple(torch.zeros(size) if isinstance(size, int) else torch.zeros(*size) for size in sizes)
    return parts[0] if len(parts) == 1 else parts


JUMPS = {"recurrent": "random|noise|draw|differ"}
CASES = [
    of(Peephole, 3, zeros(4, 4), at=1),
    of(Coupled, 2, zeros(4, 4)),
    of(Unicorn, 2, zeros(4, 4)),
    of(LongExpressive, 3, zeros(4, 4)),
    of(Unitary, 2, torch.zeros(3, dtype=torch.cfloat), refused={"recurrent": "complex"}),
    of(DiagonalSSM, 2, zeros((3, 2)), at=1),
    of(Selective, 2, zeros((2, 3)), at=1),
    of(Legendre, 2, zeros(3, 3), at=1),
    of(Exponential, 2, zeros(3, 3, 3, 3), at=1),
    of(TimeMix, 3, {"den": torch.zeros(3), "last": torch.zeros(3), "num": torch.zeros(3)}, at=1, refused={"recurrent": "dict"}),
    of(NamedState, 3, Memory(torch.zeros(4), torch.zeros(4)), refused={"recurrent": "NamedState.*tuple"}),
    of(ReadoutLast, 3, zeros(4), at=0, refused={"recurrent": "readout|which|state"}),
    of(ReadoutFirst, 3, zeros(4), at=1, refused={"recurrent": "readout|which|state"}),
    of(StateFirst, 3, zeros(4), swapped=True, refused={"recurrent": r"\(u, state\)"}),
    of(FastWeights, 2, zeros(3, (3, 3))),
    of(TuringMachine, 2, zeros(3, (4, 2), 4), at=1),
    of(Hypernetwork, 2, zeros(5)),
    of(NormedCell, 3, zeros(4)),
    of(Orthogonal, 2, zeros(4)),
    of(PiecewiseLinear, 2, zeros(4)),
    of(NoisyCell, 3, zeros(4), refused=JUMPS),
    of(DropoutCell, 3, zeros(4)),
    of(CountingCell, 3, zeros(4), refused={"recurrent": "state|differ|calls|twice"}),
    of(ScriptedCell, 3, zeros(4), refused={"recurrent": "script"}),
    of(AttentionOverPast, 2, zeros((4, 2))),
    of(GatedByFunction, 2, zeros(3)),
]
