"""Functions that are sums of few monomials, found from their values."""

import pytest
import torch

import separatrix as sx


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_polynomial_is_found_term_by_term_whatever_its_units():
    for unit in (1.0, 1e4):
        x = unit * normal(200, 2)
        values = torch.stack([-0.9 * x[:, 0] * x[:, 1] + 2 * unit * x[:, 1], 0.5 * unit**2 - x[:, 0] ** 2], dim=-1)
        found = sx.sparse_terms(values, x)
        assert found.terms == ("1", "x", "y", "x²", "x y", "y²")
        wanted = torch.tensor([[0, 0, 2 * unit, 0, -0.9, 0], [0.5 * unit**2, 0, 0, -1, 0, 0]], dtype=torch.float64)
        torch.testing.assert_close(found.coefficients, wanted, rtol=1e-10, atol=0)
        assert ((found.coefficients != 0) == (wanted != 0)).all() and found.error.max() < 1e-12
    assert sx.sparse_terms(-x[:, :1], x).formula() == "−1 x"


def test_terms_below_the_threshold_are_left_out_and_the_others_fitted_again():
    """Without x y, the best coefficient of y is the projection of the values onto y, and of both what least squares says."""
    x = normal(500, 2)
    values = (x[:, 1] + 0.05 * x[:, 0] * x[:, 1])[:, None]
    found = sx.sparse_terms(values, x, threshold=0.2)
    assert (found.coefficients[0] != 0).nonzero().flatten().tolist() == [2]
    assert float(found.coefficients[0, 2]) == pytest.approx(float(x[:, 1] @ values[:, 0] / (x[:, 1] @ x[:, 1])), rel=1e-12)
    kept = sx.sparse_terms(values, x, threshold=0.01)
    assert (kept.coefficients[0] != 0).nonzero().flatten().tolist() == [2, 4]


def test_each_function_of_a_batch_is_its_own_and_words_give_mean_and_spread():
    x, slopes = normal(100, 3), torch.tensor([1.0, 1.1, 1.2, float("nan")], dtype=torch.float64)
    values = slopes[:, None, None] * x[:, :1] * x[:, 2:]
    found = sx.sparse_terms(values, x, names=("a", "b", "c"))
    assert found.status.tolist() == ["ok", "ok", "ok", "diverged"] and found.coefficients[3].isnan().all()
    assert found.formula() == "(1.10 ± 0.10) a c"
    assert "3 functions" in found.summary()


def test_three_numbers_and_third_degree_have_twenty_monomials():
    x = normal(60, 3)
    found = sx.sparse_terms(x.prod(-1, keepdim=True), x, degree=3)
    assert len(found.terms) == 20 and found.formula() == "1 x y z"
    assert sx.sparse_terms(0 * x, x).formula(1) == "0"


def test_terms_that_the_states_cannot_tell_apart_are_not_called_known():
    x = normal(50, 2)
    x[:, 1] = 3.0  # so 1, y and y² are one term, and x and x y another
    found = sx.sparse_terms(2 * x[:, :1] + 1, x)
    assert found.status == "not_converged" and "indistinguishable" in found.summary() and float(found.error) < 1e-12
    x[:, 1] = 0.0  # all terms with y are nothing, and what is left is known
    known = sx.sparse_terms(2 * x[:, :1] + 1, x)
    assert known.status == "ok" and known.formula() == "1 + 2 x"


def test_values_and_states_may_have_any_type_of_number():
    x = normal(50, 2)
    values = 2 * x[:, :1] - 3 * x[:, 1:]
    for some in (
        sx.sparse_terms(values.float(), x),
        sx.sparse_terms(values.numpy(), x.float()),
        sx.sparse_terms(values.tolist(), x),
    ):
        assert some.formula() == "2 x − 3 y" and some.coefficients.dtype == torch.float64
    masses = 1e30 * x.float()  # kilograms, whose squares leave float32
    assert sx.sparse_terms(2 * masses[:, :1], masses).formula() == "2 x"


def test_bad_input_is_refused_in_one_line():
    x = normal(50, 2)
    with pytest.raises(sx.errors.ShapeError, match="numbers of values and states"):
        sx.sparse_terms(x[:40], x)
    with pytest.raises(sx.errors.ShapeError, match=r"6 terms.*got 5"):
        sx.sparse_terms(x[:5], x[:5])
    with pytest.raises(sx.errors.ShapeError, match=r"names.*got 3"):
        sx.sparse_terms(x, x, names=("a", "b", "c"))
    with pytest.raises(sx.errors.InputError, match="threshold is 1"):
        sx.sparse_terms(x, x, threshold=1.0)
    with pytest.raises(sx.errors.InputError, match="degree is -1"):
        sx.sparse_terms(x, x, degree=-1)
