"""No Jacobian and no two inputs show more than the bound of a network that is put together at random."""

import functools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import separatrix as sx
from of_function import Of
from properties import strategies
from properties.strategies import SEEDS, fewer

SIZES = (0.0, 1e-3, 0.3, 1.0, 30.0)  # of the points at which the whole Jacobian is computed
ROUNDING = 1e-9  # of a quotient of two points at a distance of 1e-4 of their size, and of a decomposition


class Residual(nn.Sequential):
    """A container that does more than run its parts."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Doubled(nn.Linear):
    """A layer with another forward pass than its class says."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x) - x.mean()


held = functools.lru_cache(maxsize=4096)  # what a network holds is not drawn anew when it runs
normal = held(strategies.normal)


@held
def weight(seed: int, *shape: int) -> Tensor:
    return normal(seed, *shape) / math.sqrt(shape[-1])


def layer(module: nn.Module, seed: int) -> nn.Module:
    module = module.double().eval()
    for n, tensor in enumerate((*module.parameters(), *module.buffers())):
        if tensor.is_floating_point():
            value = normal(seed + 31 * n, *tensor.shape)
            tensor.data.copy_(value.abs() + 0.2 if tensor.ndim == 1 else value / math.sqrt(tensor[0].numel()))
    return module


@held
def places(seed: int, count: int, n: int) -> Tensor:
    return torch.randint(n, (count,), generator=torch.Generator().manual_seed(seed))


ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.Softplus, nn.Hardswish, nn.LeakyReLU, nn.Softsign, nn.Mish, nn.PReLU)

ANY = {  # of tensors of any shape, the last axis of n numbers; each keeps the shape
    "activation": lambda n, s: ACTIVATIONS[s % len(ACTIVATIONS)]().double(),
    "scale": lambda n, s: Of(lambda x: x * weight(s, n) - normal(s + 1, n)),
    "linear": lambda n, s: layer(nn.Linear(n, n), s),
    "subclass": lambda n, s: layer(Doubled(n, n), s),
    "functional": lambda n, s: Of(lambda x: F.linear(torch.sin(x), weight(s, n, n), weight(s + 1, n))),
    "matmul": lambda n, s: Of(lambda x: x @ weight(s, n, n)),
    "layer norm": lambda n, s: layer(nn.LayerNorm(n, eps=0.3), s),
    "softmax": lambda n, s: nn.Softmax(-1),
    "logsumexp": lambda n, s: Of(lambda x: x - torch.logsumexp(x, -1, keepdim=True)),
    "centred": lambda n, s: Of(lambda x: x - x.mean(-1, keepdim=True)),
    "deviation": lambda n, s: Of(lambda x: x + x.std(-1, keepdim=True) if n > 1 else x),
    "root": lambda n, s: Of(lambda x: torch.sqrt(0.5 + x * x)),
    "norm": lambda n, s: Of(lambda x: torch.relu(x) - torch.linalg.vector_norm(x, dim=-1, keepdim=True)),
    "sort": lambda n, s: Of(lambda x: x.sort(-1).values.flip(-1)),
    "order": lambda n, s: Of(lambda x: x.median(-1, keepdim=True).values + x.amax(-1, keepdim=True) - x),
    "pairs": lambda n, s: Of(lambda x: torch.cat([torch.maximum(x, x.roll(1, -1)), torch.minimum(x, x.roll(1, -1))], -1)[..., :n]),
    "halves": lambda n, s: Of(lambda x: torch.cat([torch.max(*x.repeat(1, *[1] * (x.ndim - 2), 2).chunk(2, -1)), x], -1)[..., ::2]),
    "choice": lambda n, s: Of(lambda x: torch.where(normal(s, n) > 0, 2 * x, x.tanh())),
    "limits": lambda n, s: Of(lambda x: torch.clamp(x, min=-x.abs() * 0.5, max=normal(s, n).abs())),
    "gather": lambda n, s: Of(lambda x: x[..., places(s, n, n)]),
    "messages": lambda n, s: Of(lambda x: torch.zeros_like(x).index_add(-1, places(s, n, n), x)),
    "scatter": lambda n, s: Of(lambda x: x.new_zeros(x.shape).scatter_add(-1, places(s, n, n).expand(x.shape), x)),
    "cumsum": lambda n, s: Of(lambda x: x.cumsum(-1) / n),
    "difference": lambda n, s: Of(lambda x: F.pad(x.diff(dim=-1), (1, 0))),
    "fourier": lambda n, s: Of(lambda x: torch.fft.ifft(torch.fft.fft(x) * torch.polar(normal(s, n).abs(), normal(s, n))).real),
    "spectrum": lambda n, s: Of(lambda x: torch.fft.fft(x, norm="ortho").abs()),
    "hypot": lambda n, s: Of(lambda x: torch.hypot(x, x.flip(-1)) + torch.logaddexp(x, normal(s, n))),
    "lerp": lambda n, s: Of(lambda x: torch.lerp(x, torch.tanh(x), weight(s, n))),
    "potential": lambda n, s: Of(lambda x: x - F.linear(torch.relu(F.linear(x, weight(s, 3, n))), weight(s, 3, n).t())),
    "almost a potential": lambda n, s: Of(
        lambda x: x - F.linear(torch.tanh(F.linear(x, weight(s, 3, n))), weight(s, 3, n).t() + 0.1 * weight(s + 1, n, 3))
    ),
    "hook": lambda n, s: hooked(n, s),
    "instance": lambda n, s: replaced(n, s),
}


def hooked(n: int, seed: int) -> nn.Module:
    module = nn.Sequential(layer(nn.Linear(n, n), seed), nn.Tanh())
    module.register_forward_hook(lambda part, given, made: 3 * made + given[0])
    return module


def replaced(n: int, seed: int) -> nn.Module:
    module = layer(nn.Linear(n, n), seed)
    module.forward = lambda x: F.linear(x, -2 * module.weight).abs()
    return nn.Sequential(module)


def sized(kind: str, channels: int, seed: int, draw) -> nn.Module:
    """A layer of one or two axes behind the channels, which may change the shape."""
    axes = 1 if kind == "sequence" else 2
    size, stride, groups = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.sampled_from((1, channels)))
    pad, spread = draw(st.integers(0, size // 2)), draw(st.integers(1, 2))
    convolution = (nn.Conv1d, nn.Conv2d)[axes - 1]
    turned = (nn.ConvTranspose1d, nn.ConvTranspose2d)[axes - 1]
    pools = ((nn.MaxPool1d, nn.AvgPool1d), (nn.MaxPool2d, nn.AvgPool2d))[axes - 1]
    normal_, mode = (nn.BatchNorm1d, nn.BatchNorm2d)[axes - 1], draw(st.sampled_from(("zeros", "circular", "replicate", "reflect")))
    made = draw(st.sampled_from(("convolution", "same", "turned", "max", "mean", "batch norm", "group norm", "interpolation")))
    if made == "convolution":
        return layer(convolution(channels, channels, size, stride, pad, spread, groups), seed)
    if made == "same":
        return layer(convolution(channels, channels, 3, padding=1, padding_mode=mode), seed)
    if made == "turned":
        return layer(turned(channels, channels, size, stride, min(pad, size - 1), groups=groups), seed)
    if made in ("max", "mean"):
        return pools[made == "mean"](size, stride, pad)
    if made == "batch norm":
        return layer(normal_(channels), seed)
    if made == "group norm":
        return layer(nn.GroupNorm(1, channels, eps=0.3), seed)
    modes = ("nearest", "linear") if axes == 1 else ("nearest", "bilinear", "bicubic")
    mode = draw(st.sampled_from(modes))
    return nn.Upsample(scale_factor=draw(st.sampled_from((0.7, 1.0, 1.6))), mode=mode)


@st.composite
def networks(draw) -> tuple[nn.Module, tuple[int, ...]]:
    kind = draw(st.sampled_from(("vector", "sequence", "image")))
    n, channels = draw(st.integers(2, 4)), draw(st.integers(1, 2))
    shape = {"vector": (n,), "sequence": (channels, n + 2), "image": (channels, 4, n + 1)}[kind]
    x, parts = torch.zeros(1, *shape, dtype=torch.float64), []
    for _ in range(draw(st.integers(1, 4))):
        seed = draw(SEEDS)
        if kind != "vector" and draw(st.booleans()):
            part = sized(kind, channels, seed, draw)
        else:
            part = ANY[draw(st.sampled_from(sorted(ANY)))](x.shape[-1], seed)
        try:
            with torch.no_grad():
                y = part(x)
        except (RuntimeError, ValueError):  # a kernel that is larger than what is left
            continue
        if not y.numel():
            continue
        if y.shape == x.shape and draw(st.booleans()):
            part = Residual(part) if draw(st.booleans()) else sx.nn.Residual(part, scale=0.5)
        x, parts = y, [*parts, part]
    return nn.Sequential(*parts), shape


def jacobian_norm(network: nn.Module, x: Tensor) -> float:
    x = x.clone().requires_grad_()
    y = network(x).flatten()
    if not y.requires_grad:
        return 0.0
    rows = [torch.autograd.grad(one, x, retain_graph=True, allow_unused=True)[0] for one in y]
    dense = torch.stack([torch.zeros(x.numel()).double() if row is None else row.flatten() for row in rows])
    return float(torch.linalg.matrix_norm(dense.nan_to_num(), 2))  # no derivative where a root of 0 is taken


@fewer(3)
@given(networks(), SEEDS)
def test_no_jacobian_and_no_two_inputs_show_more_than_the_bound(made, seed):
    network, shape = made
    found = sx.certificate(network, shape, starts=2, steps=2)
    assert found.is_bounded, found.summary()
    assert found.lower <= found.bound * (1 + ROUNDING)
    for n, size in enumerate(SIZES):
        x = size * normal(seed + n, 1, *shape)
        assert jacobian_norm(network, x) <= found.bound * (1 + ROUNDING)
        y = x + (1e-4 if n % 2 else 1.0) * max(size, 0.1) * normal(seed - n, 1, *shape)
        with torch.no_grad():
            apart = float((network(x) - network(y)).norm() / (x - y).norm())
            rounding = 1e-15 * float((network(x).norm() + network(y).norm()) / (x - y).norm())
        assert apart <= found.bound * (1 + ROUNDING) + 100 * rounding


@pytest.mark.parametrize("name", sorted(ANY))
def test_each_piece_by_itself_is_bounded(name):
    network = ANY[name](4, 1)
    found = sx.certificate(network, 4, starts=2, steps=2)
    largest = max(jacobian_norm(network, size * normal(n, 1, 4)) for n, size in enumerate(SIZES))
    assert largest <= found.bound * (1 + ROUNDING) and found.is_bounded
