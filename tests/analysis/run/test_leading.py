"""Leading singular values of states whose Jacobian is too large, against closed forms and dense Jacobians."""

import math

import pytest
import torch

import separatrix as sx
from separatrix.analysis.run.leading import TOL, has_adjoint
from separatrix.analysis.run.tangent_run import random_frame
from separatrix.core import memory
from separatrix.core.evolve import begin

LARGE = 20_000
CLOSE = 1e-3  # nats; typically 1e-4
PEAKS = {5_000: 2.0, 12_000: 1.7, 16_000: 1.3}


def shift() -> tuple[sx.Map, torch.Tensor]:
    """x ↦ S (d x), a cyclic shift of products with a diagonal d that is 0.5 but at three places."""
    d = torch.full((LARGE,), 0.5, dtype=torch.float64)
    d[list(PEAKS)] = torch.tensor(list(PEAKS.values()), dtype=torch.float64)
    return sx.Map(lambda x: (d.to(x) * x).roll(1, -1), LARGE), d


def singular_values_of_a_shift(d: torch.Tensor, lag: int) -> torch.Tensor:
    """All of them, as logarithms: sums of ln d over the places that a number passes in `lag` steps."""
    return torch.stack([d.log().roll(-i) for i in range(lag)]).sum(0).sort(descending=True).values


def test_a_shift_of_20_000_numbers_has_the_products_that_each_number_meets():
    system, d = shift()
    found = sx.gradient_propagation(system, lags=(0, 1, 3), k=2)
    for i, lag in enumerate((0, 1, 3)):
        exact = singular_values_of_a_shift(d, lag) if lag else torch.zeros(LARGE, dtype=torch.float64)
        torch.testing.assert_close(found.log_singular_values[i], exact[:2], atol=CLOSE, rtol=0)
        gain = 0.5 * (2 * exact).logsumexp(0) - 0.5 * math.log(LARGE)
        assert abs(found.log_gain[i] - gain) <= 4 * found.log_gain_stderr[i] + 1e-9
    assert found.status == "ok"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_that_rounding_would_drown_are_found_on_their_own(dtype):
    """diag(4, 1, 1/4, 1/8, …) to the 30th: σ_3/σ_1 is 2^−120."""
    d = torch.full((LARGE,), 0.125, dtype=dtype)
    d[:3] = torch.tensor([4.0, 1.0, 0.25])
    field = sx.finite_time_lyapunov(sx.Map(lambda x: d * x, LARGE), torch.zeros(2, LARGE, dtype=dtype), steps=30, k=3)
    exact = d[:3].log().expand(2, 3)
    torch.testing.assert_close(field.exponents, exact, atol=CLOSE / 30, rtol=0)


def test_a_random_network_has_the_singular_values_of_its_dense_jacobian():
    dim, lags = 600, (1, 4, 12)
    weight = 1.3 * torch.randn(dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / dim**0.5
    system = sx.Map(lambda x: torch.tanh(x @ weight.T), dim)
    x = torch.randn(dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = sx.gradient_propagation(system, x, lags=lags, k=2)
    jacobian = torch.eye(dim, dtype=torch.float64)
    for n in range(1, lags[-1] + 1):
        x = torch.tanh(weight @ x)
        jacobian = (1 - x**2)[:, None] * (weight @ jacobian)
        if n in lags:
            i, values = lags.index(n), torch.linalg.svdvals(jacobian)
            torch.testing.assert_close(found.log_singular_values[i], values[:2].log(), atol=TOL, rtol=0)
            gain = (torch.linalg.matrix_norm(jacobian) / dim**0.5).log()
            assert abs(found.log_gain[i] - gain) <= 4 * found.log_gain_stderr[i]


def test_an_lstms_values_are_those_of_autograd():
    """Over two steps of a layer of 300 units, whose state is 600 numbers."""
    torch.manual_seed(0)
    lstm, inputs = torch.nn.LSTM(2, 300).double(), torch.randn(2, 2, dtype=torch.float64)
    found = sx.finite_time_lyapunov(sx.Recurrent(lstm, inputs), steps=2, k=1)

    def forward(state):
        return torch.cat(lstm(inputs, (state[None, :300], state[None, 300:]))[1], dim=-1)[0]

    dense = torch.func.jacrev(forward)(torch.zeros(600, dtype=torch.float64))
    assert 2 * found.exponents.item() == pytest.approx(torch.linalg.matrix_norm(dense, ord=2).log().item(), abs=CLOSE)


def test_a_run_that_diverges_does_not_touch_the_others():
    system = sx.Map(lambda x: x.square(), LARGE)  # J = 2 diag(x), so J_8 has 2⁸ x^255 on its diagonal
    x0 = torch.full((2, LARGE), 0.9, dtype=torch.float64)
    x0[:, 7] = torch.tensor([1.0, 100.0])
    field = sx.finite_time_lyapunov(system, x0, steps=8)
    assert field.status.tolist() == ["ok", "diverged"] and field.exponents[1].isnan().all()
    assert float(field.exponents[0, 0]) == pytest.approx(math.log(2), abs=CLOSE)


def test_values_without_gaps_lie_below_the_true_ones_by_less_than_the_residual():
    """A diagonal from 1 to 2 in 2,000 equal steps."""
    d = torch.linspace(1, 2, 2_000, dtype=torch.float64)
    field = sx.finite_time_lyapunov(sx.Map(lambda x: d * x, 2_000), steps=1, k=4)
    assert (field.exponents <= math.log(2) + 1e-12).all() and (field.exponents > math.log(2) - 1e-2).all()


def test_a_derivative_that_is_not_the_gradients_transpose_is_seen():
    class Own(sx.System):
        def step(self, x, n=0):
            return x.round()

        def pushforward(self, x, v, n=0):
            return x.round(), 0.5 * v

    assert not has_adjoint(begin(Own(600)))
    assert has_adjoint(begin(sx.Map(torch.sin, 600)))
    assert float(sx.finite_time_lyapunov(Own(600), steps=3).exponents) == pytest.approx(math.log(0.5))


def test_a_shift_of_20_000_numbers_is_an_isometry():
    shift, x0 = sx.Map(lambda x: x.roll(1, -1), LARGE), torch.ones(LARGE).double()
    found = sx.gradient_propagation(shift, x0, k=2, lags=(0, 3))
    torch.testing.assert_close(found.log_singular_values, torch.zeros(2, 2).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.log_gain, torch.zeros(2).double(), rtol=0, atol=1e-12)
    spectrum = sx.lyapunov_spectrum(shift, x0, k=2, steps=20, settle=2)
    torch.testing.assert_close(spectrum.exponents, torch.zeros(2).double(), rtol=0, atol=1e-12)


def test_what_does_not_fit_is_refused_before_it_is_allocated_with_the_bytes(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device="cpu": 2.0**30)
    large = sx.Map(lambda x: x, 10_000_000)
    with pytest.raises(sx.errors.InputError, match=r"needs 22\.35 GiB, but 1 GiB"):
        sx.lyapunov_spectrum(large, torch.ones(10_000_000), k=200, steps=4)
    with pytest.raises(sx.errors.InputError, match=r"Jacobian of 20,000 numbers needs 11\.92 GiB .* 4 GiB"):
        sx.finite_time_lyapunov(sx.Map(lambda x: x, LARGE), torch.ones(LARGE).double(), steps=4, k=LARGE)


def test_the_first_tangents_do_not_depend_on_their_number():
    x = torch.zeros(50).double()
    torch.testing.assert_close(random_frame(x, 7, 3)[:4], random_frame(x, 4, 3), rtol=0, atol=1e-14)


def test_after_no_step_the_jacobian_of_a_large_state_is_1():
    found = sx.gradient_propagation(shift()[0], lags=(0,), k=2)
    assert found.log_singular_values.tolist() == [[0.0, 0.0]] and found.log_gain.tolist() == [0.0]


def test_a_state_that_cannot_be_allocated_is_refused_with_its_bytes():
    with pytest.raises(sx.errors.InputError, match=r"1,000,000,000,000,000 numbers .*needs 14\.21 PiB, but "):
        sx.trajectory(sx.Map(lambda x: x, 10**15), steps=2)
