"""Solutions under the transforms of `torch.func`, forward AD, batched gradients and `torch.compile`."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, stack_module_state, vmap

import separatrix as sx

DOUBLE = {"dtype": torch.float64}
TIMES = [0.0, 0.33, 1.0]
SETTINGS = [{"method": "rk4", "dt": 0.1}, {"rtol": 1e-8, "atol": 1e-8}, {"method": "tsit5"}]
each_setting = pytest.mark.parametrize("settings", SETTINGS, ids=["rk4", "tolerance", "tsit5"])


class Solver(nn.Module):
    """A module that calls `sx.solve`."""

    def __init__(self, seed: int = 0, **settings: object) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()
        self.settings = settings

    def forward(self, x: Tensor) -> Tensor:
        return sx.solve(self.net, x, TIMES, **self.settings).states


def starts() -> Tensor:
    return torch.randn(4, 2, generator=torch.Generator().manual_seed(3), **DOUBLE)


def differences(f, x: Tensor, step: float = 1e-4) -> Tensor:
    """Central differences of f in every number of x, along a last axis."""
    units = step * torch.eye(x.numel(), **DOUBLE).reshape(-1, *x.shape)
    slopes = [((f(x + unit) - f(x - unit)) / (2 * step)).detach() for unit in units]
    return torch.stack(slopes, -1).reshape(*slopes[0].shape, *x.shape)


@each_setting
def test_lanes_are_items_like_any_others(settings):
    solver, x0 = Solver(**settings), starts()
    wanted = solver(x0)
    assert torch.allclose(vmap(solver, out_dims=1)(x0), wanted, rtol=0, atol=1e-13)
    assert torch.allclose(vmap(solver, in_dims=1, out_dims=1)(x0.mT.contiguous()), wanted, rtol=0, atol=1e-13)
    nested = vmap(vmap(solver, out_dims=1), out_dims=1)(x0.reshape(2, 2, 2))
    assert torch.allclose(nested.flatten(1, 2), wanted, rtol=0, atol=1e-13)
    with torch.no_grad():
        assert torch.allclose(vmap(solver, out_dims=1)(x0), wanted, rtol=0, atol=1e-13)
    x0.requires_grad_()
    by = [torch.autograd.grad(s.square().sum(), x0)[0] for s in (vmap(solver, out_dims=1)(x0), solver(x0))]
    assert torch.allclose(*by, rtol=1e-11)


@each_setting
def test_jacobians_in_any_mode_and_mapped_are_those_of_differences(settings):
    """With adaptive steps, a difference is accurate to 1e-8 / 1e-4."""
    solver, x0 = Solver(**settings), starts()
    exact = settings | ({} if "dt" in settings else {"rtol": 1e-10, "atol": 1e-10})
    tight = Solver(**exact)
    wanted = torch.stack([differences(tight, x) for x in x0])
    for mode in (jacrev, jacfwd):
        assert (vmap(mode(solver))(x0) - wanted).abs().max() < 1e-4
        assert (mode(solver)(x0[0]) - wanted[0]).abs().max() < 1e-4
    curved = vmap(hessian(lambda x: solver(x).square().sum()))(x0)
    slopes = [differences(grad(lambda x: tight(x).square().sum()), x) for x in x0]
    assert (curved - torch.stack(slopes)).abs().max() < 1e-3


@each_setting
def test_gradients_of_each_sample_and_ensembles_of_modules(settings):
    solvers, x0 = [Solver(seed, **settings) for seed in range(3)], starts()
    weights = {name: value.detach() for name, value in solvers[0].named_parameters()}
    each = vmap(grad(lambda w, x: functional_call(solvers[0], w, (x,)).square().sum()), in_dims=(None, 0))(weights, x0)
    wanted = torch.autograd.grad(solvers[0](x0[2]).square().sum(), list(solvers[0].parameters()))
    for found, one in zip(each.values(), wanted, strict=True):
        assert torch.allclose(found[2], one, rtol=1e-9, atol=1e-11)
    stacked, _ = stack_module_state(solvers)
    together = vmap(lambda w: functional_call(solvers[0], w, (x0,)))(stacked)
    assert torch.allclose(together, torch.stack([solver(x0) for solver in solvers]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", SETTINGS[::2], ids=["rk4", "tsit5"])
def test_a_lane_that_fails_is_nan_and_leaves_the_others_alone(settings):
    """∂x/∂x0 = 1/(1 − x0 t)² for ẋ = x²; the item from x0 = 1.5 diverges at t = 2/3."""

    def half(x: Tensor) -> Tensor:
        return sx.solve(lambda y: y * y, x, [0.0, 0.5, 1.0], **settings).states

    x0 = torch.tensor([[0.5], [1.5], [-1.0]], **DOUBLE)
    mapped, plain = vmap(half, out_dims=1)(x0), half(x0)
    assert torch.equal(mapped.isnan(), plain.isnan()) and mapped[2, 1].isnan()
    slopes = vmap(grad(lambda x: half(x)[1].sum()))(x0)
    assert torch.allclose(slopes, (1 - x0 / 2) ** -2, rtol=1e-2 if "dt" in settings else 1e-3)


@each_setting
def test_a_parameter_may_be_mapped_or_dual_instead_of_the_state(settings):
    def decay(a: Tensor) -> Tensor:
        return sx.solve(lambda x: -a * x, torch.ones(1, **DOUBLE), TIMES, **settings).last[0]

    a = torch.tensor([0.2, 0.5, 2.0], **DOUBLE)
    assert torch.allclose(vmap(decay)(a), (-a).exp(), rtol=1e-4)
    assert torch.allclose(vmap(jacrev(decay))(a), -(-a).exp(), rtol=1e-4)
    with forward_ad.dual_level():
        pushed = forward_ad.unpack_dual(decay(forward_ad.make_dual(a[1], torch.ones((), **DOUBLE)))).tangent
    assert float(pushed) == pytest.approx(-float((-a[1]).exp()), rel=1e-4)
    solver = Solver(**settings)
    weights = {name: value.detach() for name, value in solver.named_parameters()}

    def moved(step: float) -> Tensor:
        return functional_call(solver, {name: value + step for name, value in weights.items()}, (starts(),))

    with forward_ad.dual_level():
        dual = {name: forward_ad.make_dual(value, torch.ones_like(value)) for name, value in weights.items()}
        pushed = forward_ad.unpack_dual(functional_call(solver, dual, (starts(),))).tangent
    assert (pushed - (moved(1e-4) - moved(-1e-4)) / 2e-4).abs().max() < 1e-3


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_cotangents_may_be_mapped(gradient):
    solver, x0 = Solver(gradient=gradient), starts()[:1].requires_grad_()
    by_rows = torch.autograd.functional.jacobian(solver, x0)
    assert torch.allclose(torch.autograd.functional.jacobian(solver, x0, vectorize=True), by_rows, rtol=1e-12, atol=1e-14)
    states, units = solver(x0), torch.eye(6, **DOUBLE).reshape(-1, 3, 1, 2)
    mapped = vmap(lambda unit: torch.autograd.grad(states, x0, unit, retain_graph=True)[0])(units)
    assert torch.allclose(mapped.reshape(by_rows.shape), by_rows, rtol=1e-12, atol=1e-14)
    assert torch.allclose(jacrev(solver)(x0.detach()), by_rows, rtol=1e-3, atol=1e-5)


def test_layers_pass_through_too():
    for settings in ({}, {"method": "dopri5"}):
        layer, x0 = sx.nn.NeuralODE(Solver().net, 2, **settings), starts()
        assert torch.allclose(vmap(layer)(x0), layer(x0), rtol=0, atol=1e-13)
        whole = torch.autograd.functional.jacobian(layer, x0).diagonal(0, 0, 2).movedim(-1, 0)
        assert torch.allclose(vmap(jacrev(layer))(x0), whole, rtol=1e-9, atol=1e-10)


def test_what_does_not_pass_is_refused_by_name():
    x0, net = starts(), Solver().net
    with pytest.raises(sx.errors.InputError, match=r"solve_until.*vmap"):
        vmap(lambda x: sx.solve_until(lambda y: -y, x, lambda y: y[..., 0] - 0.1, end=9.0).times)(x0)
    with pytest.raises(sx.errors.InputError, match=r"the field.*vmap"):
        vmap(lambda x: sx.solve(lambda y: -y if y.sum() > 0 else y, x, TIMES).states)(x0)
    with pytest.raises(sx.errors.InputError, match="vmap"):
        vmap(lambda x: sx.sensitivities(net, x, TIMES, dt=0.1)[0])(x0)
    with pytest.raises(sx.errors.InputError, match="times"):
        vmap(lambda t: sx.solve(lambda y: -y, x0, t).states)(torch.tensor([TIMES, TIMES]))
    with pytest.raises(sx.errors.InputError, match="backpropagation"):
        torch.autograd.gradgradcheck(lambda x: Solver()(x).sum(), (x0.requires_grad_(),))


def test_a_module_that_solves_may_be_compiled_and_says_what_to_export_in_its_place():
    solver, x0 = Solver(), starts()
    compiled = torch.compile(solver, backend="eager")
    assert torch.equal(compiled(x0), solver(x0))
    by = [torch.autograd.grad(f(x0).sum(), solver.net[0].weight)[0] for f in (compiled, solver)]
    assert torch.equal(*by)
    with pytest.raises(sx.errors.InputError, match="NeuralODE"):
        torch.export.export(solver, (x0,))
    with pytest.raises(Exception, match="NeuralODE"):
        torch._dynamo.reset()
        torch.compile(solver, backend="eager", fullgraph=True)(x0)
