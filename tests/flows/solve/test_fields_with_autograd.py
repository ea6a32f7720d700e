"""Fields that differentiate inside: energies of Hamiltonian and Lagrangian networks, as their authors write them."""

import warnings

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx

DOUBLE = {"dtype": torch.float64}
J = torch.tensor([[0.0, -1.0], [1.0, 0.0]], **DOUBLE)  # (∂H/∂q, ∂H/∂p) as a row times J is (∂H/∂p, −∂H/∂q)
TIMES = [0.0, 0.33, 1.0]
SETTINGS = [{"rtol": 1e-9, "atol": 1e-9}, {"method": "rk4", "dt": 0.05}]


class Energy(nn.Module):
    """A network with a scalar output, and the same weights in every subclass."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()


class InPlace(Energy):
    def forward(self, x: Tensor) -> Tensor:
        x.requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0] @ J


class OnAClone(Energy):
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = x.clone().requires_grad_()
            return torch.autograd.grad(self.net(y).sum(), y, create_graph=True)[0] @ J


class ByALeafOfItsOwn(Energy):
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            shift = torch.zeros_like(x, requires_grad=True)
            return torch.autograd.grad(self.net(x + shift).sum(), shift, create_graph=True)[0] @ J


class OnTheCallersGraph(Energy):
    def forward(self, x: Tensor) -> Tensor:
        return torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0] @ J


class OfEachItem(Energy):
    def forward(self, x: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.grad(lambda y: self.net(y).squeeze(-1)))(x) @ J


class Lagrangian(Energy):
    """q̈ from  d/dt ∂L/∂q̇ = ∂L/∂q,  L = q̇²/2 + 0.3 net(q, q̇)."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.requires_grad_()
            q, v = x[..., :1], x[..., 1:]
            energy = (v**2).sum() / 2 + 0.3 * self.net(torch.cat([q, v], -1)).sum()
            by_q, by_v = torch.autograd.grad(energy, (q, v), create_graph=True)
            mass, mixed = (torch.autograd.grad(by_v.sum(), part, create_graph=True)[0] for part in (v, q))
            return torch.cat([v, (by_q - mixed * v) / mass], -1)


class Wrapper(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def starts() -> Tensor:
    return torch.randn(3, 2, generator=torch.Generator().manual_seed(3), **DOUBLE)


def weighed(states: Tensor) -> Tensor:
    return (states * torch.arange(1.0, states.numel() + 1, **DOUBLE).reshape(states.shape).sin()).sum()


KINDS = [InPlace, OnAClone, ByALeafOfItsOwn, OnTheCallersGraph, OfEachItem, Lagrangian]
FIELDS = {kind.__name__: kind for kind in KINDS} | {
    "wrapped": lambda: Wrapper(InPlace()),
    "data-parallel": lambda: nn.DataParallel(InPlace()),
}


@pytest.mark.parametrize("settings", SETTINGS, ids=["tolerance", "rk4"])
@pytest.mark.parametrize("name", FIELDS)
def test_every_gradient_of_a_field_with_autograd_inside_is_that_of_differences(name, settings):
    """Central differences along one direction of all parameters and the start: with adaptive steps accurate to 1e-5."""
    field = FIELDS[name]()
    by = [starts(), *field.parameters()]
    along = [torch.randn(part.shape, generator=torch.Generator().manual_seed(5), **DOUBLE) for part in by]

    @torch.no_grad()
    def moved(step: float) -> float:
        for part, direction in zip(by, along, strict=True):
            part += step * direction
        value = float(weighed(sx.solve(field, by[0], TIMES, **settings).states))
        for part, direction in zip(by, along, strict=True):
            part -= step * direction
        return value

    wanted = (moved(1e-4) - moved(-1e-4)) / 2e-4
    for gradient in (None, "backpropagation", "checkpoint", "adjoint"):
        leaf = starts().requires_grad_()
        loss = weighed(sx.solve(field, leaf, TIMES, gradient=gradient, **settings).states)
        found = torch.autograd.grad(loss, [leaf, *field.parameters()], materialize_grads=True, allow_unused=True)
        slope = sum(float((part * direction).sum()) for part, direction in zip(found, along, strict=True))
        assert slope == pytest.approx(wanted, rel=1e-5)


def test_nothing_is_recorded_where_such_a_field_is_only_followed():
    frozen = InPlace().requires_grad_(False)
    x0 = starts()
    for settings in SETTINGS:
        assert not sx.solve(frozen, x0, TIMES, **settings).states.requires_grad
    assert not x0.requires_grad


@pytest.mark.parametrize("kind", KINDS[:-2])
def test_analyses_take_the_derivative_of_such_a_field(kind):
    """The rates at an equilibrium of H are those of J H″, here by a Hessian that is written out."""
    field = kind()
    w, b, out = field.net[0].weight, field.net[0].bias, field.net[2].weight[0]

    def linearised(x: Tensor) -> Tensor:
        """∂/∂x of  J ∂H/∂x  with H = out · tanh(w x + b):  H″ = wᵀ diag(out · tanh″) w."""
        h = torch.tanh(w @ x + b)
        return J.mT @ (w.mT * (out * -2 * h * (1 - h**2))) @ w

    flow = sx.Flow(field, 2, 0.1)
    identity = torch.eye(2, **DOUBLE).expand(3, 2, 2)
    found = flow.field.pushforward(starts(), identity, 0.0)[1].mT.detach()
    assert torch.allclose(found, torch.stack([linearised(x) for x in starts()]).detach(), atol=1e-13)
    assert sx.lyapunov_spectrum(flow, starts()[:1], steps=50).exponents.sum() == pytest.approx(0.0, abs=1e-6)


def test_a_closure_over_such_a_network_really_hides_it():
    model = InPlace()
    found = sx.solve(lambda x: model(x), starts(), TIMES)
    assert found.settings["gradient"] == "backpropagation"
    exact = torch.autograd.grad(weighed(sx.solve(model, starts(), TIMES).states), model.net[0].weight)[0]
    assert torch.allclose(torch.autograd.grad(weighed(found.states), model.net[0].weight)[0], exact, rtol=1e-10)
    with pytest.raises(sx.errors.InputError, match="gradient="):
        sx.solve(lambda x: model(x), starts(), TIMES, gradient="adjoint")


class Detaches(Energy):
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            return torch.autograd.grad(self.net(y).sum(), y, create_graph=True)[0] @ J - 0.1 * x


class OnlyInTraining(Energy):
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.requires_grad_()
            return torch.autograd.grad(self.net(x).sum(), x, create_graph=self.training)[0] @ J


class WithoutGraph(Energy):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            pull = self.net(x)
        return pull - 0.2 * x


@pytest.mark.parametrize("settings", SETTINGS, ids=["tolerance", "rk4"])
@pytest.mark.parametrize("kind", [Detaches, OnlyInTraining, WithoutGraph])
def test_a_field_that_loses_its_gradient_is_refused_where_one_is_asked(kind, settings):
    for gradient in (None, "checkpoint", "adjoint"):
        with pytest.raises(sx.errors.UnsupportedModuleError, match="gradient"):
            sx.solve(kind(), starts(), TIMES, gradient=gradient, **settings)
    with pytest.warns(UserWarning, match="gradient"):
        sx.solve(kind(), starts().requires_grad_(), TIMES, gradient="backpropagation", **settings)
    with torch.no_grad():
        assert set(sx.solve(kind(), starts(), TIMES, **settings).status) == {"ok"}


def test_a_field_with_kinks_jumps_and_branches_does_not_lose_it():
    torch.manual_seed(1)
    relu = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
    fields = [relu, lambda x: x.relu() - x, lambda x: torch.where(x > 0, -x, -2 * x), lambda x: -x.sign() - x, lambda x: x * 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for field in fields:
            for x0 in (starts().float(), starts(), torch.zeros(2, 2)):
                found = sx.solve(field, x0.requires_grad_(), [0.0, 0.2], method="rk4", dt=0.1)
                assert bool((found.codes == sx.Status.OK).all()) and found.last.requires_grad
