"""What the properties are tried on: systems made at random, and random recurrent networks, each from a few small numbers."""

import math
from itertools import pairwise
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn

import separatrix as sx
from separatrix.core.derived import Frozen, Padded

SEEDS = st.integers(0, 2**16)
METHODS = ("euler", "heun", "midpoint", "rk4", "dopri5", "implicit_midpoint")
CLASSIC = tuple(
    name for name in sx.tables.SYSTEMS if name not in ("lorenz_section", "magnetic_pendulum", "mackey_glass")
)  # these take seconds


def fewer(times: int) -> settings:
    """So many times fewer examples than the profile has: for what takes seconds."""
    return settings(max_examples=max(2, settings.default.max_examples // times))


def more(times: int) -> settings:
    """So many times the examples of the longer profile, and three times those of the short one: for what takes milliseconds."""
    examples = settings.default.max_examples
    return settings(max_examples=examples * (times if examples >= 200 else 3))


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def uniform(seed: int, *shape: int) -> Tensor:
    return 2 * torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 1


def set_weights(module: nn.Module, seed: int, gain: float) -> nn.Module:
    """Uniform weights of size gain/√fan-in, whatever the module begins with; nothing is drawn from the global generator."""
    for i, weight in enumerate(module.parameters()):
        fan = weight.shape[-1] if weight.ndim > 1 else len(weight)
        weight.data.copy_(gain / math.sqrt(fan) * math.sqrt(3) * uniform(seed + 97 * i, *weight.shape))
    return module


def smooth(kind: str, dim: int, gain: float, seed: int) -> Any:
    """A smooth bounded function of states."""
    w, b = gain / math.sqrt(dim) * normal(seed, dim, dim), 0.3 * normal(seed + 1, dim)

    def function(x: Tensor) -> Tensor:
        z = x @ w.to(x.dtype).mT + b.to(x.dtype)
        if kind == "tanh":
            return torch.tanh(z)
        if kind == "sine":
            return torch.sin(z)
        if kind == "leaky":
            return 0.6 * x + 0.4 * torch.tanh(z)
        return x.roll(1, -1) / (1 + x.square()) + torch.sigmoid(z)

    return function


@st.composite
def maps(draw) -> sx.System:
    kind = draw(st.sampled_from(("tanh", "sine", "leaky", "rational")))
    dim, gain, seed = draw(st.integers(1, 6)), draw(st.sampled_from((0.3, 1.0, 3.0))), draw(SEEDS)
    inner = smooth(kind, dim, gain, seed)
    if draw(st.booleans()):
        return sx.Map(inner, dim)
    return sx.Map(lambda x, n: inner(x) + 0.1 * math.cos(0.7 * n), dim, time_dependent=True)


@st.composite
def flows(draw) -> sx.Flow:
    kind = draw(st.sampled_from(("tanh", "sine", "rational")))
    dim, gain, seed = draw(st.integers(1, 4)), draw(st.sampled_from((0.3, 1.0, 3.0))), draw(SEEDS)
    inner, method, dt = smooth(kind, dim, gain, seed), draw(st.sampled_from(METHODS)), draw(st.sampled_from((0.01, 0.1, 0.5)))
    if draw(st.booleans()):
        return sx.Flow(lambda x: inner(x) - x, dim, dt, method=method)
    return sx.Flow(lambda x, t: inner(x) - x + 0.1 * math.cos(t) * torch.ones_like(x), dim, dt, method=method, time_dependent=True)


@st.composite
def classics(draw) -> sx.System:
    return sx.tables.SYSTEMS[draw(st.sampled_from(CLASSIC))]()


RECURRENT = (nn.RNN, nn.GRU, nn.LSTM)
CELLS = (nn.RNNCell, nn.GRUCell, nn.LSTMCell)


@st.composite
def recurrent_modules(draw, kinds=(*RECURRENT, *CELLS)) -> nn.Module:
    """A recurrent layer, stack or cell of PyTorch's, with weights of its own seed."""
    kind = draw(st.sampled_from(kinds))
    inputs, hidden = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    options: dict[str, Any] = {"bias": draw(st.booleans())}
    if kind in RECURRENT:
        options |= {"num_layers": draw(st.integers(1, 3)), "batch_first": draw(st.booleans())}
    if kind is nn.LSTM and hidden > 1 and draw(st.booleans()):
        options["proj_size"] = draw(st.integers(1, hidden - 1))
    dtype = draw(st.sampled_from((torch.float32, torch.float64)))
    with torch.random.fork_rng(devices=[]):
        module = kind(inputs, hidden, dtype=dtype, **options)
    return set_weights(module, draw(SEEDS), draw(st.sampled_from((0.3, 1.0, 2.5))))


class PairCell(nn.Module):
    """A cell of one's own whose state is (a, (b, c)): one tensor of two axes, and a pair."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = inputs, hidden
        self.read, self.mix = nn.Linear(inputs, hidden), nn.Linear(2 * hidden, hidden, bias=False)
        self.slow = nn.Parameter(torch.zeros(hidden))

    def example_state(self) -> Any:
        return (torch.zeros(2, self.hidden_size), (torch.zeros(self.hidden_size), torch.zeros(1)))

    def forward(self, u: Tensor, state: Any) -> Any:
        a, (b, c) = state
        mixed = torch.tanh(self.read(u) + self.mix(a.flatten(-2)) + c)
        kept = torch.sigmoid(self.slow) * b + torch.sin(mixed)
        return (torch.stack([mixed, kept], dim=-2), (kept, 0.5 * c + b.mean(-1, keepdim=True)))


class LeakyCell(nn.Module):
    """A cell of one's own with one tensor as its state."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = inputs, hidden
        self.i2h, self.h2h = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)

    def forward(self, u: Tensor, h: Tensor) -> Tensor:
        return 0.7 * h + 0.3 * torch.tanh(self.i2h(u) + self.h2h(h))


class TupleCell(LeakyCell):
    """A cell of one's own with (h, c) as its state and (output, state) as its answer."""

    def example_state(self) -> Any:
        return (torch.zeros(self.hidden_size), torch.zeros(self.hidden_size))

    def forward(self, u: Tensor, state: Any) -> Any:
        h, c = state
        c = 0.9 * c + 0.1 * torch.tanh(self.i2h(u) + self.h2h(h))
        return h.sum(-1, keepdim=True), (torch.tanh(c + h), c)


OWN = (PairCell, LeakyCell, TupleCell)


@st.composite
def own_cells(draw) -> nn.Module:
    kind = draw(st.sampled_from(OWN))
    with torch.random.fork_rng(devices=[]):
        cell = kind(draw(st.integers(1, 3)), draw(st.integers(1, 5)))
    cell = cell.to(draw(st.sampled_from((torch.float32, torch.float64))))
    return set_weights(cell, draw(SEEDS), draw(st.sampled_from((0.3, 1.0, 2.5))))


def inputs_for(module: nn.Module, time: int, batch: tuple[int, ...], seed: int) -> Tensor:
    """What the module reads: time first, or behind the batch where it is `batch_first`."""
    values = normal(seed, time, *batch, module.input_size)
    return values.movedim(0, len(batch)) if getattr(module, "batch_first", False) and batch else values


@st.composite
def recurrents(draw) -> sx.Recurrent:
    module, drive, seed = draw(st.one_of(recurrent_modules(), own_cells())), draw(st.integers(0, 2)), draw(SEEDS)
    if drive == 0:
        return sx.Recurrent(module, inputs_for(module, 12, (), seed))
    if drive == 1:
        return sx.Recurrent(module, constant=normal(seed, module.input_size))
    return sx.Recurrent(module, sx.Stream(normal(seed, 4, 5, module.input_size), copies=draw(st.integers(1, 3)), seed=seed))


ACTIVATIONS = (nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU, nn.Softplus, nn.ELU)


@st.composite
def stacks(draw) -> sx.Layers:
    """A feed-forward network; of one width, or of several."""
    dims = [draw(st.integers(1, 5))]
    for _ in range(draw(st.integers(1, 3))):
        dims.append(dims[0] if draw(st.booleans()) else draw(st.integers(1, 5)))
    with torch.random.fork_rng(devices=[]):
        blocks = [nn.Sequential(nn.Linear(a, b), draw(st.sampled_from(ACTIVATIONS))()) for a, b in pairwise(dims)]
    network = set_weights(nn.Sequential(*blocks).double(), draw(SEEDS), 1.0)
    loops = draw(st.sampled_from((1, 2, None))) if dims[0] == dims[-1] else 1
    return sx.Layers(network, dims[0], loops=loops)


@st.composite
def blocks(draw) -> sx.nn.Block:
    names, dim, seed = st.sampled_from(sorted(sx.tables.BLOCKS)), draw(st.sampled_from((4, 6))), draw(SEEDS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if draw(st.booleans()):
            return sx.tables.BLOCKS[draw(names)](dim).double()
        parts: list[nn.Module] = []
        for _ in range(draw(st.integers(2, 3))):
            part = draw(st.sampled_from((*sorted(sx.tables.BLOCKS), "linear", "tanh", "neural ode")))
            if part == "linear":
                parts.append(nn.Linear(dim, dim))
            elif part == "tanh":
                parts.append(nn.Tanh())
            elif part == "neural ode":
                parts.append(sx.nn.NeuralODE(nn.Sequential(nn.Linear(dim, dim), nn.Tanh()), dim, end=1.0))
            else:
                block = sx.tables.BLOCKS[part](dim)
                parts.append(block if block.out == dim else nn.Tanh())
        if not any(isinstance(part, sx.nn.Block) for part in parts):
            parts.append(sx.tables.BLOCKS["gradient"](dim))
        return sx.nn.Sequential(*parts).double()


WIDE = 0.3  # scale of the noise


@st.composite
def systems(draw) -> sx.System:
    """Any of these, wrapped up to twice."""
    system = draw(st.one_of(maps(), flows(), classics(), recurrents(), stacks(), blocks()))
    if isinstance(system, sx.Layers) and len(set(system.shapes)) > 1:
        system = Padded(system)
    for _ in range(draw(st.integers(0, 2))):
        room = system.horizon
        # iterates of iterates bend too much for differences of 1e-5
        once = not any(isinstance(part, sx.Iterate | sx.Stroboscopic) for part in system.modules())
        wraps = ["noisy", "frozen"] + (["iterate"] if once and (room is None or room >= 4) else [])
        wrap = draw(st.sampled_from(wraps))
        if wrap == "noisy":
            system = sx.Noisy(system, 0.01, seed=draw(SEEDS))
        elif wrap == "frozen":
            system = Frozen(system, draw(st.integers(0, 2 if room is None else min(2, room - 1))))
        else:
            system = sx.Iterate(system, draw(st.integers(1, 2 if room is not None else 3)))
    return system
