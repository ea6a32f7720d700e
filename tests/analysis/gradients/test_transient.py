"""Transient growth against matrix exponentials and powers computed by SciPy, and against theorems."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

import separatrix as sx


def flow(matrix: torch.Tensor, dt: float = 0.01) -> sx.Flow:
    return sx.Flow(lambda x: x @ matrix.mT, len(matrix), dt)


def tensor(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.long
@pytest.mark.parametrize("c", [0.0, 2.0, 10.0, 100.0])
def test_a_triangular_flow_grows_as_its_exponential(c):
    """J = [[−1, c], [0, −2]]: ω = (−3 + √(1 + c²))/2, and max ‖e^{tJ}‖ by SciPy at the same times."""
    matrix = tensor([[-1.0, c], [0.0, -2.0]])
    found = sx.transient_growth(flow(matrix), steps=400)
    norms = np.array([np.linalg.norm(scipy.linalg.expm(0.01 * n * matrix.numpy()), 2) for n in range(401)])
    assert float(found.numerical_abscissa) == pytest.approx((-3 + math.sqrt(1 + c * c)) / 2, abs=1e-12)
    assert float(found.spectral_abscissa) == pytest.approx(-1, abs=1e-12)
    np.testing.assert_allclose(found.log_norm, np.log(norms), atol=1e-8)  # RK4's error at dt = 0.01
    assert float(found.amplification) == pytest.approx(norms.max(), rel=1e-7)
    assert float(found.peak_time) == pytest.approx(0.01 * norms.argmax())


def test_where_the_numerical_abscissa_is_negative_nothing_ever_grows():
    """c = 2 has ω = (−3 + √5)/2 < 0, c = 3 has ω > 0."""
    calm = sx.transient_growth(flow(tensor([[-1.0, 2.0], [0.0, -2.0]])), steps=200)
    wild = sx.transient_growth(flow(tensor([[-1.0, 3.0], [0.0, -2.0]])), steps=200)
    assert (float(calm.peak), float(calm.peak_time)) == (0.0, 0.0)
    assert "no transient growth" in calm.summary()
    assert wild.peak > 0
    assert wild.status == calm.status == "ok"


def test_a_normal_matrix_has_no_transient_growth_and_no_departure():
    turn = torch.linalg.qr(normal(5, 5))[0]
    matrix = turn @ torch.diag(tensor([[-0.1, -0.5, -1, -2, -3]])[0]) @ turn.mT
    found = sx.transient_growth(flow(matrix, 0.05), steps=100)
    assert float(found.peak) == 0
    assert float(found.numerical_abscissa) == pytest.approx(-0.1, abs=1e-12)
    assert float(found.numerical_abscissa) == pytest.approx(float(found.spectral_abscissa), abs=1e-12)
    assert float(found.departure) < 1e-6  # the square root of rounding
    assert float(found.kreiss) == pytest.approx(0, abs=1e-12)


def test_a_feed_forward_chain_amplifies_as_its_powers_do():
    """A map of 12 units in a row, each passing 1.5 times its number on: ‖J^n‖ = 1.5^n up to n = 11, then exactly 0."""
    chain = 1.5 * torch.diag(torch.ones(11, dtype=torch.float64), -1)
    found = sx.transient_growth(sx.Map(lambda x: x @ chain.mT, 12), steps=20)
    assert float(found.peak) == pytest.approx(11 * math.log(1.5), rel=1e-12)
    assert float(found.peak_time) == 11
    assert float(found.numerical_abscissa) == pytest.approx(math.log(1.5), rel=1e-12)
    assert float(found.spectral_abscissa) == -math.inf
    assert float(found.departure) == pytest.approx(1)
    assert (found.log_norm[12:] == -math.inf).all()
    assert found.direction.abs().argmax() == 0
    assert found.response.abs().argmax() == 11


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6))
def test_kreiss_bounds_hold(seed):
    """K ≤ max ‖Φ‖ ≤ e · dim · K (Kreiss's matrix theorem), for stable matrices far from normal; flows and maps."""
    upper = torch.triu(normal(4, 4, seed=seed), 1) * 5
    rates = -0.2 - normal(4, seed=seed + 100).abs()
    field = sx.transient_growth(flow(upper + torch.diag(rates), 0.05), steps=400)
    step = sx.transient_growth(sx.Map(lambda x: x @ (upper / 5 + torch.diag(rates.exp())).mT, 4), steps=200)
    for found in (field, step):
        assert 0 <= float(found.kreiss) <= float(found.peak) + 1e-9
        assert float(found.kreiss) > float(found.peak) - 1 - math.log(4)


def test_the_direction_is_amplified_by_the_peak():
    matrix = tensor([[0.9, 5.0, 0.0], [0.0, 0.8, 2.0], [0.0, 0.0, 0.7]])
    found = sx.transient_growth(sx.Map(lambda x: x @ matrix.mT, 3))
    after = torch.linalg.matrix_power(matrix, int(found.peak_time)) @ found.direction
    assert float(after.norm().log()) == pytest.approx(float(found.peak), rel=1e-10)
    torch.testing.assert_close((after / after.norm() * found.response).sum().abs(), torch.ones((), dtype=torch.float64))


def test_growth_up_to_the_last_step_has_not_converged():
    origin = torch.zeros(3, dtype=torch.float64)
    found = sx.transient_growth(sx.classic.lorenz63(), origin, steps=300)
    rate = (-11 + math.sqrt(81 + 4 * 10 * 28)) / 2  # the unstable eigenvalue at the origin
    assert found.status == "not_converged"
    with pytest.raises(sx.errors.NotConvergedError, match="more steps"):
        sx.transient_growth(sx.classic.lorenz63(), origin, steps=20, throw=True)
    assert "still growing" in found.summary()
    assert float(found.spectral_abscissa) == pytest.approx(rate, rel=1e-12)
    assert float(found.kreiss) == math.inf


def test_a_batch_keeps_its_items_apart_and_is_saved(tmp_path):
    x0 = torch.tensor([[0.1, 0.1], [1e3, -1e3], [0.3, -0.2]], dtype=torch.float64)
    found = sx.transient_growth(sx.classic.henon(), x0, steps=10)
    assert (found.status == "diverged").tolist() == [False, True, False]
    assert found.peak.isnan().tolist() == [False, True, False]
    again = sx.load(found.save(tmp_path / "growth.zarr"))
    assert torch.equal(again.log_norm.nan_to_num(), found.log_norm.nan_to_num()) and torch.equal(again.time, found.time)


def test_a_run_without_steps_is_refused():
    with pytest.raises(sx.errors.InputError, match=r"steps.* 0"):
        sx.transient_growth(sx.classic.henon(), steps=0)


def test_what_keeps_its_size_does_not_grow_by_rounding():
    result = sx.transient_growth(sx.Map(lambda x: x.clone(), 3))
    assert result.peak == 0 and result.codes == 0
    assert result.summary().startswith("no transient growth")
