"""Stability functions against tableaux, polynomials and published limits; regions against iterated steps."""

import math

import numpy as np
import pytest
import torch
from numpy.polynomial import Polynomial

from separatrix.flows.methods import RUNGE_KUTTA, SOLVERS

COEFFICIENTS = {  # of zʲ; dopri5: Hairer & Wanner 1996, IV.2, (2.9): a sixth stage adds z⁶/600
    "euler": [1, 1],
    "heun": [1, 1, 1 / 2],
    "midpoint": [1, 1, 1 / 2],
    "rk4": [1, 1, 1 / 2, 1 / 6, 1 / 24],
    "dopri5": [1, 1, 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 600],
}
REAL = {"euler": 2.0, "heun": 2.0, "midpoint": 2.0, "rk4": 2.785293563405282, "dopri5": 3.3065678926}
IMAGINARY = {"euler": 0.0, "heun": 0.0, "midpoint": 0.0, "rk4": 2 * math.sqrt(2), "leapfrog": 2.0}


def somewhere(count: int = 50) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return 2 * torch.randn(count, dtype=torch.complex128, generator=random)


@pytest.mark.parametrize("name", RUNGE_KUTTA)
def test_a_tableau_s_factor_is_one_plus_z_b_over_one_minus_z_a(name):
    """R(z) = 1 + z bᵀ(I − zA)⁻¹ 1, by dense linear algebra."""
    method, z = SOLVERS[name], somewhere()
    stages = len(method.b)
    a = np.zeros((stages, stages))
    for i, row in enumerate(method.a):
        a[i, : len(row)] = row
    wanted = [1 + v * np.array(method.b) @ np.linalg.solve(np.eye(stages) - v * a, np.ones(stages)) for v in z.numpy()]
    np.testing.assert_allclose(method.amplification(z).numpy(), wanted, rtol=1e-12)


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_a_factor_is_its_published_polynomial(name):
    z = somewhere()
    np.testing.assert_allclose(SOLVERS[name].amplification(z).numpy(), Polynomial(COEFFICIENTS[name])(z.numpy()), rtol=1e-12)


@pytest.mark.parametrize("name", REAL)
def test_the_real_axis_is_stable_up_to_the_published_limit(name):
    """2.785293563 of order 4: Hairer & Wanner 1996, IV.2; all: the first real root of |R(x)| = 1, by numpy."""
    polynomial = Polynomial(COEFFICIENTS[name])
    roots = np.concatenate([(polynomial - sign).roots() for sign in (1, -1)])
    first = min(-root.real for root in roots if abs(root.imag) < 1e-9 and root.real < -1e-9)
    assert first == pytest.approx(REAL[name], abs=1e-9)
    assert float(SOLVERS[name].stable_length(torch.tensor(-1 + 0j, dtype=torch.complex128))) == pytest.approx(first, abs=1e-9)
    assert float(SOLVERS[name].stable_length(torch.tensor(-3.0, dtype=torch.float64))) == pytest.approx(first, abs=1e-9)  # real


@pytest.mark.parametrize("name", IMAGINARY)
def test_the_imaginary_axis_is_stable_up_to_the_published_limit(name):
    up_and_down = torch.tensor([1j, -3j], dtype=torch.complex128)
    assert SOLVERS[name].stable_length(up_and_down).tolist() == pytest.approx([IMAGINARY[name]] * 2, abs=1e-9)


def test_yoshida_s_interval_is_that_of_the_trace_of_its_three_leapfrogs():
    """|tr M(y)| ≤ 2 for the product of three leapfrog matrices on the oscillator, its first crossing by bisection in numpy."""

    def half_trace(y: float) -> float:
        outer = 1 / (2 - 2 ** (1 / 3))
        total = np.eye(2)
        for w in (outer, 1 - 2 * outer, outer):
            kick, drift = np.array([[1, 0], [-w * y / 2, 1]]), np.array([[1, w * y], [0, 1]])
            total = kick @ drift @ kick @ total
        return float(np.trace(total)) / 2

    low = next(y for y in np.arange(0.001, 3, 0.001) if abs(half_trace(y + 0.001)) > 1)
    high = low + 0.001
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if abs(half_trace(middle)) <= 1 else (low, middle)
    assert float(SOLVERS["yoshida4"].stable_length(torch.tensor(1j, dtype=torch.complex128))) == pytest.approx(low, abs=1e-9)


def test_the_implicit_midpoint_rule_is_stable_in_the_left_half_plane_and_nowhere_else():
    z = somewhere(400)
    method = SOLVERS["implicit_midpoint"]
    assert torch.equal(method.amplification(z).abs() <= 1, z.real <= 0)
    lengths = method.stable_length(z)
    assert torch.equal(lengths.isinf(), z.real <= 0) and (lengths[z.real > 0] == 0).all()
    assert method.stable_length(torch.tensor(1j, dtype=torch.complex128)).isinf()


def test_splittings_are_stable_on_the_imaginary_axis_only():
    z = somewhere()
    for name in ("leapfrog", "yoshida4"):
        assert (SOLVERS[name].stable_length(z) == 0).all()
        assert (SOLVERS[name].amplification(z).abs() > 1).all()


def test_tsit5_is_stable_as_far_as_published():
    """3.5068 on the real axis: `alg_stability_size` of OrdinaryDiffEq.jl."""
    assert float(SOLVERS["tsit5"].stable_length(torch.tensor(-1 + 0j, dtype=torch.complex128))) == pytest.approx(3.5068, abs=5e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_factor_agrees_with_the_exponential_to_the_method_s_order(name):
    """|R(z) − eᶻ| = O(z^{p+1}), by regression; of a splitting for Re z > 0, where the larger factor is that of z."""
    sizes = np.array([0.4, 0.2, 0.1, 0.05])
    z = torch.tensor(sizes * np.exp(0.6j))
    errors = (SOLVERS[name].amplification(z) - z.exp()).abs().numpy()
    order = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    if name == "rodas5p":  # its term in z⁶ is 1e-6 z⁶: above rounding only the next one shows
        assert order > SOLVERS[name].order + 1 - 0.25
        return
    assert order == pytest.approx(SOLVERS[name].order + 1, abs=0.25)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_factor_is_how_a_step_of_the_method_itself_grows(name):
    """Steps on ẋ = A x with eigenvalues ±iω, within and beyond the imaginary limit of the method: bounded, or not."""
    method = SOLVERS[name]
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    limit = float(method.stable_length(torch.tensor(1j, dtype=torch.complex128)))
    for h in (0.5 * limit, 1.5 * limit + 1) if math.isfinite(limit) else (7.0,):
        x = torch.tensor([1.0, 0.3], dtype=torch.float64)
        for _ in range(600):  # tsit5 grows by 0.9 % a step there
            x = method.step(lambda y, t: y @ turn.T, x, 0.0, h)
        assert bool(x.norm() < 10) == (h <= limit)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_length_is_on_the_border_of_the_region(name):
    method, unit = (
        SOLVERS[name],
        torch.polar(torch.ones(40, dtype=torch.float64), torch.linspace(1.6, 4.6, 40, dtype=torch.float64)),
    )
    lengths = method.stable_length(unit)
    inner = lengths.where(lengths.isfinite(), 100.0)
    for share in (0.01, 0.3, 0.7, 1 - 1e-9):
        assert (method.amplification(share * inner * unit).abs() <= 1 + 1e-8).all()
    ends = lengths.isfinite() & (lengths > 0)
    assert (method.amplification((lengths + 1e-6) * unit)[ends].abs() > 1).all()


def test_a_direction_s_length_does_not_depend_on_its_size():
    z = somewhere()
    for method in SOLVERS.values():
        torch.testing.assert_close(method.stable_length(1e-3 * z), method.stable_length(z), rtol=1e-9, atol=1e-9)
