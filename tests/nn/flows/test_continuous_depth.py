"""Residual networks as integrators: the networks that they are, orders in depth, interpolation, images, and what is refused."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import separatrix as sx
from separatrix.core.tangent import jacobian
from separatrix.flows.methods import SOLVERS
from separatrix.testing import check_module_untouched, check_system

ANY_FIELD = ("euler", "heun", "midpoint", "rk4", "dopri5", "implicit_midpoint")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def fields(count: int, dim: int = 4, hidden: int = 6) -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, dim)).double() for _ in range(count)]


def linear(*matrices: Tensor) -> list[nn.Module]:
    made = []
    for matrix in matrices:
        made.append(nn.Linear(len(matrix), len(matrix), bias=False).double())
        made[-1].weight.data.copy_(matrix)
    return made


class Logistic(nn.Module):
    """ẋ = x (1 − x), whose solution is x₀ eᵗ / (1 − x₀ + x₀ eᵗ)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 - x)


class Swinging(nn.Module):
    """q̇ = V tanh(p), ṗ = −W tanh(q): separable."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.up, self.down = nn.Linear(2, 2).double(), nn.Linear(2, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        q, p = x.chunk(2, -1)
        return torch.cat([self.up(p.tanh()), -self.down(q.tanh())], -1)


def test_euler_s_method_is_the_residual_network_itself():
    layers, x, time = fields(5), normal(3, 4), 2.5
    y = x
    for layer in layers:
        y = y + time / 5 * layer(y)
    for between in ("constant", "linear"):
        torch.testing.assert_close(sx.nn.ContinuousDepth(layers, end=time, between=between)(x), y, rtol=0, atol=1e-14)


def test_one_shared_field_is_a_looped_block():
    (layer,), x = fields(1), normal(3, 4)
    y = x
    for _ in range(7):
        y = y + layer(y) / 7
    torch.testing.assert_close(sx.nn.ContinuousDepth(layer, steps=7)(x), y, rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", ANY_FIELD)
def test_a_shared_linear_field_converges_to_its_exponential_at_the_method_s_order(method):
    matrix, x = torch.tensor([[-0.4, 2.0], [-1.5, 0.1]], dtype=torch.float64), normal(5, 2)
    model = sx.nn.ContinuousDepth(linear(matrix), steps=4, method=method)
    exact = x @ torch.linalg.matrix_exp(matrix).T
    assert order(model, x, exact) == pytest.approx(SOLVERS[method].order, abs=0.25)


@pytest.mark.parametrize("method", ANY_FIELD)
def test_the_logistic_field_converges_to_its_closed_form_at_the_method_s_order(method):
    x = torch.linspace(0.1, 0.7, 4, dtype=torch.float64)[:, None]
    model = sx.nn.ContinuousDepth(Logistic(), 1, steps=2, end=1.5, method=method)
    exact = x * math.exp(1.5) / (1 - x + x * math.exp(1.5))
    assert order(model, x, exact) == pytest.approx(SOLVERS[method].order, abs=0.25)


def order(model: sx.nn.ContinuousDepth, x: Tensor, exact: Tensor) -> float:
    """The slope of log error over log step, over three halvings."""
    factors = np.array([4, 8, 16, 32])
    with torch.no_grad():
        errors = [float((model.refined(int(factor))(x) - exact).norm()) for factor in factors]
    return -np.polyfit(np.log(factors), np.log(errors), 1)[0]


@pytest.mark.parametrize("method", ANY_FIELD)
def test_fields_that_jump_from_layer_to_layer_keep_the_method_s_order(method):
    """The limit is the product of the layers' exponentials: no stage looks across a border."""
    a, b, c = (0.8 * normal(3, 3, seed=seed) for seed in range(3))
    model, x = sx.nn.ContinuousDepth(linear(a, b, c), end=3.0, method=method), normal(5, 3)
    exact = x @ torch.linalg.matrix_exp(a).T @ torch.linalg.matrix_exp(b).T @ torch.linalg.matrix_exp(c).T
    assert order(model, x, exact) == pytest.approx(SOLVERS[method].order, abs=0.3)


@pytest.mark.parametrize("method", ANY_FIELD)
def test_fields_that_are_interpolated_keep_the_method_s_order(method):
    """A field a(t) x of one number, a piecewise linear: x(T) = x₀ e^{∫a}, the trapezia and the last layer's own time."""
    a = (0.3, -1.2, 1.7)
    model = sx.nn.ContinuousDepth(
        linear(*(torch.tensor([[one]], dtype=torch.float64) for one in a)), end=3.0, between="linear", method=method
    )
    x = normal(5, 1)
    exact = x * math.exp((a[0] + a[1]) / 2 + (a[1] + a[2]) / 2 + a[2])
    assert order(model, x, exact) == pytest.approx(SOLVERS[method].order, abs=0.3)


@pytest.mark.parametrize("method", ["leapfrog", "yoshida4"])
def test_separable_fields_are_followed_symplectically_at_the_method_s_order(method):
    field, x = Swinging(), normal(5, 4)
    model = sx.nn.ContinuousDepth(field, 4, steps=4, end=2.0, method=method)
    exact = sx.nn.ContinuousDepth(field, 4, steps=400, end=2.0, method="dopri5")(x)
    assert order(model, x, exact) == pytest.approx(SOLVERS[method].order, abs=0.25)
    volumes = torch.linalg.det(jacobian(model, x)).detach()
    torch.testing.assert_close(volumes, torch.ones_like(volumes), rtol=0, atol=1e-12)


def test_refining_shares_the_weights_and_leaves_the_model_as_it_was():
    model, x = sx.nn.ContinuousDepth(fields(3)), normal(2, 4)
    before = model(x)
    half = model.refined(4, method="rk4")
    assert (half.steps, half.method, half.end, half.dt) == (12, "rk4", 1.0, 1 / 12)
    assert (model.steps, model.method) == (3, "euler") and torch.equal(model(x), before)
    assert [id(p) for p in half.parameters()] == [id(p) for p in model.parameters()]
    half(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        next(model.parameters()).zero_()
    assert not torch.equal(half(x), model.refined(4)(x)) and next(half.parameters()).abs().sum() == 0


def test_gradients_are_those_of_the_network_written_out():
    layers, x = fields(3), normal(2, 4)
    sx.nn.ContinuousDepth(layers, method="midpoint")(x).square().sum().backward()
    got = [p.grad.clone() for layer in layers for p in layer.parameters()]
    for layer in layers:
        layer.zero_grad()
    y = x
    for layer in layers:
        y = y + layer(y + layer(y) / 6) / 3
    y.square().sum().backward()
    torch.testing.assert_close(got, [p.grad for layer in layers for p in layer.parameters()], rtol=0, atol=1e-13)


@pytest.mark.parametrize("between", ["constant", "linear"])
@pytest.mark.parametrize("method", ["euler", "rk4", "implicit_midpoint"])
def test_it_is_a_system_of_as_many_steps_as_layers(method, between):
    model = sx.nn.ContinuousDepth(fields(3), steps=6, method=method, between=between)
    assert model.horizon == 6
    check_system(model)
    with pytest.raises(sx.errors.HorizonError, match="from 0 to 5, got 6"):
        model.step(normal(4), 6)
    check_module_untouched(model, lambda: sx.finite_time_lyapunov(model, normal(2, 4)))


def test_its_finite_time_exponents_are_those_of_its_whole_jacobian():
    model, x = sx.nn.ContinuousDepth(fields(3), end=2.0, method="rk4", between="linear"), normal(5, 4)
    exponents = sx.finite_time_lyapunov(model, x, k=4).exponents
    torch.testing.assert_close(exponents, torch.linalg.svdvals(jacobian(model, x)).log() / 2.0, rtol=0, atol=1e-12)
    gains = sx.gradient_propagation(model, x).log_singular_values[-1]
    torch.testing.assert_close(gains, 2.0 * exponents, rtol=0, atol=1e-12)


def test_the_profile_in_depth_sees_the_state_behind_each_layer():
    model, x = sx.nn.ContinuousDepth(fields(3)), normal(5, 4)
    profile = sx.depth_profile(model, x)
    whole = [name for name, cut in zip(profile.layers, profile.cut, strict=True) if cut]
    assert whole[-3:] == ["state", "state:2", "state:3"] or whole[:3] == ["state", "state:2", "state:3"]
    last = profile.singular_values[profile.layers.index("state:3")]
    torch.testing.assert_close(last, torch.linalg.svdvals(jacobian(model, x)), rtol=0, atol=1e-9)


def test_a_field_s_own_tangents_and_time_are_used():
    class Driven(sx.Field):
        def forward(self, x, t):
            return -x + math.cos(t)

        def pushforward(self, x, v, t):
            return self(x, t), -v

    model, x = sx.nn.ContinuousDepth(Driven(), 1, end=2.0, steps=40, method="rk4"), normal(3, 1)
    exact = (x - 0.5) * math.exp(-2) + (math.cos(2) + math.sin(2)) / 2
    torch.testing.assert_close(model(x), exact, rtol=0, atol=1e-6)
    check_system(model)


def test_half_precision_weights_are_followed_too():
    field = Swinging().bfloat16()
    model = sx.nn.ContinuousDepth(field, 4, steps=4, method="leapfrog")
    assert model(torch.ones(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_images_go_through_convolutions():
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 3, padding=1)).double() for _ in range(3)]
    model, x = sx.nn.ContinuousDepth(layers, (2, 4, 4), method="euler"), normal(5, 2, 4, 4)
    y = x
    for layer in layers:
        y = y + layer(y) / 3
    torch.testing.assert_close(model(x), y, rtol=0, atol=1e-14)
    assert model(x[None]).shape == (1, 5, 2, 4, 4) and model(x[0]).shape == (2, 4, 4)
    end = sx.trajectory(model, model.pack(x), 3)[-1]
    torch.testing.assert_close(model.unpack(end), y, rtol=0, atol=1e-14)
    with pytest.raises(sx.errors.ShapeError, match=r"\(\*batch, 2, 4, 4\), got \(5, 2, 4, 5\)"):
        model(normal(5, 2, 4, 5))


def test_batch_normalisation_learns_in_training_and_is_left_alone_by_building():
    layers = [nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).double()]
    model = sx.nn.ContinuousDepth(layers, steps=2)
    assert layers[0][1].num_batches_tracked == 0 and layers[0].training
    model(normal(8, 4))
    assert layers[0][1].num_batches_tracked == 2
    model.eval()
    assert not model.refined().training


def test_it_compiles_exports_and_saves():
    model, x = sx.nn.ContinuousDepth(fields(2), method="rk4", between="linear").refined(2), normal(3, 4)
    wanted = model(x)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), wanted, rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), wanted, rtol=0, atol=1e-14)
    other = sx.nn.ContinuousDepth(fields(2, hidden=6), method="rk4", between="linear", steps=4)
    nn.init.zeros_(other.field.fields[0].function[0].weight)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(other(x), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.float()(x.float()).dtype == torch.float32


def test_what_cannot_be_followed_is_refused_in_one_line():
    build = sx.nn.ContinuousDepth
    with pytest.raises(sx.errors.InputError, match="got 0"):
        build([])
    with pytest.raises(sx.errors.InputError, match=r"steps is 4.* 3: 3, 6"):
        build(fields(3), steps=4)
    with pytest.raises(sx.errors.InputError, match="steps is"):
        build(fields(1), steps=0)
    with pytest.raises(sx.errors.InputError, match="end is -1"):
        build(fields(1), end=-1.0)
    with pytest.raises(sx.errors.InputError, match="'ab2'"):
        build(fields(1), method="ab2")
    with pytest.raises(sx.errors.InputError, match="'cubic'"):
        build(fields(1), between="cubic")
    with pytest.raises(sx.errors.InputError, match="Tanh"):
        build(nn.Tanh())
    with pytest.raises(sx.errors.ShapeError, match=r"field 1 .*\(2, 4\) .*\(2, 3\)"):
        build([*fields(1), nn.Linear(4, 3).double()])
    with pytest.raises(sx.errors.ShapeError, match=r"field 0 failed on a batch of shape \(2, 2\)(?s:.*)shape="):
        build(Swinging())
    with pytest.raises(sx.errors.UnsupportedModuleError, match="function as field 0"):
        build([lambda x: x])
    with pytest.raises(sx.errors.InputError, match="leapfrog"):
        build([Swinging(), *fields(1)], 4, method="leapfrog")
    with pytest.raises(sx.errors.InputError, match="leapfrog"):
        build(fields(2)).refined(1, method="leapfrog")
    with pytest.raises(sx.errors.UnsupportedModuleError, match="function"):
        build(lambda x: x)
    with pytest.raises(sx.errors.ShapeError, match="numbers"):
        build(nn.Linear(3, 3), method="leapfrog")
    with pytest.raises(sx.errors.InputError, match="factor is 0"):
        build(fields(1)).refined(0)
    with pytest.raises(sx.errors.InputError, match="times of shape"):
        sx.solve(build(fields(2)).field, normal(3, 4), [0.0, 0.5, 1.0])


def test_a_shared_field_is_followed_by_tolerance_like_any_other():
    model, x = sx.nn.ContinuousDepth(fields(1), steps=64, method="rk4"), normal(3, 4)
    near = sx.solve(model.field, x, [0.0, 1.0], rtol=1e-9, atol=1e-10).last
    torch.testing.assert_close(model(x), near, rtol=0, atol=1e-8)


def test_within_a_network_it_is_all_its_layers_on_flat_states():
    """An image network between two isometries: step, tangents and call are one map, by reverse mode."""
    torch.manual_seed(0)
    middle = sx.nn.ContinuousDepth([nn.Conv2d(2, 2, 3, padding=1).double() for _ in range(3)], (2, 3, 3), steps=6, method="heun")
    network = sx.nn.Sequential(sx.nn.Isometry(18).double(), middle, sx.nn.Isometry(18).double())
    x = torch.randn(2, 18, dtype=torch.float64)
    image = middle(network[0](x).unflatten(-1, (2, 3, 3)))
    torch.testing.assert_close(network(x), network[2](image.flatten(1)), rtol=0, atol=1e-14)
    wanted = torch.stack([torch.autograd.functional.jacobian(network, one) for one in x])
    value, pushed = network.pushforward(x, torch.eye(18, dtype=torch.float64).expand(2, 18, 18))
    assert torch.equal(value, network.step(x))
    torch.testing.assert_close(pushed.mT, wanted, rtol=0, atol=1e-13)
    assert network.horizon is None and middle.as_layer().dt == middle.end
