"""Presnov's decomposition by closed forms, and networks that take its parts in turn."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from torch import Tensor, nn

import separatrix as sx
from separatrix.core.tangent import jacobian, pushforward
from separatrix.flows.methods import cayley_midpoint, strang
from separatrix.testing import check_module_untouched
from separatrix.testing.blocks import scrambled


def states(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(dim: int = 3, seed: int = 0, **options) -> sx.nn.PresnovNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return sx.nn.PresnovNetwork(dim, **options).double()


def cubic(x: Tensor) -> Tensor:
    """Constant, linear, quadratic and cubic terms, none of which is a gradient or a turn alone."""
    p, q = x.unbind(-1)
    return torch.stack([1 + q - p * q + q**3, 2 - 3 * p + p**2 - p**2 * q], dim=-1)


def wave(x: Tensor) -> Tensor:
    p, q, r = x.unbind(-1)
    return torch.stack([torch.sin(q * r), torch.exp(-(p**2)), p * torch.cos(q)], dim=-1)


def test_of_a_linear_field_the_parts_are_those_of_its_matrix():
    """U = ½ xᵀBx, ∇U = ½ (B + Bᵀ) x and X_S = ½ (B − Bᵀ) x; two nodes are exact."""
    b, x = states(5, 5), states(7, 5, seed=1)
    parts = sx.nn.presnov(lambda y: y @ b.mT, nodes=1)
    torch.testing.assert_close(parts.potential(x), ((x @ b) * x).sum(-1) / 2, rtol=0, atol=1e-13)
    torch.testing.assert_close(parts.gradient(x), x @ (b + b.mT) / 2, rtol=0, atol=1e-13)
    torch.testing.assert_close(parts.sphere(x), x @ (b.mT - b) / 2, rtol=0, atol=1e-13)
    torch.testing.assert_close(parts.skew(x).matrix, ((b - b.mT) / 2).expand(7, 5, 5), rtol=0, atol=1e-13)


def test_of_a_cubic_field_the_parts_are_exact_with_two_nodes():
    """By hand: U is xᵀf with each term divided by its degree."""
    x = states(40, 2)
    p, q = x.unbind(-1)
    potential = (p + 2 * q) + (p * q - 3 * p * q) / 2 + (-(p**2) * q + p**2 * q) / 3 + (p * q**3 - p**2 * q**2) / 4
    slope = torch.stack([1 - q + (q**3 - 2 * p * q**2) / 4, 2 - p + (3 * p * q**2 - 2 * p**2 * q) / 4], dim=-1)
    parts = sx.nn.presnov(cubic, nodes=2)
    torch.testing.assert_close(parts.potential(x), potential, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.gradient(x), slope, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts.sphere(x), cubic(x) - slope, rtol=0, atol=1e-12)
    assert float(parts.defect(x).abs().max()) < 1e-13
    assert float(sx.nn.presnov(cubic, nodes=1).defect(x).abs().max()) > 0.1


@pytest.mark.parametrize("nodes", [1, 2, 16])
def test_the_parts_are_a_gradient_and_orthogonal_to_the_state_however_few_the_nodes(nodes):
    parts, x = sx.nn.presnov(wave, nodes=nodes), states(30, 3)
    assert float((parts.sphere(x) * x).sum(-1).abs().max()) < 1e-13
    torch.testing.assert_close(parts.sphere(x), (parts.skew(x).matrix @ x[..., None])[..., 0], rtol=0, atol=1e-13)
    hessian = jacobian(parts.gradient, x)
    torch.testing.assert_close(hessian, hessian.mT, rtol=0, atol=1e-12)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(parts.potential(x).sum(), x)
    torch.testing.assert_close(parts.gradient(x.detach()), slope, rtol=0, atol=1e-13)


def test_the_potential_is_scipy_s_integral_and_the_defect_is_the_error():
    x = 1.5 * states(6, 3)
    exact = torch.tensor([quad(lambda t, y=y: float(y @ wave(t * y)), 0, 1, epsabs=1e-13)[0] for y in x], dtype=torch.float64)
    torch.testing.assert_close(sx.nn.presnov(wave).potential(x), exact, rtol=0, atol=1e-12)
    defects = [float(sx.nn.presnov(wave, nodes=n).defect(x).abs().max()) for n in (2, 4, 8, 16)]
    assert all(after < before / 5 for before, after in pairwise(defects))
    assert defects[-1] < 1e-11


def test_a_gradient_and_a_turn_are_left_whole():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        gradient, sphere = sx.nn.Gradient(4).double(), sx.nn.SpherePreserving(4).double()
    x = states(9, 4)
    torch.testing.assert_close(sx.nn.presnov(gradient.field).gradient(x), gradient.field(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(sx.nn.presnov(gradient.field).sphere(x), torch.zeros_like(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(sx.nn.presnov(sphere.field).sphere(x), sphere.field(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(sx.nn.presnov(sphere.field).gradient(x), torch.zeros_like(x), rtol=0, atol=1e-12)


def test_flows_maps_and_modules_are_decomposed_and_left_as_they_are():
    x = states(5, 3)
    lorenz = sx.classic.lorenz63()
    parts = sx.nn.presnov(lorenz)
    torch.testing.assert_close(parts.gradient(x) + parts.sphere(x), lorenz.residual(x), rtol=0, atol=1e-11)
    henon = sx.classic.henon()
    whole = sx.nn.presnov(henon).gradient(x[:, :2]) + sx.nn.presnov(henon).sphere(x[:, :2])
    torch.testing.assert_close(whole, henon(x[:, :2]) - x[:, :2], rtol=0, atol=1e-12)
    module = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    found = check_module_untouched(module, lambda: sx.nn.presnov(module).gradient(x[None]))
    assert found.shape == (1, 5, 3)
    sx.nn.presnov(module).gradient(x).sum().backward()
    assert all(parameter.grad is not None for name, parameter in module.named_parameters() if "weight" in name)


def test_the_sphere_part_of_a_field_is_followed_on_its_sphere():
    """Lorenz: the parts are fields like any other, and the Cayley midpoint keeps the norm under the second."""
    parts, x = sx.nn.presnov(sx.classic.lorenz63(), nodes=2), states(4, 3)
    y = z = x
    flow = sx.Flow(parts.sphere, 3, 0.005)
    for n in range(40):
        y, z = cayley_midpoint(parts.skew, y, 0.005), flow(z, n)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1), rtol=1e-14, atol=0)
    torch.testing.assert_close(y, z, rtol=0, atol=1e-2)  # 0.2 of time, h² (19)³ / 12 with Lorenz's largest turn of some 19
    assert float((y - x).norm(dim=-1).min()) > 0.5


@pytest.mark.parametrize("splitting", ["strang", "lie"])
def test_a_network_is_the_flows_of_its_parts_in_turn(splitting):
    model, x = network(blocks=(2, 1, 1), splitting=splitting, dt=0.8), states(6, 3)
    assert model.shares.tolist() == pytest.approx([0.5, 0.25, 0.25], abs=1e-8)  # made in single precision
    y = x
    for gradient, sphere, h in zip(model.gradients, model.spheres, (0.8 * model.shares).tolist(), strict=True):
        if splitting == "strang":
            y = gradient.flow(sphere.flow(gradient.flow(y, h / 2), h), h / 2)
        else:
            y = sphere.flow(gradient.flow(y, h), h)
    torch.testing.assert_close(model(x), y, rtol=0, atol=1e-14)


def test_shares_of_a_network_are_positive_and_add_up_to_one_whatever_its_weights():
    model = scrambled(network(blocks=7), 3)
    with torch.no_grad():
        model.log_shares.mul_(20)
    assert model.shares.sum().item() == pytest.approx(1, abs=1e-14) and (model.shares > 0).all()


def test_a_network_s_block_follows_the_sum_of_its_fields_at_second_order():
    """The local error is c h³ (1 + a h + …): its slope is 3 + a h, and a h halves with h, 0.25 at 1/64 and 0.02 at 1/1024."""
    model = scrambled(network(hidden=4, planes=4, blocks=1), 1)
    gradient, sphere, x = model.gradients[0], model.spheres[0], states(3)
    steps, errors = np.array([1 / 256, 1 / 512, 1 / 1024, 1 / 2048]), []

    def slope(t: float, y: np.ndarray) -> np.ndarray:
        y = torch.from_numpy(y)
        return (gradient.field(y) + sphere.field(y)).detach().numpy()

    for h in steps:
        exact = solve_ivp(slope, (0, h), x.numpy(), method="DOP853", rtol=1e-13, atol=1e-15).y[:, -1]
        block = strang.step((gradient.flow, sphere.flow), x, float(h))
        errors.append(np.linalg.norm(block.detach().numpy() - exact))
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(3, abs=0.1)


def test_a_network_is_a_system_with_closed_form_tangents_and_a_plain_module():
    model, x, v = network(), states(6, 3), states(6, 2, 3, seed=1)
    sx.testing.check_system(model)
    torch.testing.assert_close(model.pushforward(x, v)[1], pushforward(model.step, x, v)[1], rtol=1e-11, atol=1e-11)
    model(x).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() and parameter.grad.any() for parameter in model.parameters())
    other = network(seed=1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    single = network(blocks=1).float()
    exported = torch.export.export(single, (x.float(),)).module()
    torch.testing.assert_close(exported(x.float()), single(x.float()))
    compiled = torch.compile(single, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x.float()), single(x.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(single(x.float()), single.double()(x).float(), rtol=0, atol=0.1)


def test_a_map_that_folds_is_learned_in_a_state_with_room():
    """(p, q) ↦ (p, |q|) is no flow of the plane. In four numbers, with a linear projection, it is near one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        room = sx.nn.PresnovNetwork(4, blocks=2, hidden=4, planes=4)
        model = nn.Sequential(nn.ZeroPad1d((0, 2)), room, nn.Linear(4, 2)).double()
    x = sx.grid((-1, -1), (1, 1), (16, 16)).reshape(-1, 2)
    target = x.abs().where(torch.tensor([False, True]), x)
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=120, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        error = nn.functional.mse_loss(model(x), target)
        error.backward()
        return error

    optimiser.step(loss)
    assert loss().item() < 1e-3  # of a variance of 0.2


def test_bad_input_is_told_in_a_line():
    with pytest.raises(sx.errors.InputError, match="nodes is 0"):
        sx.nn.presnov(cubic, nodes=0)
    with pytest.raises(sx.errors.ShapeError, match=r"\(16, 5, 2\).*\(16, 5\)"):
        sx.nn.presnov(lambda x: x.sum(-1)).potential(states(5, 2))
    for none in (0, -3, ()):
        with pytest.raises(sx.errors.InputError, match="at least 1 block"):
            sx.nn.PresnovNetwork(3, blocks=none)
    for wrong in (0.0, -0.2, math.inf, math.nan):
        with pytest.raises(sx.errors.InputError, match="the share of block 1 is"):
            sx.nn.PresnovNetwork(3, blocks=(1.0, wrong))
    with pytest.raises(sx.errors.InputError, match=r"splitting is 'yoshida'.*'lie' or 'strang'"):
        sx.nn.PresnovNetwork(3, splitting="yoshida")
    with pytest.raises(sx.errors.InputError, match="dt is -1"):
        sx.nn.PresnovNetwork(3, dt=-1)
    with pytest.raises(sx.errors.ShapeError, match="dim is 1"):
        sx.nn.PresnovNetwork(1)
