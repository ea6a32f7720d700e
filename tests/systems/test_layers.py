"""Layers: a stack as a system; rectangular tangents, loops, images, and what cannot be stacked."""

import math

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx
from separatrix.core.derived import Padded
from separatrix.core.evolve import begin


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def narrowing(seed: int = 0) -> nn.Sequential:
    """6 → 10 → 10 → 7 → 7 → 4."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 7), nn.Tanh(), nn.Linear(7, 4)).double()


def final_jacobians(stack: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([torch.func.jacrev(stack)(item) for item in x]).detach()


def test_step_n_is_block_n_and_widths_are_theirs():
    stack, x = narrowing(), normal(3, 6)
    system = sx.Layers(stack)
    assert (system.dim, system.horizon) == (6, 5)
    assert [system.width(n) for n in range(6)] == [6, 10, 10, 7, 7, 4]
    state = x
    for n, block in enumerate(stack):
        assert torch.equal(system.step(state, n), block(state))
        state = system.step(state, n)
    assert torch.equal(state, stack(x))


def test_tangents_are_rectangular_and_the_jacobian_of_each_block():
    stack, x, v = narrowing(), normal(3, 6), normal(3, 5, 6, seed=1)
    value, pushed = sx.Layers(stack).pushforward(x, v, 0)
    assert value.shape == (3, 10) and pushed.shape == (3, 5, 10)
    assert torch.allclose(pushed, v @ stack[0].weight.mT, atol=1e-15)


def test_finite_time_exponents_are_those_of_the_rectangular_jacobian():
    stack, x = narrowing(), normal(3, 6)
    field = sx.finite_time_lyapunov(sx.Layers(stack), x, k=4)
    truth = torch.linalg.svdvals(final_jacobians(stack, x)).log() / 5
    assert (field.exponents - truth).abs().max() < 1e-12
    assert torch.equal(field.x0, x)
    late = sx.finite_time_lyapunov(sx.Layers(stack), x, settle=2, k=4)
    after = torch.linalg.svdvals(final_jacobians(stack[2:], stack[:2](x).detach())).log() / 3
    assert (late.exponents - after).abs().max() < 1e-12 and late.x0.shape == (3, 10)
    with pytest.raises(sx.errors.InputError, match=r"k is 5 but this Layers has .*4"):
        sx.finite_time_lyapunov(sx.Layers(stack), x, k=5)


def test_a_bottleneck_loses_the_directions_that_do_not_fit_through():
    stack = nn.Sequential(*(nn.Linear(a, b, dtype=torch.float64) for a, b in ((5, 2), (2, 6), (6, 5))))
    field = sx.finite_time_lyapunov(sx.Layers(stack), normal(2, 5), k=4)
    truth = torch.linalg.svdvals(stack[2].weight @ stack[1].weight @ stack[0].weight).detach().log() / 3
    assert (field.exponents[..., :2] - truth[:2]).abs().max() < 1e-12
    assert field.exponents[..., 2:].isneginf().all()


def test_gradient_propagation_takes_rectangular_jacobians():
    stack, x = narrowing(), normal(3, 6)
    growth = sx.gradient_propagation(sx.Layers(stack), x)
    jacobians = final_jacobians(stack, x)
    assert growth.log_norm[-1] == pytest.approx(torch.linalg.svdvals(jacobians)[:, 0].log(), abs=1e-12)
    assert growth.log_gain[-1] == pytest.approx((torch.linalg.matrix_norm(jacobians) / 4**0.5).log(), abs=1e-12)


@pytest.mark.parametrize("analysis", [sx.lyapunov_spectrum, sx.covariant_lyapunov_vectors, sx.divergence_rate, sx.fixed_points])
def test_what_needs_one_width_says_so(analysis):
    with pytest.raises(sx.errors.ShapeError, match=r"6 .*10 at step 0"):
        analysis(sx.Layers(narrowing()), normal(2, 6))


def test_padding_keeps_the_singular_values_and_adds_zeros():
    system, x = sx.Layers(narrowing()), normal(2, 6)
    padded = Padded(system)
    assert padded.dim == 10 and [padded.width(n) for n in (0, 3, 5)] == [10, 10, 10]
    state, eye = padded.pad(x), torch.eye(10, dtype=torch.float64).expand(2, 10, 10)
    value, pushed = padded.pushforward(state, eye, 0)
    assert torch.equal(value[:, :10], system.step(x, 0))
    single = torch.linalg.svdvals(narrowing()[0].weight).detach()
    assert torch.linalg.svdvals(pushed)[0].tolist() == pytest.approx([*single.tolist(), 0, 0, 0, 0], abs=1e-14)


def test_a_stack_and_its_profile_agree():
    """The same network as a System and as a model with layers."""
    stack, x = narrowing(), normal(3, 6)
    field, profile = sx.finite_time_lyapunov(sx.Layers(stack), x, k=4), sx.depth_profile(stack, x, k=4)
    assert profile.depth.tolist() == [1, 2, 3, 4, 5]
    assert profile.exponents[-1] == pytest.approx(field.exponents, abs=1e-12)


def test_a_looped_block_is_a_map_without_end():
    """x ← a x: the exponent is ln a, for as many steps as one likes; three loops of two blocks are six steps."""
    block = nn.Linear(3, 3, bias=False, dtype=torch.float64)
    nn.init.eye_(block.weight).data.mul_(0.8)
    endless = sx.Layers([block], loops=None)
    assert endless.horizon is None
    spectrum = sx.lyapunov_spectrum(endless, normal(2, 3), steps=100, settle=10)
    assert spectrum.exponents == pytest.approx(torch.full((2, 3), math.log(0.8), dtype=torch.float64), abs=1e-12)
    assert sx.fixed_points(endless, normal(4, 3)).points.abs().max() < 1e-9
    three = sx.Layers([block, torch.tanh], shape=3, loops=3)
    assert three.horizon == 6
    x = normal(2, 3)
    expected = x
    for _ in range(3):
        expected = torch.tanh(0.8 * expected)
    assert sx.trajectory(three, x, 6)[-1].detach() == pytest.approx(expected.detach(), abs=1e-14)
    with pytest.raises(sx.errors.HorizonError, match=r"7 steps .* 6\b"):
        sx.trajectory(three, x, 7)


def test_images_are_packed_and_unpacked():
    stack = [nn.Conv2d(2, 3, 3, padding=1, dtype=torch.float64), nn.MaxPool2d(2)]
    system, images = sx.Layers(stack, (2, 4, 4)), normal(5, 2, 4, 4)
    x = system.pack(images)
    assert x.shape == (5, 32) and torch.equal(system.unpack(x), images)
    after = system.step(system.step(x, 0), 1)
    assert torch.equal(system.unpack(after, 2), stack[1](stack[0](images)))
    assert system.pack(normal(5, 6, 2, 4, 4)).shape == (5, 6, 32)
    with pytest.raises(sx.errors.ShapeError, match=r"before block 0 of shape .*\(2, 4, 4\)\), got \(5, 4, 4\)"):
        system.pack(normal(5, 4, 4))


def test_gradients_reach_the_users_weights_and_the_module_is_left_alone():
    stack = narrowing().train()
    system = sx.testing.check_module_untouched(stack, lambda: sx.Layers(stack))
    system.step(normal(2, 6), 0).sum().backward()
    assert stack[0].weight.grad is not None and stack.training


def test_float32_weights_run_in_float64_states():
    system = sx.Layers(narrowing().float())
    assert sx.finite_time_lyapunov(system, normal(2, 6)).exponents.dtype == torch.float64
    assert begin(system, normal(2, 6).float(), one_width=False).advance(5).x.dtype == torch.float32


def test_a_residual_stack_of_one_width_conforms():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.tanh(self.linear(x))

    sx.testing.check_system(sx.Layers([Residual() for _ in range(6)]))


@pytest.mark.parametrize(
    ("blocks", "options", "told"),
    [
        ([], {}, "at least 1 block"),
        ([3], {}, "block 0 is 3, which cannot be called"),
        ([nn.Linear], {}, "cannot be called"),
        ([nn.Tanh()], {}, "input shape of the first block"),
        ([nn.Conv2d(1, 1, 1)], {}, "input shape of the first block"),
        ([nn.Linear(3, 4), nn.Linear(5, 2)], {}, r"block 1 failed on a batch of states of shape \(4,\)"),
        ([lambda x: x.sum()], {"shape": 3}, "block 0 returned a tensor of shape"),
        ([lambda x: x.argmax(-1, keepdim=True)], {"shape": 3}, "expected a floating-point batch"),
        ([nn.Linear(3, 4)], {"loops": 2}, r"states of shape \(3,\) to shape \(4,\)"),
        ([nn.Linear(3, 3)], {"loops": 0}, "loops is 0"),
        ([nn.Linear(3, 3)], {"loops": 1.5}, "loops is 1.5"),
        ([nn.Linear(3, 3)], {"shape": 0}, "dim is 0"),
        ([nn.Linear(3, 3)], {"shape": "wide"}, "shape is 'wide'"),
    ],
)
def test_what_is_no_stack_is_told_in_one_line(blocks, options, told):
    with pytest.raises(sx.SeparatrixError, match=told):
        sx.Layers(blocks, **options)


def test_steps_beyond_the_depth_are_refused():
    with pytest.raises(sx.errors.HorizonError, match="step 5 was requested, but the 5 blocks"):
        sx.Layers(narrowing()).step(normal(1, 4), 5)


def test_what_is_no_stack_is_refused():
    with pytest.raises(sx.errors.UnsupportedModuleError, match="a stack of blocks, got a NoneType"):
        sx.Layers(None)


def test_a_loop_without_end_whose_width_changes_within_is_measured_as_one_with_an_end():
    """1 → 1 → 2 → 1 and again: finite-time exponents are those of two loops, and what needs one width refuses in words."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = nn.Sequential(*(nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in ((1, 1), (1, 2), (2, 1)))).double()
    endless, twice = (sx.Layers(blocks, 1, loops=loops) for loops in (None, 2))
    x0 = normal(3, 1)
    for system in (endless, sx.Noisy(endless, 0.0)):
        field = sx.finite_time_lyapunov(system, x0, steps=6)
        torch.testing.assert_close(field.exponents, sx.finite_time_lyapunov(twice, x0, steps=6).exponents)
        with pytest.raises(sx.errors.ShapeError, match=r"1 .*2 at step 1"):
            sx.lyapunov_spectrum(system, x0, steps=6, settle=0)
    assert sx.lyapunov_spectrum(sx.Iterate(endless, 3), x0, steps=20).batch == (3,)
