"""Gradients of solutions: against finite differences, against each other, and where an item fails or a tensor hides."""

import math

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx
from separatrix.flows.gradients import checkpoint
from separatrix.flows.steps import items

DOUBLE = {"dtype": torch.float64}
SHARED = [0.0, 0.3, 0.7, 1.1]
OWN = torch.stack([torch.tensor([0.0, 0.3, 0.7, end], **DOUBLE) for end in (1.0, 1.1, 1.5, 2.0, 0.9)], dim=1)
FIXED = [{"method": method, "dt": 0.1} for method in ("euler", "rk4", "dopri5", "implicit_midpoint")]
CHOSEN = [{"method": method, "rtol": 1e-6, "atol": 1e-6} for method in ("dopri5", "tsit5")]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()


class Separable(nn.Module):
    """q̇ = p, ṗ = −a sin q."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.3, **DOUBLE))

    def forward(self, x: Tensor) -> Tensor:
        q, p = x.chunk(2, -1)
        return torch.cat([p, -self.a * q.sin()], -1)


class Square(nn.Module):
    """ẋ = a x²,  which x0 / (1 − a x0 t) solves."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.0, **DOUBLE))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x * x


def starts() -> Tensor:
    return torch.randn(5, 2, generator=torch.Generator().manual_seed(1), **DOUBLE)


def weighed(states: Tensor) -> Tensor:
    """A loss with a different weight for every requested number."""
    return (states * torch.arange(1.0, states.numel() + 1, dtype=states.dtype).reshape(states.shape).sin()).sum()


def gradients(field: nn.Module, x0: Tensor, times, **settings) -> list[Tensor]:
    x0 = x0.clone().requires_grad_()
    states = sx.solve(field, x0, times, **settings).states
    return list(torch.autograd.grad(weighed(states), [x0, *field.parameters()]))


def gap(found: list[Tensor], wanted: list[Tensor]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("times", [SHARED, OWN], ids=["shared", "own"])
@pytest.mark.parametrize("settings", FIXED + CHOSEN, ids=lambda s: f"{s['method']}{'' if 'dt' in s else ' by tolerance'}")
def test_checkpoints_give_the_gradient_of_backpropagation_to_rounding(settings, times):
    field, x0 = network(), starts()
    exact = gradients(field, x0, times, gradient="backpropagation", **settings)
    assert gap(gradients(field, x0, times, gradient="checkpoint", **settings), exact) < 1e-13


@pytest.mark.parametrize("method", ["leapfrog", "yoshida4"])
def test_so_they_do_for_splitting_methods(method):
    settings = {"method": method, "dt": 0.1}
    exact = gradients(Separable(), starts(), SHARED, gradient="backpropagation", **settings)
    assert gap(gradients(Separable(), starts(), SHARED, gradient="checkpoint", **settings), exact) < 1e-13


@pytest.mark.parametrize(("narrow", "most"), [(8, 7), (0, 4096), (8, 1)])
def test_they_do_so_in_groups_of_any_size_and_one_step_after_the_other(narrow, most, monkeypatch):
    monkeypatch.setattr(checkpoint, "NARROW", narrow)
    monkeypatch.setattr(items, "MOST", most)
    exact = gradients(network(), starts(), OWN, gradient="backpropagation")
    assert gap(gradients(network(), starts(), OWN), exact) < 1e-13


@pytest.mark.parametrize("gradient", ["backpropagation", "checkpoint", "adjoint"])
@pytest.mark.parametrize("settings", [{"rtol": 1e-10, "atol": 1e-10}, {"method": "rk4", "dt": 0.02}], ids=["tolerance", "rk4"])
def test_every_gradient_is_that_of_finite_differences(gradient, settings):
    field, x0 = network(), starts()
    found = gradients(field, x0, OWN, gradient=gradient, **settings)
    step = 1e-5  # the difference is then right to 1e-10, and rounding makes 1e-10 of it

    def loss() -> float:
        with torch.no_grad():
            return float(weighed(sx.solve(field, x0, OWN, **settings).states))

    for tensor, by in zip([x0, *field.parameters()], found, strict=True):
        at = (0,) * tensor.ndim
        with torch.no_grad():
            tensor[at] += step
            above = loss()
            tensor[at] -= 2 * step
            below = loss()
            tensor[at] += step
        assert float(by[at]) == pytest.approx((above - below) / (2 * step), rel=1e-6, abs=1e-7)


def test_the_adjoint_comes_closer_with_the_tolerance():
    field, x0 = network(), starts()
    off = []
    for tol in (1e-4, 1e-6, 1e-8):
        settings = {"rtol": tol, "atol": tol}
        exact = gradients(field, x0, OWN, gradient="backpropagation", **settings)
        off.append(gap(gradients(field, x0, OWN, gradient="adjoint", **settings), exact))
    assert off[0] < 1e-2 and off[2] < 1e-6 and off[2] < off[1] < off[0]


SOLVED = [{"method": "rk4", "dt": 0.05}, {"method": "implicit_midpoint", "dt": 0.02}, {"method": "tsit5"}]


@pytest.mark.parametrize("settings", SOLVED)
def test_the_adjoint_is_solved_by_every_method(settings):
    exact = gradients(network(), starts(), SHARED, gradient="backpropagation", **settings)
    assert gap(gradients(network(), starts(), SHARED, gradient="adjoint", **settings), exact) < 1e-4


def test_float32_gradients_are_those_of_float64_to_its_rounding():
    exact = gradients(network(), starts(), SHARED, method="rk4", dt=0.1)
    for gradient in ("backpropagation", "checkpoint"):
        for settings in ({"method": "rk4", "dt": 0.1}, {"rtol": 1e-5, "atol": 1e-5}):
            found = gradients(network().float(), starts().float(), SHARED, gradient=gradient, **settings)
            assert all(part.dtype == torch.float32 for part in found) and gap([p.double() for p in found], exact) < 1e-3


@pytest.mark.parametrize("gradient", ["backpropagation", "checkpoint", "adjoint"])
@pytest.mark.parametrize("settings", [{"rtol": 1e-6, "atol": 1e-8}, {"method": "rk4", "dt": 0.005}], ids=["tolerance", "rk4"])
def test_items_that_fail_leave_the_others_gradients_as_they_are(gradient, settings):
    """∂x/∂x0 = 1/(1 − a x0 t)² and ∂x/∂a = x0² t/(1 − a x0 t)², at the times that were reached; the rest does not contribute."""
    field = Square()
    x0 = torch.tensor([[0.5], [1.5], [-1.0]], **DOUBLE, requires_grad=True)  # the second is infinite at 2/3
    found = sx.solve(field, x0, [0.0, 0.5, 1.0], gradient=gradient, **settings)
    assert list(found.status) == ["ok", "diverged", "ok"] and found.states[2, 1].isnan()
    alive = torch.tensor([[True, True, True], [True, False, True]])
    by_start, by_a = torch.autograd.grad(found.states[1:, :, 0][alive].sum(), [x0, field.a])
    times = torch.tensor([[0.5], [1.0]], **DOUBLE).expand(2, 3)
    start = x0.detach()[:, 0].expand(2, 3)
    scale = torch.where(alive, (1 - start * times) ** -2, 0.0)
    assert torch.allclose(by_start[:, 0], scale.sum(0), rtol=1e-4)
    assert float(by_a) == pytest.approx(float((scale * start**2 * times).sum()), rel=1e-4)


def test_a_step_that_overflows_does_not_poison_the_gradients_of_others():
    x0 = torch.tensor([[0.5], [50.0]], **DOUBLE, requires_grad=True)
    field = nn.Linear(1, 1, bias=False).double()

    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = field

        def forward(self, x: Tensor) -> Tensor:
            return (self.inner(x) ** 2).exp() - 1

    with torch.no_grad():
        field.weight.fill_(1.0)
    for gradient in ("backpropagation", "checkpoint"):
        found = sx.solve(Steep(), x0, [0.0, 0.1, 0.2], method="rk4", dt=0.1, gradient=gradient)
        assert list(found.status) == ["ok", "diverged"]
        by = torch.autograd.grad(found.states[:, 0].sum(), [x0, field.weight])
        assert all(torch.isfinite(part).all() for part in by) and float(by[0][1]) == 0


def test_a_field_may_hold_data_or_parameters_of_each_item():
    u = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), **DOUBLE)
    torch.manual_seed(0)
    layer = nn.Linear(5, 2).double()

    class Conditioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.cat([x, u], -1)).tanh()

    exact = gradients(Conditioned(), starts(), SHARED, gradient="backpropagation")
    assert gap(gradients(Conditioned(), starts(), SHARED, gradient="checkpoint"), exact) < 1e-13
    assert gap(gradients(Conditioned(), starts(), SHARED, gradient="adjoint"), exact) < 1e-4


class Attention(nn.Module):
    """A field in which every item depends on all items."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.key, self.value = nn.Linear(2, 2, bias=False).double(), nn.Linear(2, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x @ self.key(x).mT, -1) @ self.value(x) - x


class MeanField(nn.Module):
    """Every item is drawn to the mean of all, on whichever axis they come."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7, **DOUBLE))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x.mean(-2, keepdim=True) ** 2 - x


@pytest.mark.parametrize("x", [starts(), torch.ones(5, 2, **DOUBLE), starts()[:2]], ids=["apart", "equal", "two"])
@pytest.mark.parametrize("field", [Attention(), MeanField(), lambda x: x.mean(-2, keepdim=True) ** 2 - x])
def test_items_that_interact_have_their_own_gradients_in_equal_steps_and_no_steps_of_their_own(field, x):
    """With equal rows, the mean over rows is that of one row, so a test on equal rows cannot detect mixing."""

    def found(gradient: str) -> list[Tensor]:
        x0 = x.clone().requires_grad_()
        by = [x0, *(field.parameters() if isinstance(field, nn.Module) else [])]
        loss = weighed(sx.solve(field, x0, SHARED, method="rk4", dt=0.1, gradient=gradient).states)
        return list(torch.autograd.grad(loss, by))

    for a, b in zip(found("checkpoint"), found("backpropagation"), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-13)
    with pytest.raises(sx.errors.InputError, match="items"):
        found("adjoint")
    with pytest.raises(sx.errors.InputError, match="items"):
        sx.solve(field, x, SHARED)


@pytest.mark.parametrize("axes", [(2, 2), (3, 2), (2, 8), (9, 1)])
def test_items_that_interact_along_any_axis_of_the_batch_are_found(axes):
    for axis in range(len(axes)):
        if axes[axis] > 1:
            with pytest.raises(sx.errors.InputError, match="items"):
                sx.solve(lambda x, axis=axis: x.mean(axis, keepdim=True) - x, torch.ones(*axes, 3, **DOUBLE), [0.0, 1.0])


def test_data_that_are_cut_to_the_batch_are_given_to_the_items_they_are_of():
    """ẋ_i = u_i t from 0: all velocities are 0 at the start, so the start shows no mixing; items end at different times."""
    u = torch.randn(5, 2, generator=torch.Generator().manual_seed(2), **DOUBLE)
    found = sx.solve(lambda x, t: u[: len(x)] * t[..., None] + 0 * x, torch.zeros(5, 2, **DOUBLE), OWN, time_dependent=True)
    assert (found.states - u * OWN[..., None] ** 2 / 2).abs().max() < 1e-12


@pytest.mark.parametrize("settings", [{}, {"method": "rk4", "dt": 0.02}])
def test_parameters_with_batch_axes_broadcast_against_the_states(settings):
    """3 rates × 4 states of  ẋ = r x (1 − x),  alone and together."""
    r = torch.tensor([[0.5], [1.0], [2.0]], **DOUBLE, requires_grad=True)
    x0 = torch.linspace(0.1, 0.7, 4, **DOUBLE)[:, None]

    class Logistic(sx.Field):
        def __init__(self, r: Tensor) -> None:
            super().__init__()
            self.hold(r=r)

        def forward(self, x: Tensor, t) -> Tensor:
            return self.r[..., None] * x * (1 - x)

    for gradient in ("backpropagation", "checkpoint", "adjoint"):
        found = sx.solve(Logistic(r), x0, [0.0, 0.4, 1.0], gradient=gradient, rtol=1e-8, atol=1e-10, **settings)
        exact = 1 / (1 + (1 / x0[:, 0] - 1) * torch.exp(-r * found.times))
        assert found.states.shape == (3, 3, 4, 1) and torch.allclose(found.states[..., 0], exact, atol=1e-7)
        by, wanted = (torch.autograd.grad(weighed(states), r)[0] for states in (found.states[..., 0], exact))
        assert torch.allclose(by, wanted, atol=1e-6)


def test_a_function_that_hides_a_tensor_is_backpropagated_and_never_loses_it():
    a, x0 = torch.tensor(0.7, **DOUBLE, requires_grad=True), torch.ones(2, 1, **DOUBLE)
    found = sx.solve(lambda x: -a * x, x0, [0.0, 1.0], rtol=1e-9, atol=1e-9)
    assert found.settings["gradient"] == "backpropagation"
    assert float(torch.autograd.grad(found.last.sum(), a)[0]) == pytest.approx(-2 * math.exp(-0.7), rel=1e-7)
    for gradient in ("checkpoint", "adjoint"):
        with pytest.raises(sx.errors.InputError, match="gradient="):
            sx.solve(lambda x: -a * x, x0, [0.0, 1.0], gradient=gradient)


def test_a_tensor_that_hides_in_another_branch_is_found_where_its_step_is_taken_again():
    a = torch.tensor(0.7, **DOUBLE, requires_grad=True)
    x0 = torch.ones(2, 1, **DOUBLE, requires_grad=True)
    found = sx.solve(lambda x: -x if float(x.detach().amin()) > 0.8 else -a * x, x0, [0.0, 1.0], gradient="checkpoint")
    with pytest.raises(sx.errors.InputError, match="gradient="):
        found.last.sum().backward()


def test_only_backpropagation_is_differentiated_twice():
    field, x0 = network(), starts().requires_grad_()
    found = sx.solve(field, x0, [0.0, 1.0], gradient="backpropagation").last.sum()
    (first,) = torch.autograd.grad(found, x0, create_graph=True)
    assert torch.autograd.grad(first.square().sum(), field[0].weight)[0].abs().sum() > 0
    with pytest.raises(sx.errors.InputError, match="backpropagation"):
        torch.autograd.grad(sx.solve(field, x0, [0.0, 1.0]).last.sum(), x0, create_graph=True)


def test_a_parameter_that_was_written_to_since_is_refused():
    field, x0 = network(), starts().requires_grad_()
    loss = sx.solve(field, x0, [0.0, 1.0]).last.sum()
    with torch.no_grad():
        field[0].weight += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
@pytest.mark.parametrize("name", ["weight", "factor"])
def test_so_is_a_frozen_one_and_a_buffer_which_the_gradient_is_computed_from_again(gradient, name):
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return self.factor * super().forward(x).tanh()

    field, x0 = Scaled(2, 2).double().requires_grad_(False), starts().requires_grad_()
    field.register_buffer("factor", torch.ones(2, **DOUBLE))
    loss = sx.solve(field, x0, [0.0, 1.0], gradient=gradient).last.sum()
    getattr(field, name).mul_(3.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_forward_derivatives_go_through_steps_by_tolerance():
    field, x0 = network(), starts()
    value, pushed = torch.func.jvp(lambda x: sx.solve(field, x, [0.0, 1.0]).last, (x0,), (torch.ones_like(x0),))
    step = 1e-5 * torch.ones_like(x0)
    ends = [sx.solve(field, x0 + sign * step, [0.0, 1.0], rtol=1e-11, atol=1e-12).last.detach() for sign in (1, -1)]
    assert (pushed - (ends[0] - ends[1]) / 2e-5).abs().max() < 1e-4 and torch.isfinite(value).all()


def test_nothing_is_recorded_where_nothing_asks_for_it():
    frozen = network().requires_grad_(False)
    assert sx.solve(frozen, starts(), [0.0, 1.0]).settings["gradient"] is None
    with torch.no_grad():
        assert not sx.solve(network(), starts(), [0.0, 1.0], method="rk4", dt=0.1).states.requires_grad


def test_an_unknown_gradient_is_named():
    with pytest.raises(sx.errors.InputError, match="'adjoin'"):
        sx.solve(network(), starts(), [0.0, 1.0], gradient="adjoin")
