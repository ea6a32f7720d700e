"""Eigenvalues along orbits against dense Jacobians, factors against polynomials, stable steps against what runs do."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix import plot
from separatrix.core.tangent import jacobian
from separatrix.flows.methods import SOLVERS
from separatrix.plot.stability_region import draw_region
from separatrix.plot.style import canvas


def linear(matrix: list[list[float]], dt: float, method: str = "euler") -> sx.Flow:
    a = torch.tensor(matrix, dtype=torch.float64)
    return sx.Flow(lambda x: x @ a.T, len(a), dt, method=method)


def test_a_linear_flow_has_its_matrix_s_eigenvalues_everywhere():
    """λ = −1 and −5 ± 12 i at dt = 1/8: Euler's factors |1 + λ dt| are 7/8 and √(3² + 12²)/8."""
    flow = linear([[-1, 0, 0], [0, -5, 12], [0, -12, -5]], 0.125)
    found = sx.stability_region(flow, torch.ones(3, dtype=torch.float64), steps=4)
    assert found.times.tolist() == [0.0, 0.125, 0.25, 0.375]
    for values, factors in zip(found.eigenvalues, found.factors, strict=True):
        order = values.imag.argsort()
        wanted = torch.tensor([-5 - 12j, -1, -5 + 12j], dtype=torch.complex128)
        torch.testing.assert_close(values[order], wanted, rtol=0, atol=1e-12)
        outer = math.sqrt(153) / 8
        torch.testing.assert_close(factors[order], torch.tensor([outer, 0.875, outer], dtype=torch.float64), rtol=0, atol=1e-12)
    assert float(found.inside) == pytest.approx(1 / 3) and float(found.spurious) == pytest.approx(2 / 3)
    assert float(found.largest) == pytest.approx(math.sqrt(153) / 8)
    assert float(found.stable_dt) == pytest.approx(10 / 169, rel=1e-9)  # |1 + λh| = 1 at h = −2 Re λ / |λ|²


@pytest.mark.parametrize("method", SOLVERS)
def test_the_stable_step_is_where_a_run_begins_to_grow(method):
    """ẋ = −x, or of a splitting the oscillator of frequency 1, just within the longest stable step and beyond it."""
    matrix = [[0.0, 1.0], [-1.0, 0.0]] if SOLVERS[method].paired else [[-1.0, 0.0], [0.0, -1.0]]
    x = torch.tensor([1.0, 0.3], dtype=torch.float64)
    longest = float(sx.stability_region(linear(matrix, 0.1, method), x, steps=1).stable_dt)
    if math.isinf(longest):
        assert method in ("implicit_midpoint", "rodas5p")
        return
    within, beyond = (sx.trajectory(linear(matrix, share * longest, method), x, 500)[-1].norm() for share in (0.99, 1.01))
    assert within < 20 and beyond > 1e3


def test_a_network_s_eigenvalues_are_those_of_each_layer_s_jacobian_at_its_state():
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double() for _ in range(3)]
    model, x = sx.nn.ContinuousDepth(layers, end=2.0, method="midpoint"), torch.randn(4, 3, dtype=torch.float64)
    found, orbit = sx.stability_region(model, x), sx.trajectory(model, x, 3).detach()
    assert found.eigenvalues.shape == (3, 4, 3)
    for n, layer in enumerate(layers):
        wanted = np.linalg.eigvals(jacobian(layer, orbit[n]).detach().numpy())
        np.testing.assert_allclose(ordered(found.eigenvalues[n].numpy()), ordered(wanted), rtol=0, atol=1e-10)
    z = 2 / 3 * found.eigenvalues.numpy()
    np.testing.assert_allclose(found.factors.numpy(), np.abs(1 + z + z**2 / 2), rtol=1e-12)
    np.testing.assert_allclose(found.inside.numpy(), (np.abs(1 + z + z**2 / 2) <= 1).mean((0, 2)), rtol=1e-12)


def ordered(values: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, np.lexsort((values.imag.round(9), values.real.round(9))), -1)


def test_each_layer_is_sampled_in_its_own_time():
    """K fields in more steps than fields: step n is in layer n K // L, also where n dt misses the border by rounding."""
    layers = [nn.Linear(1, 1, bias=False).double() for _ in range(7)]
    for k, layer in enumerate(layers):
        nn.init.constant_(layer.weight, -float(k))
    model = sx.nn.ContinuousDepth(layers, steps=21, end=0.7)
    found = sx.stability_region(model, torch.ones(1, dtype=torch.float64))
    assert found.eigenvalues[:, 0].real.tolist() == [-float(n // 3) for n in range(21)]


def test_modes_that_grow_in_the_field_are_not_spurious():
    found = sx.stability_region(linear([[2.0, 0.0], [0.0, -0.1]], 0.5), torch.ones(2, dtype=torch.float64), steps=2)
    assert float(found.inside) == 0.5 and float(found.spurious) == 0 and float(found.stable_dt) == pytest.approx(20)
    still = sx.stability_region(linear([[0.0]], 0.5), torch.ones(1, dtype=torch.float64), steps=2)
    assert float(still.inside) == 1 and math.isinf(float(still.stable_dt))


def test_an_undamped_turn_is_never_stable_under_euler_and_always_under_the_implicit_midpoint():
    turn, x = [[0.0, 1.0], [-1.0, 0.0]], torch.ones(2, dtype=torch.float64)
    assert float(sx.stability_region(linear(turn, 0.1), x, steps=2).stable_dt) == 0
    assert math.isinf(float(sx.stability_region(linear(turn, 0.1, "implicit_midpoint"), x, steps=2).stable_dt))
    leap = sx.stability_region(linear(turn, 0.1, "leapfrog"), x, steps=2)
    assert float(leap.stable_dt) == pytest.approx(2) and float(leap.inside) == 1


def test_a_run_that_diverges_is_marked_and_does_not_affect_others():
    flow = sx.Flow(lambda x: x**3, 1, 1.0, method="euler")
    both = sx.stability_region(flow, torch.tensor([[0.1], [9.0]], dtype=torch.float64), steps=12)
    alone = sx.stability_region(flow, torch.tensor([[0.1]], dtype=torch.float64), steps=12)
    assert both.status.tolist() == ["ok", "diverged"]
    assert torch.equal(both.eigenvalues[:, :1], alone.eigenvalues)
    assert both.eigenvalues[-1, 1].isnan().all() and "(1 diverged)" in both.summary()
    with pytest.raises(sx.errors.DivergedError, match=r"1 of 2 items .*\(1,\)"):
        sx.stability_region(flow, torch.tensor([[0.1], [9.0]], dtype=torch.float64), steps=12, throw=True)


def test_float32_states_have_the_same_eigenvalues():
    flow, x = sx.classic.lorenz63(), torch.ones(3, dtype=torch.float64)
    double, single = (sx.stability_region(flow, start, steps=5, every=2) for start in (x, x.float()))
    assert single.eigenvalues.dtype == torch.complex64 and len(single.times) == 3
    np.testing.assert_allclose(ordered(single.eigenvalues.numpy()), ordered(double.eigenvalues.numpy()), rtol=1e-3)


def test_systems_other_than_flows_are_refused():
    with pytest.raises(sx.errors.UnsupportedModuleError, match=r"expected a Flow, got a .*no field"):
        sx.stability_region(sx.classic.henon())
    with pytest.raises(sx.errors.InputError, match="every is 0"):
        sx.stability_region(sx.classic.lorenz63(), every=0)


@pytest.mark.parametrize("method", SOLVERS)
def test_the_picture_s_border_is_where_the_factor_is_one(method):
    _, ((axes,),) = canvas()
    draw_region(axes, method)
    if SOLVERS[method].paired:
        line = next(line for line in axes.lines if line.get_gid() == "border")
        assert max(line.get_ydata()) == pytest.approx(float(SOLVERS[method].stable_length(torch.tensor(1j))), abs=1e-6)
        return
    border = axes.collections[1].get_paths()[0].vertices
    factors = SOLVERS[method].amplification(torch.tensor(border[:, 0] + 1j * border[:, 1])).abs()
    assert len(border) > 100 and (factors - 1).abs().max() < 0.01  # the grid's own resolution


def test_the_picture_shows_all_eigenvalues():
    found = sx.stability_region(sx.classic.lorenz63(), torch.ones(2, 3, dtype=torch.float64), steps=20)
    axes = plot.stability_region_figure(found).axes[0]
    dots = next(dots for dots in axes.collections if dots.get_gid() == "eigenvalues")
    assert len(dots.get_offsets()) == 20 * 2 * 3
    with pytest.raises(sx.errors.InputError, match="'rk5'"):
        draw_region(canvas()[1][0, 0], "rk5")
