"""Random linear stacks: bound ≥ norm ≥ lower and smallest ≤ least, of the dense matrix that the module is when it runs."""

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

import separatrix as sx
from properties.strategies import SEEDS, more, set_weights, uniform
from separatrix.bounds.operator_norm import chain, proof, torus

ROUNDING = 1e-12
MOST = 150  # numbers in an input or an output: the dense matrix takes a millisecond
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
ADAPTIVE = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
PADDINGS = ("zeros", "circular", "reflect", "replicate")
SMALL = st.integers(1, 3)


def each(draw, numbers: st.SearchStrategy[int], d: int) -> tuple[int, ...]:
    return tuple(draw(numbers) for _ in range(d))


def linear(draw, shape: tuple[int, ...]) -> nn.Module:
    return nn.Linear(shape[-1], draw(st.integers(1, 5)), bias=draw(st.booleans()))


def groups_of(draw, channels: int) -> int:
    return draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))


def convolution(draw, shape: tuple[int, ...]) -> nn.Module:
    d, groups = len(shape) - 1, groups_of(draw, shape[0])
    stride = each(draw, SMALL, d)
    padding = draw(st.sampled_from(["valid", "same"] if max(stride) == 1 else ["valid"])) if draw(st.booleans()) else None
    return CONVOLUTIONS[d](
        shape[0],
        groups * draw(SMALL),
        each(draw, st.integers(1, 4), d),
        stride,
        each(draw, st.integers(0, 3), d) if padding is None else padding,
        each(draw, st.integers(1, 3), d),
        groups,
        padding_mode=draw(st.sampled_from(PADDINGS)),
    )


def transposed(draw, shape: tuple[int, ...]) -> nn.Module:
    d, groups = len(shape) - 1, groups_of(draw, shape[0])
    stride, dilation = each(draw, SMALL, d), each(draw, SMALL, d)
    more_outputs = tuple(draw(st.integers(0, max(s, k) - 1)) for s, k in zip(stride, dilation, strict=True))
    kernel, padding = each(draw, st.integers(1, 4), d), each(draw, st.integers(0, 3), d)
    return TRANSPOSED[d](shape[0], groups * draw(SMALL), kernel, stride, padding, more_outputs, groups, True, dilation)


def pool(draw, shape: tuple[int, ...]) -> nn.Module:
    d = len(shape) - 1
    if draw(st.booleans()):
        sizes = tuple(draw(st.sampled_from((None, 1, 2, 3, 5))) for _ in range(d))
        return ADAPTIVE[d](sizes if d > 1 else sizes[0] or 4)
    kernel = each(draw, st.integers(1, 4), d)
    options: dict[str, Any] = {} if d == 1 else {"divisor_override": draw(st.sampled_from((None, None, -2, 3)))}
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    return POOLS[d](kernel, each(draw, SMALL, d), padding, draw(st.booleans()), draw(st.booleans()), **options)


def norm(draw, shape: tuple[int, ...]) -> nn.Module:
    layer = NORMS[max(len(shape) - 1, 1)](shape[0], affine=draw(st.booleans()))
    seed = draw(SEEDS)
    layer.running_mean.copy_(uniform(seed, shape[0]))
    layer.running_var.copy_(1.1 + uniform(seed + 1, shape[0]))
    return layer


def renamed(draw, shape: tuple[int, ...]) -> nn.Module:
    if draw(st.booleans()):
        first = draw(st.integers(1, len(shape)))
        return (
            nn.Flatten(first, draw(st.integers(first, len(shape)))) if draw(st.booleans()) else nn.Flatten(first - len(shape) - 1)
        )
    axis = draw(st.integers(1, len(shape)))
    divisor = draw(st.sampled_from([k for k in (1, 2, 3, 4) if shape[axis - 1] % k == 0]))
    return nn.Unflatten(axis, (divisor, shape[axis - 1] // divisor))


@st.composite
def stacks(draw) -> tuple[list[nn.Module], tuple[int, ...]]:
    """Layers that fit each other, in float64 and in eval, and the shape of their input."""
    d = draw(st.integers(0, 3))
    first = shape = (draw(st.integers(1, 4)), *each(draw, st.integers(1, {0: 1, 1: 9, 2: 5, 3: 3}[d]), d))
    layers = []
    for _ in range(draw(st.integers(1, 4))):
        kinds = [
            linear,
            renamed,
            *([norm] if len(shape) < 5 else []),
            *((convolution, transposed, pool) if 1 < len(shape) < 5 else ()),
        ]
        layer = draw(st.sampled_from(kinds))(draw, shape)
        try:
            with torch.no_grad():
                after = tuple(layer.eval()(torch.zeros(1, *shape)).shape[1:])
        except RuntimeError:  # a kernel larger than the image, a reflection beyond it
            continue
        if after and 0 < math.prod(after) <= MOST:
            layers, shape = [*layers, layer.double()], after
    assume(layers)
    for layer in layers:
        set_weights(layer, draw(SEEDS), draw(st.sampled_from((0.5, 2.0))))
        if draw(st.booleans()) and getattr(layer, "weight", None) is not None:
            layer.weight.data[:1] = layer.weight.data[-1:]  # often of lower rank
    return layers, first


@st.composite
def arranged(draw, layers: list[nn.Module]) -> Any:
    """In a list, a container, or one within the other."""
    cut = draw(st.integers(0, len(layers)))
    return draw(
        st.sampled_from(
            (
                layers,
                nn.Sequential(*layers),
                [nn.Sequential(*layers[:cut]), *layers[cut:]],
                nn.Sequential(nn.Sequential(*layers[:cut]), nn.Identity(), nn.Sequential(*layers[cut:])),
            )
        )
    )


WAYS = st.sampled_from(((1024, 3e9, 2048), (0, -1e30, 2048), (0, 1e30, 2048), (0, 3e9, 1)))


def norm_by(way: tuple[int, float, int], given_layers: Any, shape: tuple[int, ...]) -> sx.results.OperatorNorm:
    """With one way to prove made the cheapest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "SMALL", way[0])
        patch.setattr(torus, "OVERHEAD", way[1])
        patch.setattr(chain, "SMALL", way[2])
        return sx.operator_norm(given_layers, shape)


@torch.no_grad()
def dense(module: nn.Module, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
    """The matrix, by running the module on unit vectors of some size."""
    size = math.prod(shape)
    basis = torch.cat([torch.zeros(1, size), scale * torch.eye(size)]).double().view(size + 1, *shape)
    images = module(basis).flatten(1)
    return (images[1:] - images[:1]).T / scale


def assert_encloses(found: sx.results.OperatorNorm, matrix: Tensor) -> None:
    values = torch.linalg.svdvals(matrix)
    largest = float(values[0])
    least = float(values[-1]) if matrix.shape[0] >= matrix.shape[1] else 0.0
    slack = ROUNDING * max(1.0, largest)
    assert found.bound >= largest - slack
    assert found.lower <= largest + slack
    assert found.smallest is None or found.smallest <= least + slack


@more(70)
@given(stacks(), st.data(), WAYS)
def test_bounds_enclose_the_norm_of_the_matrix(stack, data, way):
    layers, shape = stack
    found = norm_by(way, data.draw(arranged(layers)), shape)
    assert_encloses(found, dense(nn.Sequential(*layers), shape))


class PlusInput(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + x if y.shape == x.shape else y


class Backwards(nn.Sequential):
    def __iter__(self):
        return reversed(list(self._modules.values()))


class Guarded(nn.Sequential):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) * (5 if float(x.abs().max()) > 100 else 1)


def with_hook(module: nn.Module, k: float) -> nn.Module:
    module.register_forward_hook(lambda m, inputs, output: k * output)
    return module


def with_hook_before(module: nn.Module, k: float) -> nn.Module:
    module.register_forward_pre_hook(lambda m, inputs: (k * inputs[0],))
    return module


def with_forward(module: nn.Module, k: float) -> nn.Module:
    own = module.forward
    module.forward = lambda x: k * own(x)
    return module


def with_weights(module: nn.Module, k: float) -> nn.Module:
    """Allowed: a parametrisation says what the weight is."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.utils.parametrize.register_parametrization(layer, "weight", Scaled(k))
    return module


class Scaled(nn.Module):
    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k

    def forward(self, weight: Tensor) -> Tensor:
        return self.k * weight


CONTAINERS = st.sampled_from((nn.Sequential, PlusInput, Backwards, Guarded))
CHANGES = st.sampled_from((None, with_hook, with_hook_before, with_forward, with_weights))


@more(40)
@given(stacks(), CONTAINERS, CHANGES, st.sampled_from((1.0, 3.0, -0.5)), st.booleans(), st.integers(0, 3))
def test_what_containers_hooks_and_instances_change_is_in_the_bound_or_refused(stack, container, change, k, nested, at):
    layers, shape = stack
    if change is not None and nested:
        layers[at % len(layers)] = change(layers[at % len(layers)], k)
    module = container(*layers)
    if change is not None and not nested:
        module = change(module, k)
    module = nn.Sequential(nn.Identity(), module).eval() if nested else module.eval()
    try:
        found = sx.operator_norm(module, shape)
    except sx.errors.UnsupportedModuleError as error:
        assert container is not nn.Sequential or change not in (None, with_weights)
        assert "does" in str(error) or "compute what their weights say" in str(error)
        return
    assert_encloses(found, dense(module, shape))
    assert_encloses(found, dense(module, shape, scale=1e4))
