"""Neural ODEs as layers and as flows."""

import copy
import math

import pytest
import torch
from torch import nn

import separatrix as sx


def field() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def test_a_neural_ode_is_a_layer_with_its_fields_parameters():
    layer = sx.nn.NeuralODE(field(), method="dopri5", rtol=1e-9, atol=1e-10)
    assert len(list(layer.parameters())) == 4
    x = torch.randn(3, 5, 2, dtype=torch.float64)
    near = sx.nn.NeuralODE(layer.field.function, dt=0.01)(x)
    assert (layer(x) - near).abs().max() < 1e-8
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_a_linear_fields_exponents_are_its_eigenvalues():
    linear = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[-0.1, 0.0], [0.3, -0.5]]))
    flow = sx.nn.NeuralODE(linear, end=1.0)
    spectrum = sx.lyapunov_spectrum(flow, torch.ones(2, dtype=torch.float64), steps=400, settle=800)
    assert torch.allclose(spectrum.exponents, torch.tensor([-0.1, -0.5], dtype=torch.float64), atol=1e-6)


def test_a_width_that_cannot_be_inferred_must_be_given():
    with pytest.raises(sx.errors.InputError, match="dim"):
        sx.nn.NeuralODE(nn.Tanh())
    with pytest.raises(sx.errors.InputError, match="end is "):
        sx.nn.NeuralODE(field(), end=0.0)


def linear(matrix: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(matrix), len(matrix), bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(matrix))
    return layer


def test_twenty_steps_of_rk4_are_the_default():
    """x(T) = exp(−T) x; RK4's error after 20 steps of 1/20 is below (1/20)⁴ / 120."""
    found = sx.nn.NeuralODE(linear([[-1.0]]))(torch.ones(1, 1, dtype=torch.float64))
    error = abs(float(found) - math.exp(-1))
    assert 1e-10 < error < (1 / 20) ** 4 / 120


def test_a_layer_is_solved_at_given_times_and_by_every_gradient():
    layer = sx.nn.NeuralODE(field(), method="tsit5", gradient="adjoint", rtol=1e-8, atol=1e-8)
    x0 = torch.randn(4, 2, dtype=torch.float64)
    found = layer.solve(x0, [0.0, 0.5, 2.0])
    assert found.states.shape == (3, 4, 2) and found.settings["gradient"] == "adjoint"
    assert torch.allclose(layer(x0), layer.solve(x0, [0.0, 1.0]).last)


def test_its_steps_are_a_system():
    sx.testing.check_system(sx.nn.NeuralODE(field()))


def test_its_equilibria_and_portrait_are_the_fields():
    """A focus at the origin: eigenvalues −0.1 ± i."""
    flow = sx.nn.NeuralODE(linear([[-0.1, 1.0], [-1.0, -0.1]]), end=1.0)
    rest = sx.fixed_points(flow, torch.ones(1, 2, dtype=torch.float64))
    assert rest.kind == ("stable focus",) and torch.allclose(rest.rates[0], torch.full((2,), -0.1, dtype=torch.float64))
    portrait = sx.phase_portrait(flow, low=(-1.0, -1.0), high=(1.0, 1.0), plane=(0, 1), resolution=8, steps=20)
    assert len(portrait.rest.points) == 1 and torch.isfinite(portrait.field).all()


def test_it_is_copied_saved_and_loaded_like_any_module():
    layer, x = sx.nn.NeuralODE(field()), torch.randn(3, 2, dtype=torch.float64)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.field.function[0].weight.zero_()
    assert not torch.equal(layer(x), other(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), other(x))


def test_its_mode_is_left_alone_and_dropout_makes_no_noise():
    layer = sx.nn.NeuralODE(nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 2)).double()).train()
    x = torch.randn(3, 2, dtype=torch.float64)
    assert torch.equal(layer(x), layer(x)) and layer.field.function[1].training


def test_under_autocast_states_keep_their_digits_and_gradients_come():
    layer = sx.nn.NeuralODE(field().float(), method="dopri5", rtol=1e-3, atol=1e-3)
    x = torch.randn(3, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    found.sum().backward()
    assert found.dtype == torch.float32 and (found - layer(x)).abs().max() < 0.05
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_compiled_and_exported_it_takes_the_same_steps():
    layer, x = sx.nn.NeuralODE(field(), dt=0.25), torch.randn(3, 2, dtype=torch.float64)
    assert torch.allclose(torch.compile(layer, backend="eager", fullgraph=True)(x), layer(x), atol=1e-14)
    assert torch.allclose(torch.export.export(layer, (x,)).module()(x), layer(x), atol=1e-14)


def test_steps_by_tolerance_give_a_layer_its_gradient_without_a_graph_of_them():
    layer = sx.nn.NeuralODE(field(), method="dopri5", rtol=1e-9, atol=1e-9)
    x = torch.randn(3, 2, dtype=torch.float64)
    assert layer.solve(x, [0.0, 1.0]).settings["gradient"] == "checkpoint"
    near = sx.nn.NeuralODE(layer.field.function, dt=0.005)
    (a,), (b,) = (torch.autograd.grad(net(x).square().sum(), [net.field.function[0].weight]) for net in (layer, near))
    assert torch.allclose(a, b, atol=1e-7)


def test_half_precision_states_are_refused():
    with pytest.raises(sx.errors.InputError, match="float16"):
        sx.nn.NeuralODE(field())(torch.ones(1, 2, dtype=torch.float16))


def test_a_refined_layer_takes_equal_steps_whatever_the_one_by_tolerance_did():
    layer, x = sx.nn.NeuralODE(field(), method="dopri5"), torch.randn(3, 2, dtype=torch.float64)
    assert layer.by_tolerance
    fine, rough = layer.refined(4), layer.refined(1, method="euler")
    torch.testing.assert_close(fine(x), layer(x), rtol=0, atol=1e-5)
    assert 1e-4 < (rough(x) - layer(x)).abs().max() < 0.1 and layer.by_tolerance


COMPOSED = {
    "the default": {},
    "a step that does not divide the time": {"dt": 0.3},
    "Euler": {"method": "euler", "dt": 0.5},
    "implicit": {"method": "implicit_midpoint", "dt": 0.25},
    "by tolerance": {"method": "dopri5", "rtol": 1e-4, "atol": 1e-4},
}


@pytest.mark.parametrize("settings", COMPOSED.values(), ids=COMPOSED)
def test_in_a_network_it_is_the_layer_and_its_tangents_are_that_layers(settings):
    """Against the network's Jacobian by reverse mode."""
    layer = sx.nn.NeuralODE(field(), end=2.0, **settings)
    network, x = sx.nn.Sequential(sx.nn.Isometry(2).double(), layer), torch.randn(3, 2, dtype=torch.float64)
    assert torch.equal(network(x), layer(network[0](x)))
    assert torch.equal(network.step(x), network(x)) and torch.equal(network.residual(x), network(x) - x)
    wanted = torch.stack([torch.autograd.functional.jacobian(network, one) for one in x])
    value, pushed = network.pushforward(x, torch.eye(2, dtype=torch.float64).expand(3, 2, 2))
    torch.testing.assert_close(value, network(x), rtol=0, atol=1e-14)
    torch.testing.assert_close(pushed.mT, wanted, rtol=0, atol=1e-13)
    assert not network.continuous and layer.continuous


def test_exponents_of_a_network_with_it_are_those_of_the_plain_function():
    """The sum of all is the mean log |det J|, by reverse mode."""
    network = sx.nn.Sequential(sx.nn.Isometry(2).double(), sx.nn.NeuralODE(field(), end=2.0, dt=0.5))
    x, total = torch.tensor([0.3, -0.4], dtype=torch.float64), 0.0
    found = sx.lyapunov_spectrum(network, x, steps=6, settle=0)
    for _ in range(6):
        total += float(torch.linalg.slogdet(torch.autograd.functional.jacobian(network, x)).logabsdet)
        x = network(x).detach()
    assert float(found.exponents.sum()) == pytest.approx(total / 6, abs=1e-12)


def test_as_a_layer_it_is_a_map_of_the_time_T_and_as_a_flow_one_of_dt():
    """ẋ = −x/2 for the time 3: both have the exponent −1/2 per unit time; the map's multiplier at 0 is e^−1.5."""
    flow = sx.nn.NeuralODE(linear([[-0.5]]), end=3.0, dt=0.15)
    layer = flow.as_layer()
    assert (flow.dt, layer.dt) == (3 / 20, 3.0) and not layer.continuous
    x = torch.ones(1, dtype=torch.float64)
    for system in (flow, layer):
        assert float(sx.lyapunov_spectrum(system, x, steps=5, settle=0).exponents) == pytest.approx(-0.5, abs=1e-6)
    assert float(sx.fixed_points(layer, x[None]).multipliers.real) == pytest.approx(math.exp(-1.5), abs=1e-6)
    assert float(sx.fixed_points(flow, x[None]).rates.real) == pytest.approx(-0.5, abs=1e-6)
    assert torch.equal(layer(x), flow(x)) and layer.flow is flow


def test_a_weighted_layer_is_the_layer_in_other_units():
    """That is,  x ↦ D⁻¹ Φ_T(D x)."""
    layer, w = sx.nn.NeuralODE(field(), end=2.0), torch.tensor([2.0, 0.5], dtype=torch.float64)
    network, x = sx.nn.parts.Weighted(layer, w.tolist()), torch.randn(3, 2, dtype=torch.float64)
    assert torch.equal(network(x), layer(x * w) / w) and network.dt == 2.0 and not network.continuous
    wanted = torch.stack([torch.autograd.functional.jacobian(network, one) for one in x])
    _, pushed = network.pushforward(x, torch.eye(2, dtype=torch.float64).expand(3, 2, 2))
    torch.testing.assert_close(pushed.mT, wanted, rtol=0, atol=1e-13)


def test_a_network_of_it_is_compiled_and_exported():
    network, x = sx.nn.Sequential(sx.nn.Isometry(2).double(), sx.nn.NeuralODE(field(), dt=0.25)), torch.randn(3, 2).double()
    assert torch.allclose(torch.compile(network, backend="eager", fullgraph=True)(x), network(x), atol=1e-14)
    assert torch.allclose(torch.export.export(network, (x,)).module()(x), network(x), atol=1e-14)


@pytest.mark.parametrize("settings", [{}, {"method": "dopri5"}], ids=["equal steps", "by tolerance"])
def test_an_item_that_diverges_does_not_affect_others_in_the_layer(settings):
    """Also inside a network in which one item diverges: ẋ = x³ from 5 does so within a time of 1/50."""
    layer, x = sx.nn.NeuralODE(field(), **settings), torch.randn(3, 2, dtype=torch.float64)
    broken = x.clone()
    broken[1, 0] = math.nan
    v = torch.eye(2, dtype=torch.float64).expand(3, 2, 2)
    for whole, part in zip(layer.as_layer().pushforward(x, v), layer.as_layer().pushforward(broken, v), strict=True):
        assert torch.equal(part[[0, 2]], whole[[0, 2]]) and part[1].isnan().all()
    assert torch.equal(layer(broken)[[0, 2]], layer(x)[[0, 2]]) and layer(broken)[1].isnan().all()
    cubic = sx.nn.NeuralODE(lambda y: y**3, 1, **settings)
    start = torch.tensor([[0.1], [5.0]], dtype=torch.float64)
    pushed = cubic.as_layer().pushforward(start, torch.ones(2, 1, 1, dtype=torch.float64))[1]
    assert torch.isfinite(pushed[0]).all() and pushed[1].isnan().all()
    orbit = sx.trajectory(sx.nn.Sequential(sx.nn.Isometry(1).double(), cubic), start, 3)
    assert torch.isfinite(orbit[:, 0]).all() and orbit[1:, 1].isnan().all()


@pytest.mark.parametrize("settings", [{}, {"method": "dopri5"}], ids=["equal steps", "by tolerance"])
@pytest.mark.parametrize("time_dependent", [False, True])
def test_a_field_with_the_time_first_is_refused_with_the_right_order(settings, time_dependent):
    class TimeFirst(nn.Linear):
        def forward(self, t, x):
            return super().forward(x.reshape(-1, 2)).expand(t.shape)

    class Unnamed(TimeFirst):
        def forward(self, a, b):
            return super().forward(a, b)

    with pytest.raises(sx.errors.InputError, match=r"\(t, x\)"):
        sx.nn.NeuralODE(TimeFirst(2, 2), time_dependent=time_dependent, **settings)
    layer = sx.nn.NeuralODE(Unnamed(2, 2), time_dependent=time_dependent, **settings)
    order = r"called as f\(x, t\).* state first" if time_dependent else r"as f\(x, t\) with time_dependent=True"
    with pytest.raises((sx.errors.InputError, sx.errors.ShapeError), match=order):
        layer(torch.randn(4, 2))
    with pytest.raises(sx.errors.InputError, match=order):
        sx.lyapunov_spectrum(layer, steps=5)
