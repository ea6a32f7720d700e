"""Why items end before their time, in words that say what to do."""

import math

import pytest
import torch

import separatrix as sx

DOUBLE = {"dtype": torch.float64}
X0 = torch.ones(3, 2, **DOUBLE)


def stiff(x: torch.Tensor) -> torch.Tensor:
    return x * torch.tensor([-1.0, -1e4], **DOUBLE)


def test_a_stiff_field_is_reported_with_its_rate_and_a_remedy():
    """A rate of 1e4 and a stability interval of 3.3 limit the steps to 3.3e-4."""
    found = sx.solve(stiff, X0, [0.0, 10.0], max_steps=300)
    assert list(found.status) == ["not_converged"] * 3
    (why,) = found.why
    assert "max_steps = 300" in why and "stiff" in why and "1e+04 per unit time" in why and "rodas5p" in why
    assert "underflow" not in why and why in found.summary()
    assert float(found.reached[0]) == pytest.approx(300 * 3.3e-4, rel=0.3)
    rescued = sx.solve(stiff, X0, [0.0, 10.0], method="rodas5p", max_steps=100)
    assert list(rescued.status) == ["ok"] * 3 and (rescued.last[:, 0] - math.exp(-10)).abs().max() < 1e-3 * math.exp(-10)


def test_a_fast_rotation_is_not_reported_as_stiff():
    """At a tight tolerance the steps resolve the rotation and lie far inside the stability interval."""
    turn = torch.tensor([[0.0, -50.0], [50.0, 0.0]], **DOUBLE)
    (why,) = sx.solve(lambda x: x @ turn, X0, [0.0, 10.0], rtol=1e-9, atol=1e-9, max_steps=200).why
    assert "stiff" not in why and "raise max_steps" in why


def test_an_item_that_diverges_reports_the_time():
    (why,) = sx.solve(lambda x: x * x, torch.tensor([[0.5], [2.0]], **DOUBLE), [0.0, 1.0]).why
    assert why.startswith("Item 1 diverged") and "t = 0.5" in why


def test_an_item_is_named_by_its_place_in_the_batch():
    x0 = torch.full((2, 3, 1), 0.5, **DOUBLE)
    x0[1, 2] = 2.0
    (why,) = sx.solve(lambda x: x * x, x0, [0.0, 1.0]).why
    assert why.startswith("Item 1, 2 diverged")
    (why,) = sx.solve(lambda x: x * x, x0[1, 2], [0.0, 1.0]).why
    assert why.startswith("The solution diverged")


def test_an_initial_velocity_that_is_not_finite_fails_that_item_only():
    found = sx.solve(lambda x: x.sqrt(), torch.tensor([[1.0], [-1.0]], **DOUBLE), [0.0, 1.0])
    assert list(found.status) == ["ok", "diverged"] and "at the start" in found.why[0]
    assert float(found.last[0]) == pytest.approx(2.25, rel=1e-5)  # (1 + t/2)²


def test_a_field_that_is_not_smooth_runs_out_of_steps():
    found = sx.solve(
        lambda x: torch.sign(torch.sin(1e9 * x)) * 1e3 + 1 / (1 - x).abs().clamp(min=1e-12), X0 / 2, [0.0, 1.0], max_steps=200
    )
    assert set(found.status) == {"not_converged"}
    assert any(words in found.why[0] for words in ("step size vanished", "max_steps"))


def test_equal_steps_that_are_too_long_report_the_stability_limit():
    """RK4 is stable up to 2.785 / rate."""
    (why,) = sx.solve(stiff, X0, [0.0, 10.0], method="rk4", dt=0.1).why
    assert "dt = 0.1" in why and "up to dt = 0.00028" in why


def test_equal_steps_are_nan_from_the_step_that_fails_on_and_not_before():
    found = sx.solve(lambda x: x * x, torch.tensor([[0.5], [4.0]], **DOUBLE), torch.linspace(0, 1, 11), method="rk4", dt=0.1)
    finite = torch.isfinite(found.states[..., 0])
    assert finite[:, 0].all() and finite[0, 1] and not finite[-1, 1]
    assert bool((finite[:-1].int() >= finite[1:].int()).all())
    assert int(finite[:, 1].sum()) == int(found.accepted[1]) + 1


@pytest.mark.parametrize("dt", [None, 0.05])
def test_throw_raises_with_the_same_words(dt):
    settings = {"dt": dt, "method": None if dt is None else "rk4"}
    x0 = torch.tensor([[5.0]], **DOUBLE)
    with pytest.raises(sx.errors.DivergedError, match="diverged"):
        sx.solve(lambda x: x * x, x0, [0.0, 3.0], throw=True, **settings)
    with pytest.raises(sx.errors.NotConvergedError, match="stiff"):
        sx.solve(stiff, X0, [0.0, 10.0], max_steps=100, throw=True)


def test_long_states_get_an_estimated_rate():
    rates = -torch.linspace(1, 1e4, 100, **DOUBLE)
    (why,) = sx.solve(lambda x: x * rates, torch.ones(1, 100, **DOUBLE), [0.0, 10.0], max_steps=200).why
    assert "stiff" in why and ("1e+04" in why or "9." in why)
