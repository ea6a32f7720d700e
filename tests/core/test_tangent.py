"""Tangents of any callable: against derivatives known in closed form, and the ladder of ways to get them."""

import math
import subprocess
import sys
import warnings

import pytest
import torch
from torch import Tensor, nn

from separatrix.core.components import stack_batch_last
from separatrix.core.errors import UnsupportedModuleError
from separatrix.core.system import Map
from separatrix.core.tangent import LADDER, climb, jacobian, plain_kernels, pullback, pushforward
from separatrix.testing import check_module_untouched

ALL_AT_ONCE, PLAIN_KERNELS, ONE_BY_ONE, TWICE_REVERSE = range(4)


class ReverseOnlySine(torch.autograd.Function):
    """A sine with no forward derivative; its backward can be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.cos()


class OnceOnlySine(ReverseOnlySine):
    """A sine whose backward cannot be differentiated either."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.cos()


class ReverseOnly(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return ReverseOnlySine.apply(x)


class OnceOnly(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return OnceOnlySine.apply(x)


class ThroughNumpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(2 * x.detach().numpy())


class LastHidden(nn.Module):
    """An nn.LSTM fed with the state for three steps: on a CPU a fused kernel without forward derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.reshape(-1, 1, 4).expand(-1, 3, 4))[0][:, -1].reshape(x.shape)


class Tokens(nn.Module):
    """A transformer layer on four tokens of four numbers: fused attention, and a fast path in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(-1, 4, 4)).reshape(x.shape)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def central_differences(f, x: Tensor, v: Tensor, h: float = 1e-5) -> Tensor:
    return torch.stack([(f(x + h * w) - f(x - h * w)) / (2 * h) for w in v.unbind(-2)], dim=-2)


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_linear_map_pushes_tangents_by_its_matrix(batch, k):
    matrix, x, v = normal(3, 4), normal(*batch, 4), normal(*batch, k, 4, seed=1)
    value, pushed = pushforward(lambda x: x @ matrix.T, x, v)
    assert torch.allclose(value, x @ matrix.T)
    assert pushed.shape == (*batch, k, 3)
    assert torch.allclose(pushed, v @ matrix.T, rtol=1e-14)


def test_each_batch_item_has_its_own_derivative():
    x, v = normal(7, 4), normal(7, 2, 4, seed=1)
    _, pushed = pushforward(torch.sin, x, v)
    assert torch.allclose(pushed, x.cos()[:, None] * v, rtol=1e-14)


def test_the_jacobian_has_rows_of_outputs_and_columns_of_inputs():
    """(p, q, r) ↦ (p q, r²): rows (q, p, 0) and (0, 0, 2r)."""
    x = torch.tensor([[2.0, 3.0, 5.0], [7.0, 11.0, 13.0]], dtype=torch.float64)
    found = jacobian(lambda x: torch.stack([x[..., 0] * x[..., 1], x[..., 2] ** 2], -1), x)
    assert found.tolist() == [[[3, 2, 0], [0, 0, 10]], [[11, 7, 0], [0, 0, 26]]]


def test_pullback_is_the_transpose_of_pushforward():
    """⟨w, J v⟩ = ⟨Jᵀ w, v⟩."""
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, v, w = normal(5, 4), normal(5, 2, 4, seed=1), normal(5, 2, 3, seed=2)
    value, pushed = pushforward(net, x, v)
    again, pulled = pullback(net, x, w)
    assert torch.allclose(value, again)
    assert torch.allclose((w * pushed).sum(-1), (pulled * v).sum(-1), rtol=1e-12)


def test_no_tangents_are_pushed_to_no_tangents():
    value, pushed = pushforward(torch.sin, normal(3, 2), torch.zeros(3, 0, 2, dtype=torch.float64))
    assert pushed.shape == (3, 0, 2)
    assert torch.equal(value, normal(3, 2).sin())


def test_the_derivative_can_be_differentiated_again():
    """d/dx (cos x · v) = −sin x · v."""
    x = normal(3).requires_grad_()
    _, pushed = pushforward(torch.sin, x, torch.eye(3, dtype=torch.float64))
    (second,) = torch.autograd.grad(pushed.sum(), x)
    assert torch.allclose(second, -x.sin())


@pytest.mark.parametrize("rung", [ALL_AT_ONCE, PLAIN_KERNELS, ONE_BY_ONE, TWICE_REVERSE])
@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_every_rung_gives_the_same_derivative(rung, batch):
    x, v = normal(*batch, 4), normal(*batch, 3, 4, seed=1)
    value, pushed = LADDER[rung](torch.sin, x, v)
    assert torch.equal(value, x.sin())
    assert torch.allclose(pushed, x.cos()[..., None, :] * v, rtol=1e-14)


def test_a_branch_on_the_state_does_not_leave_the_first_rung():
    def branching(x: Tensor) -> Tensor:
        return x.sin() if bool(x.sum() > -1e9) else x

    assert climb(branching, normal(3, 2), normal(3, 2, 2, seed=1), 0)[2] == ALL_AT_ONCE


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_a_function_with_only_a_reverse_derivative_goes_twice_through_it(grad):
    x, v = normal(5, 3), normal(5, 4, 3, seed=1)
    with torch.set_grad_enabled(grad):
        value, pushed, rung = climb(ReverseOnlySine.apply, x, v, 0)
    assert rung == TWICE_REVERSE
    assert torch.equal(value, x.sin())
    assert torch.allclose(pushed, x.cos()[:, None] * v, rtol=1e-14)
    assert not value.requires_grad and not pushed.requires_grad


def test_twice_reverse_works_under_inference_mode():
    with torch.inference_mode():
        x, v = normal(3), normal(2, 3, seed=1)
        _, pushed = pushforward(ReverseOnlySine.apply, x, v)
    assert torch.allclose(pushed, normal(3).cos() * normal(2, 3, seed=1))


def test_twice_reverse_keeps_the_graph_of_parameters():
    """d/da of (a cos x · v) summed, for a sin x."""
    a, x, v = torch.tensor(2.0, dtype=torch.float64, requires_grad=True), normal(3), torch.eye(3).double()
    _, pushed = pushforward(lambda x: a * ReverseOnlySine.apply(x), x, v)
    pushed.sum().backward()
    assert a.grad.item() == pytest.approx(x.cos().sum().item())


def test_twice_reverse_can_be_differentiated_by_the_state():
    x = normal(3).requires_grad_()
    _, pushed = pushforward(ReverseOnlySine.apply, x, torch.eye(3, dtype=torch.float64))
    (second,) = torch.autograd.grad(pushed.sum(), x)
    assert torch.allclose(second, -x.sin())


@pytest.mark.parametrize(("module", "dim"), [(LastHidden, 4), (Tokens, 16)], ids=["lstm", "transformer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_kernels_give_way_to_plain_ones(module, dim, dtype):
    """In float64 against central differences; in float32 against float64, in which rounding is 1e-7."""
    torch.manual_seed(0)
    system = Map(module(), dim)
    x, v = normal(3, dim), normal(3, 2, dim, seed=1)
    exact = system.to(torch.float64).step
    found = system.to(dtype).pushforward(x.to(dtype), v.to(dtype))
    system.to(torch.float64)
    assert torch.allclose(found[0].double(), exact(x), atol=1e-12 if dtype == torch.float64 else 1e-5)
    wanted = central_differences(exact, x, v)
    assert torch.allclose(found[1].double(), wanted, atol=1e-8 if dtype == torch.float64 else 1e-4)


def test_the_rung_that_held_is_tried_first_the_next_time():
    torch.manual_seed(0)
    calls = []
    system = Map(lambda x: calls.append(1) or ReverseOnlySine.apply(x), 3)
    x, v = normal(3), torch.eye(3, dtype=torch.float64)
    system.pushforward(x, v)
    first, calls[:] = len(calls), []
    system.pushforward(x, v)
    assert len(calls) < first


@pytest.mark.parametrize("layer", [OnceOnly, ThroughNumpy])
def test_a_layer_that_cannot_be_differentiated_is_named(layer):
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), layer()).double()
    system = Map(module, 3)
    assert torch.isfinite(system.step(normal(3))).all()
    with pytest.raises(UnsupportedModuleError, match=f"the layer {layer.__name__} cannot be differentiated"):
        system.pushforward(normal(3), torch.eye(3, dtype=torch.float64))


def test_an_error_of_the_function_itself_is_passed_on():
    def broken(x: Tensor) -> Tensor:
        raise ValueError("the user's own")

    with pytest.raises(ValueError, match="the user's own"):
        pushforward(broken, normal(3), torch.eye(3).double())


def test_plain_kernels_leave_the_global_switches_as_they_were():
    def switches():
        return (
            torch.backends.mkldnn.enabled,
            torch.backends.cudnn.enabled,
            torch.backends.mha.get_fastpath_enabled(),
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
        )

    torch.backends.mha.set_fastpath_enabled(True)
    before = switches()
    with plain_kernels():
        assert switches()[:3] == (False, False, False)
    with pytest.raises(RuntimeError), plain_kernels():
        raise RuntimeError
    assert switches() == before


def test_plain_kernels_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with plain_kernels():
            pass


def test_the_ladder_leaves_the_module_as_it_was():
    torch.manual_seed(0)
    for module, dim in ((LastHidden(), 4), (Tokens().train(), 16)):
        system = Map(module, dim)
        check_module_untouched(module, lambda s=system, d=dim: s.pushforward(torch.rand(2, d), torch.rand(2, 3, d)))


def test_stacked_parts_have_the_batch_innermost_in_memory():
    parts = [torch.full((2, 3), float(i)) for i in range(4)]
    for dim in (-1, -2):
        stacked = stack_batch_last(parts, dim=dim)
        assert torch.equal(stacked, torch.stack(parts, dim=dim))
        assert stacked.stride(0) == 1
    assert stack_batch_last([torch.tensor(math.pi)], dim=-1).tolist() == pytest.approx([math.pi])


def test_a_step_that_does_not_depend_on_its_state_has_zero_tangents():
    """In a process of its own, because torch 2.13 crashes where vmap meets a tangent without its axis."""
    code = (
        "import torch; from separatrix.core.tangent import pushforward\n"
        "for step in (lambda x: torch.zeros_like(x) + 1, lambda x: x.detach() * 2, lambda x: torch.ones(2).double()):\n"
        "    _, v = pushforward(step, torch.ones(2).double(), torch.eye(2).double())\n"
        "    assert v.shape == (2, 2) and not v.any()"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_a_tangent_that_is_not_finite_leaves_its_neighbours_alone():
    x, v = torch.tensor([[0.5], [2.0]], dtype=torch.float64), torch.tensor([[[1.0]], [[math.nan]]], dtype=torch.float64)
    pushed = pushforward(lambda y: y * y, x, v)[1]
    assert pushed[0].item() == 1.0 and pushed[1].isnan().all()
