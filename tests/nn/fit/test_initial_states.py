"""Fits whose initial states are not known: against SciPy's least squares over SciPy's solver, and against the truth."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares
from torch import Tensor, nn

import separatrix as sx

DOUBLE = {"dtype": torch.float64}
TRUE = np.array([1.3, 0.9, 0.8, 1.8])
STARTS = np.array([[1.0, 0.6], [0.5, 1.5], [1.5, 1.0]])
GUESSES = STARTS * np.array([1.3, 0.7])
TIMES = np.linspace(0, 5, 26)
STEPS = {"times": TIMES, "dt": 0.05, "tol": 1e-9}  # RK4's error is then 1e-6


class Prey(nn.Module):
    """Lotka and Volterra's equations with four rates."""

    def __init__(self, rates: object = (1.0, 1.0, 1.0, 1.0)) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.as_tensor(rates, **DOUBLE))

    def forward(self, x: Tensor) -> Tensor:
        (a, b, c, d), (u, v) = self.rates, x.unbind(-1)
        return torch.stack([a * u - b * u * v, c * u * v - d * v], -1)


def by_scipy(rates: np.ndarray, starts: np.ndarray, times: np.ndarray = TIMES) -> np.ndarray:
    """Solutions, shape (times, series, 2)."""
    a, b, c, d = rates

    def field(_: float, x: np.ndarray) -> np.ndarray:
        u, v = x.reshape(-1, 2).T
        return np.stack([a * u - b * u * v, c * u * v - d * v], -1).ravel()

    found = solve_ivp(field, (0, 5), starts.ravel(), "DOP853", times, rtol=1e-9, atol=1e-10)
    return found.y.T.reshape(len(times), -1, 2)


def close(found: Tensor, wanted: np.ndarray, atol: float = 1e-5) -> bool:
    return bool((found.detach() - torch.as_tensor(wanted)).abs().max() < atol)


def test_rates_and_starts_of_noisy_series_are_those_of_scipys_least_squares():
    seen = by_scipy(TRUE, STARTS) + 0.02 * np.random.default_rng(0).standard_normal((26, 3, 2))

    def residuals(z: np.ndarray) -> np.ndarray:
        return (by_scipy(z[:4], z[4:].reshape(3, 2)) - seen).ravel()

    wanted = least_squares(residuals, np.concatenate([TRUE, STARTS.ravel()]), xtol=1e-9).x
    field, x0 = Prey(), torch.tensor(GUESSES, requires_grad=True)
    fit = sx.nn.fit_observations(field, torch.tensor(seen), x0=x0, **STEPS)
    assert fit.status == "ok" and "4 parameters and 6 initial values" in fit.summary()
    assert close(field.rates, wanted[:4]) and close(fit.x0, wanted[4:].reshape(3, 2))
    assert torch.equal(x0.detach(), fit.x0) and x0.requires_grad  # changed in place, as parameters are


@pytest.mark.parametrize("start", [[1.2, 0.5], [[1.2, 0.5]]], ids=["one state", "an axis of length 1"])
def test_one_start_is_shared_by_series_with_times_of_their_own(start):
    times = np.stack([TIMES, 0.8 * TIMES], 1)
    seen = np.concatenate([by_scipy(TRUE, STARTS[:1], column) for column in times.T], 1)
    field, x0 = Prey(), nn.Parameter(torch.tensor(start, **DOUBLE))
    fit = sx.nn.fit_observations(field, torch.tensor(seen), x0=x0, **(STEPS | {"times": times}))
    assert fit.x0.shape == x0.shape and close(x0.reshape(2), STARTS[0]) and close(field.rates, TRUE)


def test_a_mask_says_which_numbers_are_not_known():
    guess = torch.tensor(STARTS)
    guess[:, 1] = torch.tensor([0.9, 0.8, 1.6])
    field = Prey()
    fit = sx.nn.fit_observations(field, torch.tensor(by_scipy(TRUE, STARTS)), x0=guess, unknown=[False, True], **STEPS)
    assert close(fit.x0, STARTS) and torch.equal(fit.x0[:, 0], guess[:, 0]) and fit.settings["unknown"] == 3
    assert not torch.equal(guess, fit.x0)  # it asked for no gradient, so it is the user's


def test_the_velocity_of_a_pendulum_is_found_from_its_angle():
    class Pendulum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k, self.c = (nn.Parameter(torch.tensor(value, **DOUBLE)) for value in (3.0, 0.0))

        def forward(self, x: Tensor) -> Tensor:
            q, v = x.unbind(-1)
            return torch.stack([v, -self.k * q.sin() - self.c * v], -1)

    times = np.linspace(0, 4, 41)
    exact = solve_ivp(lambda t, x: [x[1], -4 * np.sin(x[0]) - 0.2 * x[1]], (0, 4), [1, -1], t_eval=times, rtol=1e-11, atol=1e-12)
    field, x0 = Pendulum(), torch.tensor([0.8, 0.0], **DOUBLE, requires_grad=True)
    seen = torch.tensor(exact.y[0])
    seen[5:9] = torch.nan
    sx.nn.fit_observations(field, seen, x0=x0, times=times, dt=0.05, observe=lambda x: x[..., 0], tol=1e-9)
    assert close(x0, np.array([1.0, -1.0])) and close(field.k, np.array(4.0)) and close(field.c, np.array(0.2))


@pytest.mark.parametrize("hide", [False, True], ids=["frozen", "function"])
def test_a_start_is_found_where_nothing_else_is_fitted(hide):
    x0, field = torch.tensor(GUESSES, requires_grad=True), Prey(TRUE).requires_grad_(False)
    fit = sx.nn.fit_observations((lambda x: field(x)) if hide else field, torch.tensor(by_scipy(TRUE, STARTS)), x0=x0, **STEPS)
    assert close(x0, STARTS) and fit.settings["parameters"] == 0 and "fitted by 6 initial values" in fit.summary()


def test_states_in_millions_and_rates_in_thousandths_are_fitted_together():
    class Logistic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.r, self.k = nn.Parameter(torch.tensor(2e-3, **DOUBLE)), nn.Parameter(torch.tensor(0.6, **DOUBLE))

        def forward(self, x: Tensor) -> Tensor:
            return self.r * x * (1 - x / (self.k * 1e7))

    times = np.linspace(0, 3000, 31)
    seen = 1e7 / (1 + 9 * np.exp(-3e-3 * times))
    field, x0 = Logistic(), torch.tensor([0.5e6], **DOUBLE, requires_grad=True)
    sx.nn.fit_observations(field, torch.tensor(seen)[:, None], x0=x0, times=times, dt=50.0, tol=1e-9)
    assert x0.item() == pytest.approx(1e6, rel=1e-6) and field.r.item() == pytest.approx(3e-3, rel=1e-6)


def test_decay_pulls_at_parameters_and_not_at_starts():
    """ẋ = 0 but for a weight that decay holds at 0: the start is then the mean of what was seen, decay or not."""

    class Drift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.tensor(0.0, **DOUBLE))

        def forward(self, x: Tensor) -> Tensor:
            return self.a + 0 * x

    seen = 5 + torch.tensor([0.1, -0.2, 0.3, 0.0, -0.1], **DOUBLE)[:, None]
    field, x0 = Drift(), torch.tensor([1.0], **DOUBLE, requires_grad=True)
    sx.nn.fit_observations(field, seen, x0=x0, times=TIMES[:5], dt=0.1, decay=1e9, tol=1e-12)
    assert field.a.item() == pytest.approx(0.0, abs=1e-8) and x0.item() == pytest.approx(float(seen.mean()), abs=1e-6)


def test_an_initial_value_without_effect_is_reported():
    x0 = torch.tensor([0.5, 7.0], **DOUBLE, requires_grad=True)
    fit = sx.nn.fit_observations(
        lambda x: torch.stack([-x[..., 0], x[..., 0]], -1),
        torch.tensor(2 * np.exp(-TIMES)),
        x0=x0,
        observe=lambda x: x[..., 0],
        **STEPS,
    )
    assert fit.status == "not_converged" and "1 unknown entry of x0" in fit.summary()
    assert x0[0].item() == pytest.approx(2.0, abs=1e-6) and x0[1].item() == 7.0


def test_a_start_that_a_module_owns_is_fitted_as_one_unless_its_field_depends_on_it():
    class Owner(Prey):
        def __init__(self, share: float) -> None:
            super().__init__()
            self.share, self.start = share, nn.Parameter(torch.tensor(GUESSES))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + (self.share * self.start.sum() if self.share else 0.0)

    seen = torch.tensor(by_scipy(TRUE, STARTS))
    field = Owner(0.0)
    sx.nn.fit_observations(field, seen, x0=field.start, **STEPS)
    assert close(field.start, STARTS) and close(field.rates, TRUE)
    field = Owner(0.1)
    with pytest.raises(sx.errors.InputError, match="depends on x0"):
        sx.nn.fit_observations(field, seen, x0=field.start, **STEPS)


def test_starts_that_cannot_be_fitted_are_refused():
    seen, guess = torch.tensor(by_scipy(TRUE, STARTS)), torch.tensor(GUESSES)
    with pytest.raises(sx.errors.InputError, match="x0"):
        sx.nn.fit_observations(Prey(), seen, x0=2 * guess.clone().requires_grad_(), **STEPS)
    with pytest.raises(sx.errors.InputError, match="unknown"):
        sx.nn.fit_observations(Prey(), seen, x0=guess, unknown=[0, 1], **STEPS)
    with pytest.raises(sx.errors.ShapeError, match="unknown has shape"):
        sx.nn.fit_observations(Prey(), seen, x0=guess, unknown=[True] * 3, **STEPS)
    with pytest.raises(sx.errors.ShapeError, match="expected observed of shape"):
        sx.nn.fit_observations(Prey(), seen, x0=guess[:2].requires_grad_(), **STEPS)
