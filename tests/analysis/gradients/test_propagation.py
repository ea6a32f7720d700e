"""Growth of gradients over lags, in logarithms."""

import math

import mpmath
import pytest
import torch

import separatrix as sx


def test_a_diagonal_map_grows_as_its_largest_entry():
    """J_l = diag(2^l, 4^−l): σ₁ = 2^l and ‖J‖_F/√2 = √((4^l + 16^−l)/2)."""
    scale = torch.tensor([2.0, 0.25], dtype=torch.float64)
    result = sx.gradient_propagation(sx.Map(lambda x: scale * x, 2), torch.zeros(2, dtype=torch.float64), lags=(0, 1, 7))
    lags = torch.tensor([0.0, 1.0, 7.0], dtype=torch.float64)
    torch.testing.assert_close(result.log_norm, lags * math.log(2))
    torch.testing.assert_close(result.log_gain, ((4.0**lags + 16.0**-lags) / 2).log() / 2)


def test_two_thousand_lags_neither_underflow_nor_overflow():
    """Factors of 2^±2,000, where float64 ends at 2^1,024 and 2^−1,074."""
    factors = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    system = sx.Map(lambda x: torch.sin(factors * x), 1)  # the multiplier at 0 is the factor
    result = sx.gradient_propagation(system, torch.zeros(2, 1, dtype=torch.float64), lags=(2_000,))
    assert result.log_norm[0].tolist() == pytest.approx([2_000 * math.log(factor) for factor in (0.5, 2.0)], rel=1e-12)
    assert result.rates[:, 0].tolist() == pytest.approx([math.log(0.5), math.log(2.0)], rel=1e-12)  # from lag 0, where ln σ = 0


def test_rates_have_honest_error_bars_over_products_of_gaussian_matrices():
    """Newman's exponents of J_n = G_n/√d:  λ_i = ½ (ψ((d − i + 1)/2) + ln 2 − ln d);  items of a batch are independent."""
    dim, items = 4, 100
    matrices = torch.randn(200, items, dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / dim**0.5
    system = sx.Map(lambda x, n: (matrices[n] @ x[..., None])[..., 0], dim, time_dependent=True)
    result = sx.gradient_propagation(system, torch.zeros(items, dim, dtype=torch.float64))
    digammas = torch.special.digamma(torch.arange(dim, 0, -1, dtype=torch.float64) / 2)
    exact = 0.5 * (digammas + math.log(2) - math.log(dim))
    covered = ((result.rates - exact).abs() < 2 * result.rates_stderr).double().mean(0)
    assert (covered > 0.85).all() and (covered.mean() < 0.99)
    torch.testing.assert_close(result.rates.mean(0), exact, atol=0.02, rtol=0)


def test_a_rate_is_known_from_few_lags():
    scale = torch.tensor([0.9, 0.5], dtype=torch.float64)
    for lags in ((300,), (0, 300), (0, 1, 10, 300), torch.tensor([10, 300])):
        result = sx.gradient_propagation(sx.Map(lambda x: scale * x, 2), lags=lags)
        torch.testing.assert_close(result.rates, scale.log())
        assert result.rates_stderr.isnan().all()
    with pytest.raises(sx.errors.InputError, match=r"lags.* 5\.\n.*lags=\(5,\)"):
        sx.gradient_propagation(sx.Map(torch.sin, 1), lags=5)


def test_an_item_that_diverged_is_left_out_of_the_summary():
    """x² from 1/2 and from 2."""
    x0 = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    system = sx.Map(lambda x: x**2, 1)
    summary = sx.gradient_propagation(system, x0, lags=(0, 3, 12), k=1).summary()
    assert "nan" not in summary and summary.endswith("1 run; 1 diverged")
    with pytest.raises(sx.errors.DivergedError, match="1 of 2"):
        sx.gradient_propagation(system, x0, lags=(0, 3, 12), k=1, throw=True)


def test_a_driven_networks_jacobian_is_that_of_pytorchs_own_forward_pass():
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(2, 3).double()
    inputs = torch.randn(6, 2, dtype=torch.float64)

    def forward(state):
        return torch.cat(lstm(inputs, (state[None, :3], state[None, 3:]))[1], dim=-1)[0]

    dense = torch.autograd.functional.jacobian(forward, torch.zeros(6, dtype=torch.float64))
    result = sx.gradient_propagation(sx.Recurrent(lstm, inputs), lags=(6,))
    assert float(result.log_norm[0]) == pytest.approx(float(torch.linalg.matrix_norm(dense, ord=2).log()), rel=1e-12)
    assert float(result.log_gain[0]) == pytest.approx(float((torch.linalg.matrix_norm(dense) / 6**0.5).log()), rel=1e-12)


def test_the_default_lags_end_at_the_horizon():
    torch.manual_seed(0)
    system = sx.Recurrent(torch.nn.GRU(2, 3), torch.randn(9, 2))
    assert sx.gradient_propagation(system).lags[-1] == 9
    assert sx.gradient_propagation(system, settle=4).lags[-1] == 5


def test_lags_that_do_not_increase_are_refused():
    with pytest.raises(sx.errors.InputError, match=r"lags.*\(3, 3\)"):
        sx.gradient_propagation(sx.Map(torch.sin, 1), lags=(3, 3))


def power_of(matrix: list[list[float]], n: int) -> tuple[float, float]:
    """ln σ₁ and ln σ₂ of a 2 × 2 matrix's n-th power, in 6,000 digits: from σ₁² + σ₂² = ‖A‖_F² and σ₁ σ₂ = |det A|."""
    with mpmath.workdps(6_000):
        power = mpmath.matrix(matrix) ** n
        total, det = sum(x * x for x in power), abs(mpmath.det(mpmath.matrix(matrix))) ** n
        first = mpmath.sqrt((total + mpmath.sqrt(total * total - 4 * det * det)) / 2)
        return float(mpmath.log(first)), float(mpmath.log(det / first))


@pytest.mark.long
def test_singular_values_at_lag_ten_thousand_are_those_of_exact_arithmetic():
    """All numbers are binary fractions, so that the float64 matrices are the exact ones."""
    matrices = [
        [[1.25, 0.0], [0.0, 0.5]],
        [[0.96875, 1.0], [0.0, 0.90625]],
        [[0.5, 100.0], [0.0, 0.5]],  # a Jordan block: σ grow like n 0.5^n
        [[0.75, -0.5], [0.5, 0.75]],  # normal, a rotation
        [[1.0, 4.0], [-0.125, 0.5]],  # non-normal with complex eigenvalues
    ]
    tensor, x0 = torch.tensor(matrices, dtype=torch.float64), torch.zeros(5, 2, dtype=torch.float64)
    system = sx.Map(lambda x: (tensor @ x[..., None])[..., 0], 2)
    result = sx.gradient_propagation(system, x0, lags=(2_000, 10_000))
    for lag, found in zip((2_000, 10_000), result.log_singular_values.tolist(), strict=True):
        for values, matrix in zip(found, matrices, strict=True):
            assert values == pytest.approx(power_of(matrix, lag), rel=1e-8)
    alone = sx.gradient_propagation(system, x0, lags=(2_000,), k=1)
    assert alone.log_norm[0].tolist() == pytest.approx(result.log_norm[0].tolist(), rel=1e-9)
    assert alone.log_gain[0].tolist() == pytest.approx(result.log_gain[0].tolist(), rel=1e-9)


@pytest.mark.long
def test_the_leading_singular_values_of_a_wide_spectrum_are_the_same_for_every_k():
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))[0]
    matrix = turn @ torch.diag(torch.tensor([0.4, -0.1, -1.0, -3.0, -3.0, -9.0], dtype=torch.float64).exp()) @ turn.mT
    system = sx.Map(lambda x: torch.tanh(x @ matrix.mT), 6)
    x0 = 0.1 * torch.randn(2, 6, dtype=torch.float64, generator=generator)
    whole = sx.gradient_propagation(system, x0, k=6)
    for k in (1, 2, 5):
        some = sx.gradient_propagation(system, x0, k=k)
        torch.testing.assert_close(some.log_singular_values, whole.log_singular_values[..., :k], rtol=1e-9, atol=1e-9)
    assert (whole.log_singular_values.diff(dim=-1) <= 0).all()


def test_time_constants_are_those_of_the_exponents():
    """A symmetric map with multipliers 0.9 and −0.5: τ = 1/|ln 0.9| and 1/ln 2 steps, without scatter."""
    scale = torch.tensor([0.9, -0.5], dtype=torch.float64)
    result = sx.gradient_propagation(sx.Map(lambda x: scale * x, 2))
    exact = 1 / scale.abs().log().abs()
    torch.testing.assert_close(result.time_constants, exact, rtol=1e-10, atol=0)
    assert (result.time_constants_stderr < 1e-9).all()
    assert "vanishes e-fold in 9.491" in result.summary()


@pytest.mark.long
def test_time_constants_of_a_driven_network_agree_with_its_exponents_within_their_error_bars():
    torch.manual_seed(3)
    system = sx.Recurrent(torch.nn.GRU(2, 5), torch.randn(4_200, 2))
    result = sx.gradient_propagation(system, lags=tuple(range(0, 4_001, 100)), settle=200)
    spectrum = sx.lyapunov_spectrum(system, steps=4_000, settle=200)
    gap = (result.rates - spectrum.exponents[:4]).abs()
    assert (gap < 4 * (result.rates_stderr.square() + spectrum.stderr[:4].square()).sqrt()).all()
    assert (result.rates_stderr > 0).all()


def test_a_flow_is_counted_in_its_own_time():
    """ẋ = −0.5 x: τ = 2 units of time, at dt = 0.1."""
    result = sx.gradient_propagation(sx.Flow(lambda x: -0.5 * x, 1, 0.1))
    assert float(result.time_constants[0]) == pytest.approx(2, rel=1e-6)  # RK4's error is below dt⁴
    assert float(result.time[-1]) == pytest.approx(20)


def test_a_direction_mapped_to_0_has_a_rate_of_minus_infinity():
    system = sx.Map(lambda x: x * torch.tensor([0.5, 0.0], dtype=torch.float64), 2)
    result = sx.gradient_propagation(system, torch.ones(2, dtype=torch.float64))
    assert result.rates.tolist() == pytest.approx([math.log(0.5), -math.inf])
    assert float(result.time_constants[1]) == 0


def test_k_and_lags_out_of_range_are_refused():
    system = sx.Map(torch.sin, 2)
    with pytest.raises(sx.errors.InputError, match=r"k.* 3"):
        sx.gradient_propagation(system, k=3)
    with pytest.raises(sx.errors.InputError, match=r"lag.* 0\.5"):
        sx.gradient_propagation(system, lags=(0.5,))
