"""Momentum and reversible networks: their formulas, their gradients, and what they store."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from torch.func import functional_call, jacfwd, jacrev, vmap
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint

import separatrix as sx

Pair = tuple[Tensor, Tensor]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def perceptron(dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, 7), nn.Tanh(), nn.Linear(7, dim))


def convolution(channels: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1))


def noisy(dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, dim), nn.Dropout(0.4), nn.Tanh(), nn.Dropout1d(0.2))


def normalised(dim: int) -> nn.Module:
    """Its power iteration changes the buffers that its value depends on."""
    return nn.Sequential(spectral_norm(nn.Linear(dim, dim)), nn.Tanh())


def momentum(build, size: int, layers: int, seed: int = 0, **options) -> sx.nn.Momentum:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return sx.nn.Momentum([build(size) for _ in range(layers)], **options).double()


def reversible(build, size: int, layers: int, seed: int = 0, **options) -> sx.nn.Reversible:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return sx.nn.Reversible(
            [build(size // 2) for _ in range(layers)], [build(size // 2) for _ in range(layers)], **options
        ).double()


def by_momentum(layers, x: Tensor, gamma: float = 0.9) -> Tensor:
    """The formula, with stored activations."""
    v = torch.zeros_like(x)
    for f in layers:
        v = gamma * v + (1 - gamma) * f(x)
        x = x + v
    return x


def by_couplings(layers, x: Tensor) -> Tensor:
    """The formula, with stored activations; f and g in turns."""
    first, second = x.chunk(2, dim=1)
    for f, g in zip(layers[::2], layers[1::2], strict=True):
        first = first + f(second)
        second = second + g(first)
    return torch.cat([first, second], dim=1)


KINDS = {"momentum": (momentum, by_momentum), "reversible": (reversible, by_couplings)}
LAYERS = {"vectors": (perceptron, (5, 6)), "images": (convolution, (3, 4, 5, 6)), "dropout": (noisy, (5, 6, 3))}


def gradients(value: Tensor, x: Tensor, module: nn.Module) -> list[Tensor]:
    """Of a fixed linear function of the value, by the input and all weights."""
    return list(torch.autograd.grad((value * normal(*value.shape, seed=7).to(value)).sum(), [x, *module.parameters()]))


def furthest(got: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest relative difference."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["vectors", "images"])
def test_values_and_gradients_are_those_of_the_formula_with_stored_activations(kind, what):
    """The lattice has spacing 2⁻⁴⁸, and its products are off by 9 of it."""
    (build, formula), (layer, shape) = KINDS[kind], LAYERS[what]
    network = build(layer, shape[1], 6)
    twin, x = copy.deepcopy(network), normal(*shape).requires_grad_()
    value, wanted = network(x), formula(twin.layers, x)
    torch.testing.assert_close(value, wanted, rtol=0, atol=1e-12)
    assert furthest(gradients(value, x, network), gradients(wanted, x, twin)) < 1e-11
    for name, buffer in network.named_buffers():  # running means of batch norm, written once
        torch.testing.assert_close(buffer, twin.get_buffer(name), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_differences(kind):
    network, x = KINDS[kind][0](perceptron, 4, 3), normal(2, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: network(x), (x, *network.parameters()), eps=1e-5, atol=1e-7)


def test_a_linear_momentum_network_is_the_power_of_a_matrix():
    """Of (x, v) with f(x) = ax:  (1 + (1 − γ)a, γ; (1 − γ)a, γ)."""
    a, gamma, layers = -0.7, 0.8, 9
    f = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(f.weight, a)
    step = np.array([[1 + (1 - gamma) * a, gamma], [(1 - gamma) * a, gamma]])
    network = sx.nn.Momentum([f] * layers, gamma=gamma)
    start = normal(3, 1), normal(3, 1, seed=1)
    found = torch.cat(network.advance(*start), dim=-1)
    wanted = torch.cat(start, dim=-1) @ torch.tensor(np.linalg.matrix_power(step, layers)).mT
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_a_deep_momentum_network_follows_its_second_order_equation():
    """With  f → h f  and  1 − γ = h:  ẍ + ẋ = f(x), to first order in h; SciPy at 1e-11."""
    f, errors, depths = momentum(perceptron, 2, 1).layers[0], [], (20, 40, 80, 160)
    weights = [p.detach().numpy() for p in f.parameters()]

    def field(t: float, y: np.ndarray) -> np.ndarray:
        force = weights[2] @ np.tanh(weights[0] @ y[:2] + weights[1]) + weights[3]
        return np.concatenate([y[2:], force - y[2:]])

    x = np.array([0.5, -1.0])
    wanted = solve_ivp(field, (0, 2), np.concatenate([x, np.zeros(2)]), rtol=1e-11, atol=1e-11).y[:2, -1]
    for depth in depths:
        h = 2 / depth
        network = sx.nn.Momentum([Times(f, h)] * depth, gamma=1 - h)
        errors.append(np.abs(network(torch.tensor(x)).detach().numpy() - wanted).max())
    assert np.polyfit(np.log(depths), np.log(errors), 1)[0] == pytest.approx(-1, abs=0.05)


class Times(nn.Module):
    def __init__(self, module: nn.Module, factor: float) -> None:
        super().__init__()
        self.module, self.factor = module, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.module(x)


class Watched(nn.Module):
    """Remembers what it was called on, in the order of the calls."""

    def __init__(self, module: nn.Module, seen: list[Tensor]) -> None:
        super().__init__()
        self.module, self.seen = module, seen

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return self.module(x)


@pytest.mark.parametrize("gamma", [0.9, 0.5, 1 / 3, 0.995])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_activations_come_back_bit_by_bit(gamma, dtype):
    seen: list[Tensor] = []
    network = momentum(lambda dim: Watched(nn.Sequential(nn.Linear(dim, dim), nn.Tanh()), seen), 4, 300, gamma=gamma).to(dtype)
    network(normal(3, 4, dtype=dtype).requires_grad_()).sum().backward()
    assert len(seen) == 600
    assert all(torch.equal(went, came) for went, came in zip(seen[:300], reversed(seen[300:]), strict=True))


def slow(dim: int) -> nn.Module:
    """One of 1,000 layers that go a time of 3 together, so that gradients neither vanish nor explode."""
    return Times(linear_tanh(dim), 3 / 1000)


def gradients_by_plain_inversion(network: sx.nn.Momentum, x: Tensor, weight: Tensor) -> list[Tensor]:
    """What a momentum network without the store of digits gets, for its input and for its weights."""
    with torch.no_grad():
        x, v = network.advance(x)
    grad_x, grad_v, grads = weight, torch.zeros_like(weight), []
    for f in reversed(network.layers):
        x = (x - v).detach().requires_grad_()
        value = f(x)
        v = (v - (1 - network.gamma) * value.detach()) / network.gamma
        grad_v = grad_v + grad_x
        along, *own = torch.autograd.grad(value, [x, *f.parameters()], (1 - network.gamma) * grad_v)
        grad_x, grad_v, grads = grad_x + along, network.gamma * grad_v, own + grads
    return [grad_x, *grads]


def test_gradients_are_right_to_rounding_through_a_thousand_layers_where_plain_inversion_fails():
    """γ = 0.9 in float32, against stored activations in float64; plain inversion multiplies 6e-8 by γ^-1000 = 6e45.

    350 layers from the end that is 6e8: every tanh before them is at its limit and its weights have the gradient 0, so that all
    weights together are off by √0.65 = 0.8 at least. The input's gradient is left out: it hardly depends on the states, as each
    layer is near the identity.
    """
    exact = momentum(slow, 6, 1000)
    network = copy.deepcopy(exact).float()
    x, w = normal(4, 6), normal(4, 6, seed=1)
    wanted = gradient_of(by_momentum(exact.layers, leaf := x.clone().requires_grad_()), leaf, w, exact)
    ours = gradient_of(network(leaf := x.float().requires_grad_()), leaf, w.float(), network)
    stored = gradient_of(by_momentum(network.layers, leaf := x.float().requires_grad_()), leaf, w.float(), network)
    assert off(ours, wanted) < 2 * off(stored, wanted) < 1e-3
    inverted = gradients_by_plain_inversion(network, x.float(), w.float())
    assert not off(inverted[1:], wanted[1:]) < 0.5


def gradient_of(value: Tensor, x: Tensor, w: Tensor, network: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad((value * w).sum(), [x, *network.parameters()]))


def off(got: list[Tensor], wanted: list[Tensor]) -> float:
    """Relative, of all gradients together."""
    apart = torch.cat([(a.double() - b).flatten() for a, b in zip(got, wanted, strict=True)])
    return float(apart.norm() / torch.cat([b.flatten() for b in wanted]).norm())


def stored_bytes(network: nn.Module, x: Tensor, run=None) -> int:
    return sx.testing.held_bytes(network if run is None else run, x, apart_from=network)


def linear_tanh(dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, dim), nn.Tanh())


def test_a_layer_of_tanh_holds_what_it_takes_and_what_it_gives():
    """The linear layer's input for its weight, and the value of tanh for its slope; counted once where one is the other."""
    x, network = normal(64, 8), nn.Sequential(linear_tanh(8), linear_tanh(8)).double()
    assert stored_bytes(network, x) == 3 * x.numel() * 8
    weights = sum(parameter.numel() for parameter in (network[0][0].weight, network[1][0].weight))
    assert sx.testing.held_bytes(network, x.clone().requires_grad_()) == (3 * x.numel() + weights) * 8


def test_what_a_reversible_network_stores_does_not_grow_with_its_depth():
    x = normal(64, 8)
    kept = [stored_bytes(reversible(linear_tanh, 8, layers), x) for layers in (1, 10, 300)]
    assert kept[0] == kept[1] == kept[2] <= 5 * x.numel() * 8
    plain = [
        stored_bytes(n := reversible(linear_tanh, 8, layers), x, lambda y, n=n: by_couplings(n.layers, y)) for layers in (10, 300)
    ]
    assert plain[1] > 25 * plain[0]
    asked = [stored_bytes(reversible(linear_tanh, 8, layers, recompute=False), x) for layers in (10, 300)]
    assert asked[1] > 25 * asked[0]


@pytest.mark.parametrize("gamma", [0.9, 0.5])
def test_what_a_momentum_network_stores_grows_by_the_bits_that_its_velocity_loses(gamma):
    """A word of 64 bits for each number and some 63 / log2(1/γ) layers."""
    x = normal(64, 8)
    kept = {layers: stored_bytes(momentum(linear_tanh, 8, layers, gamma=gamma), x) for layers in (1, 10, 1000)}
    assert kept[1] == kept[10]
    words = (kept[1000] - kept[10]) / (8 * x.numel())
    bits = -1000 * math.log2(gamma)
    assert bits / 63 - 1 <= words <= bits / 56


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [noisy, normalised])
def test_layers_that_draw_or_iterate_are_called_again_as_they_were(kind, layer):
    build, formula = KINDS[kind]
    network = build(layer, 6, 5)
    twin, x = copy.deepcopy(network), normal(8, 6).requires_grad_()
    states = []
    for run in (network, lambda y: formula(twin.layers, y)):
        torch.manual_seed(3)
        value = run(x)
        torch.rand(5)  # others draw between the passes
        states.append((value, gradients(value, x, network if run is network else twin), torch.get_rng_state()))
    torch.testing.assert_close(states[0][0], states[1][0], rtol=0, atol=1e-12)
    assert furthest(states[0][1], states[1][1]) < 1e-10
    assert torch.equal(states[0][2], states[1][2])
    for name, buffer in network.named_buffers():
        torch.testing.assert_close(buffer, twin.get_buffer(name), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_backward_pass_may_be_asked_twice_for_one_graph(kind):
    network, x = KINDS[kind][0](normalised, 6, 5), normal(8, 6).requires_grad_()
    value = network(x).sum()
    first = torch.autograd.grad(value, [x, *network.parameters()], retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(value, [x, *network.parameters()])))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inside", [False, True], ids=["backward behind", "backward within"])
def test_gradients_under_autocast_are_those_of_stored_activations(kind, inside):
    """Sums of a few bfloat16 numbers, each known to 4e-3. A weight used beside the network too keeps its gradient."""
    build, formula = KINDS[kind]
    network = build(perceptron, 6, 4).float()
    twin, x = copy.deepcopy(network), normal(16, 6, dtype=torch.float32).requires_grad_()
    found = []
    for model, run in ((network, network), (twin, lambda y: formula(twin.layers, y))):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = x if kind == "momentum" else x[:, :3]
            value = run(x) + model.layers[0](half).sum(-1, keepdim=True)
            if inside:
                found.append(gradients(value, x, model))
        if not inside:
            found.append(gradients(value, x, model))
    assert furthest(*found) < 0.03
    assert value.dtype == torch.float32


def test_shared_and_frozen_weights():
    """A layer used five times has the sum of five gradients; a frozen weight has none and leaves the others theirs."""
    f = perceptron(4).double()
    f[0].bias.requires_grad_(False)
    network, x = sx.nn.Momentum([f] * 5), normal(3, 4)
    network(x).square().sum().backward()
    got = [p.grad for p in f.parameters() if p.requires_grad]
    assert f[0].bias.grad is None
    wanted = torch.autograd.grad(by_momentum([f] * 5, x).square().sum(), [p for p in f.parameters() if p.requires_grad])
    assert furthest(got, list(wanted)) < 1e-11
    for p in f.parameters():
        p.requires_grad_(False)
    assert not network(x).requires_grad
    leaf = x.clone().requires_grad_()
    network(leaf).sum().backward()
    assert leaf.grad is not None


def test_weights_swapped_in_for_a_call_get_their_gradients():
    network, x = momentum(perceptron, 4, 3), normal(5, 4)
    others = {name: normal(*p.shape, seed=i).requires_grad_() for i, (name, p) in enumerate(network.named_parameters())}
    value = functional_call(network, others, (x,))
    got = torch.autograd.grad(value.square().sum(), list(others.values()))
    swapped = copy.deepcopy(network)
    swapped.load_state_dict(others)
    wanted = torch.autograd.grad(by_momentum(swapped.layers, x).square().sum(), list(swapped.parameters()))
    assert furthest(list(got), list(wanted)) < 1e-11


def test_weights_changed_between_the_passes_are_refused():
    network = momentum(perceptron, 4, 3)
    value = network(normal(5, 4)).sum()
    with torch.no_grad():
        network.layers[0][0].weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


class Counting(nn.Module):
    """Gives another value at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.scale = 0, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.scale * x / self.calls


def test_a_layer_that_remembers_its_calls_is_refused_rather_than_differentiated_wrongly():
    for network in (sx.nn.Momentum([Counting()]), sx.nn.Reversible([Counting()], [Counting()])):
        value = network(torch.ones(2, 4, requires_grad=True)).sum()
        with pytest.raises(sx.errors.UnsupportedModuleError, match=r"other numbers when it was called again.*\n.*recompute=False"):
            value.backward()


class Conditioned(nn.Module):
    """Depends on a tensor that somebody else holds, and keeps a loss of its own."""

    def __init__(self, condition: Tensor) -> None:
        super().__init__()
        self.linear, self.condition = nn.Linear(4, 4), condition

    def forward(self, x: Tensor) -> Tensor:
        value = self.linear(x) * self.condition
        self.penalty = value.square().mean()
        return value


def test_gradients_that_would_be_lost_in_silence_are_refused():
    x, condition = normal(3, 4, dtype=torch.float32).requires_grad_(), torch.ones(4, requires_grad=True)
    for held in (condition, 2 * condition):
        with pytest.raises(
            sx.errors.UnsupportedModuleError, match=r"Conditioned depends on .*neither its input nor its own.*\n.*recompute"
        ):
            sx.nn.Momentum([Conditioned(held)])(x)
        sx.nn.Momentum([Conditioned(held)], recompute=False)(x).sum().backward()
    assert condition.grad is not None
    layer = Conditioned(condition.detach())
    value = sx.nn.Momentum([layer])(x).sum()
    with pytest.raises(sx.errors.UnsupportedModuleError, match=r"Conditioned.*\n.*recompute=False"):
        (value + layer.penalty).backward()


def test_gradients_of_gradients_are_refused_or_taken_of_stored_activations():
    x = normal(3, 4).requires_grad_()
    with pytest.raises(sx.errors.UnsupportedModuleError, match=r"second derivatives.*\n.*recompute=False"):
        torch.autograd.grad(momentum(perceptron, 4, 3)(x).sum(), x, create_graph=True)
    network = momentum(perceptron, 4, 3, recompute=False)
    first = torch.autograd.grad(network(x).sum(), x, create_graph=True)[0]
    got = torch.autograd.grad(first.square().sum(), x)[0]
    wanted = torch.autograd.functional.hvp(lambda y: by_momentum(network.layers, y).sum(), x, 2 * first.detach())[1]
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


def test_they_are_parts_of_larger_networks_and_of_each_other():
    torch.manual_seed(0)
    inner = momentum(perceptron, 3, 2)
    outer = sx.nn.Reversible([inner, perceptron(3)], [perceptron(3), inner]).double()
    model = nn.Sequential(nn.Linear(4, 6), outer, nn.Linear(6, 2)).double()
    x = normal(5, 4).requires_grad_()
    f, g = inner.layers, outer.layers
    layers = [lambda y: by_momentum(f, y), g[1], g[2], lambda y: by_momentum(f, y)]
    wanted = gradients(model[2](by_couplings(layers, model[0](x))), x, model)
    assert furthest(gradients(model(x), x, model), wanted) < 1e-10
    assert furthest(gradients(checkpoint(model, x, use_reentrant=False), x, model), wanted) < 1e-10


def test_an_item_beyond_the_lattice_becomes_nan_and_leaves_the_others_alone():
    network = momentum(linear_tanh, 3, 8)
    x = normal(3, 3)
    wanted = gradients(network(leaf := x[[0, 2]].clone().requires_grad_()), leaf, network)
    x[1] = 1e5
    value = network(leaf := x.requires_grad_())
    assert value[1].isnan().all() and value[[0, 2]].isfinite().all()
    weight = normal(2, 3, seed=7)
    got = torch.autograd.grad((value[[0, 2]] * weight).sum(), [leaf, *network.parameters()])
    torch.testing.assert_close(got[0][[0, 2]], wanted[0], rtol=0, atol=1e-12)
    assert furthest(list(got[1:]), wanted[1:]) < 1e-11
    assert momentum(linear_tanh, 3, 8, bits=30)(leaf).isfinite().all()
    grown = sx.nn.Momentum([Times(nn.Linear(3, 3), 1e3) for _ in range(8)])  # on the way
    assert grown(torch.ones(2, 3)).isnan().all()


class Spike(nn.Module):
    """Throws the first of its numbers off the lattice."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([1e9] + [1.0] * (x.shape[-1] - 1)).to(x)


def test_gradients_through_what_has_left_the_lattice_are_never_finite_and_wrong():
    """What is lost spreads by one neighbour a layer; the rest of the item is finite, but the way back passes what is lost."""
    torch.manual_seed(0)
    fs = [nn.Conv1d(1, 1, 3, padding=1) for _ in range(6)]
    network = sx.nn.Momentum([*fs[:3], Spike(), *fs[3:]])
    x = normal(2, 1, 16, dtype=torch.float32)
    x[1, 0, 0] = 0.0
    value = network(x.requires_grad_())
    kept = value.isfinite()
    assert not kept[0].all() and kept[0, 0, -1]
    got = torch.autograd.grad(value[kept].sum(), [x, *network.parameters()])
    wanted = torch.autograd.grad(by_momentum(network.layers, x)[kept].sum(), [x, *network.parameters()])
    for one, right in zip(got, wanted, strict=True):
        assert bool((one.isnan() | ((one - right).abs() <= 1e-4 * right.abs().max())).all())


@pytest.mark.parametrize("kind", KINDS)
def test_transforms_and_compilers_see_the_formula(kind):
    build, formula = KINDS[kind]
    network, x = build(perceptron, 4, 3), normal(5, 1, 4)
    wanted = torch.stack([torch.autograd.functional.jacobian(lambda y: formula(network.layers, y), one)[0, :, 0] for one in x])
    for jacobian in (jacrev, jacfwd):
        torch.testing.assert_close(vmap(jacobian(network))(x)[:, 0, :, 0], wanted, rtol=0, atol=1e-12)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x[:, 0]), network(x[:, 0]), rtol=0, atol=1e-12)
    rows = torch.autograd.functional.jacobian(network, x[0], vectorize=True)[0, :, 0]
    torch.testing.assert_close(rows, wanted[0], rtol=0, atol=1e-12)


def test_what_is_done_is_undone():
    x = normal(3, 4, 5, 6)
    network = reversible(convolution, 4, 4).eval()
    with torch.no_grad():
        torch.testing.assert_close(network.inverse(network(x)), x, rtol=0, atol=1e-13)
        other = momentum(perceptron, 4, 10)
        for got, wanted in zip(
            other.inverse(*other.advance(normal(5, 4), normal(5, 4, seed=1))), (normal(5, 4), normal(5, 4, seed=1)), strict=True
        ):
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-13)


def test_lipschitz_factors_bound_dense_jacobians_and_are_those_of_linear_layers_that_stretch_alike():
    """With f(x) = x in each layer the bounds are attained: the matrix of norms is that of the map."""

    def isometries(count: int) -> list[nn.Module]:
        return [sx.nn.Isometry(4).double() for _ in range(count)]

    x = normal(6, 4)
    for network, halves in ((sx.nn.Momentum(isometries(5), gamma=0.8), 1), (sx.nn.Reversible(isometries(3), isometries(3)), 2)):
        y = torch.cat([x] * halves, dim=-1)
        jac = torch.stack([torch.autograd.functional.jacobian(network, one[None])[0, :, 0] for one in y])
        assert torch.linalg.matrix_norm(jac, 2).max() <= network.guarantee.lipschitz * (1 + 1e-12)
    same = sx.nn.Momentum([nn.Identity()] * 5, gamma=0.8)
    wanted = np.linalg.matrix_power(np.array([[1.2, 0.8], [0.2, 0.8]]), 5)[0, 0]
    assert same.guarantee.lipschitz == pytest.approx(wanted, rel=1e-14)
    assert momentum(perceptron, 4, 2).guarantee == sx.nn.Guarantee()
    assert reversible(perceptron, 4, 2).guarantee == sx.nn.Guarantee(log_det=0.0)


@pytest.mark.parametrize("gamma", [0.9, 0.6])
def test_the_exponents_of_a_momentum_network_add_up_to_its_loss_of_volume(gamma):
    torch.manual_seed(0)
    block = sx.nn.MomentumNet(6, layers=3, gamma=gamma).double()
    spectrum = sx.lyapunov_spectrum(block, normal(2, 6), steps=50)
    assert spectrum.exponents.sum(-1).numpy() == pytest.approx(3 * 3 * math.log(gamma), rel=1e-11)
    assert block.guarantee.log_det == pytest.approx(9 * math.log(gamma), rel=1e-14)


@pytest.mark.parametrize(
    ("build", "error", "said"),
    [
        (lambda: sx.nn.Momentum([]), sx.errors.InputError, r"at least 1 module.*0"),
        (lambda: sx.nn.Momentum(nn.Linear(2, 2)), sx.errors.InputError, r"list of modules.*Linear"),
        (lambda: sx.nn.Momentum([torch.tanh]), sx.errors.InputError, "expects modules"),
        (lambda: sx.nn.Momentum([nn.Tanh()], gamma=0.0), sx.errors.InputError, "gamma is 0.0"),
        (lambda: sx.nn.Momentum([nn.Tanh()], gamma=1.5), sx.errors.InputError, "gamma is 1.5"),
        (lambda: sx.nn.Momentum([nn.Tanh()], bits=60), sx.errors.InputError, r"bits is 60.*8 to 56"),
        (lambda: sx.nn.Momentum([nn.Linear(2, 3)])(torch.zeros(4, 2)), sx.errors.ShapeError, r"Linear maps .*\(4, 2\) to \(4, 3\)"),
        (lambda: sx.nn.Momentum([nn.Linear(2, 1)])(torch.zeros(4, 2)), sx.errors.ShapeError, r"\(4, 2\) to \(4, 1\)"),
        (lambda: sx.nn.Momentum([nn.GRU(2, 2)])(torch.zeros(4, 2)), sx.errors.ShapeError, "to a tuple"),
        (lambda: sx.nn.Momentum([nn.Tanh()])(torch.zeros(4, 2).int()), sx.errors.InputError, "floating-point"),
        (lambda: sx.nn.Momentum([nn.Tanh()]).advance(torch.zeros(2), torch.zeros(3)), sx.errors.ShapeError, r"\(2,\).*\(3,\)"),
        (lambda: sx.nn.Reversible([], []), sx.errors.InputError, "at least 1 module"),
        (lambda: sx.nn.Reversible([nn.Tanh()], [nn.Tanh()] * 2), sx.errors.InputError, "1 and 2"),
        (lambda: sx.nn.Reversible([nn.Tanh()], [nn.Tanh()])(torch.zeros(4, 5)), sx.errors.ShapeError, "got 5"),
        (lambda: sx.nn.Reversible([nn.Tanh()], [nn.Tanh()])(torch.zeros(4)), sx.errors.ShapeError, r"axis is 1.*\(4,\)"),
        (
            lambda: sx.nn.Reversible([nn.Linear(2, 1)], [nn.Tanh()])(torch.zeros(3, 4)),
            sx.errors.ShapeError,
            r"\(3, 2\) to \(3, 1\)",
        ),
        (lambda: sx.nn.MomentumNet(5), sx.errors.ShapeError, "dim is 5"),
        (lambda: sx.nn.ReversibleNet(4, layers=0), sx.errors.InputError, "layers is 0"),
    ],
)
def test_bad_input_is_refused_in_a_line_or_two(build, error, said):
    with pytest.raises(error, match=said) as caught:
        build()
    assert len(str(caught.value).splitlines()) <= 2
