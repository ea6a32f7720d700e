"""A known field and a missing term: values and tangents by hand, and parameters recovered from what is seen."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.core.tangent import jacobian
from separatrix.nn.fit.least_squares import levenberg_marquardt

DOUBLE = {"dtype": torch.float64}


def network(outputs: int = 2, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, outputs)).double()


def spiral(x: torch.Tensor) -> torch.Tensor:
    return x @ x.new_tensor([[-0.2, 1.0], [-1.0, -0.2]])


class Drag(nn.Module):
    """−c x − d |x|² x."""

    def __init__(self, c: float = 0.0, d: float = 0.0) -> None:
        super().__init__()
        self.c, self.d = nn.Parameter(torch.tensor(c, **DOUBLE)), nn.Parameter(torch.tensor(d, **DOUBLE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -self.c * x - self.d * x.square().sum(-1, keepdim=True) * x


# ---------------------------------------------------------------- the field


@pytest.mark.parametrize(
    ("combine", "rule"),
    [
        ("sum", lambda f, m: f + m),
        ("factor", lambda f, m: f * (1 + m)),
        (lambda f, m: f * torch.exp(m[..., :1]), lambda f, m: f * torch.exp(m[..., :1])),
    ],
    ids=["sum", "factor", "function"],
)
def test_both_terms_are_combined_by_the_rule_and_so_are_their_tangents(combine, rule):
    missing = network(1 if callable(combine) else 2)
    field = sx.nn.Universal(spiral, missing, combine=combine)
    x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0), **DOUBLE)
    torch.testing.assert_close(field(x, 0.0), rule(spiral(x), missing(x)), rtol=1e-14, atol=1e-15)
    v = torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(1), **DOUBLE)
    value, pushed = field.pushforward(x, v, 0.0)
    torch.testing.assert_close(value, field(x, 0.0), rtol=1e-14, atol=1e-15)
    dense = jacobian(lambda y: rule(spiral(y), missing(y)), x)
    torch.testing.assert_close(pushed, v @ dense.mT, rtol=1e-12, atol=1e-13)


def test_a_silenced_network_leaves_the_known_field_and_its_rates():
    """The spiral's eigenvalues are −0.2 ± i; those of a step of RK4 are exp of them times dt, to dt⁵/120."""
    missing = sx.nn.parts.zero_output_(network())
    assert all((p == 0).all() for p in missing[-1].parameters()) and not (missing[0].weight == 0).any()
    for combine in ("sum", "factor"):
        field = sx.nn.Universal(spiral, missing, combine=combine)
        x = torch.randn(5, 2, **DOUBLE)
        assert torch.equal(field(x, 0.0), spiral(x))
        unit = torch.eye(2, **DOUBLE)
        step = sx.Flow(field, 2, 0.05).pushforward(x[0], unit)[1]
        exact = torch.exp(0.05 * torch.tensor([-0.2 + 1j, -0.2 - 1j], dtype=torch.complex128))
        found = torch.linalg.eigvals(step)
        assert sorted(found.imag.tolist()) == pytest.approx(sorted(exact.imag.tolist()), abs=1e-8)
        assert found.real.tolist() == pytest.approx(exact.real.tolist(), abs=1e-8)


def test_it_goes_where_fields_go_and_its_parameters_are_the_terms_own():
    missing = network()
    field = sx.nn.Universal(sx.classic.LotkaVolterra(), missing)
    assert {id(p) for p in field.parameters()} == {id(p) for p in missing.parameters()}
    assert set(field.at(beta=0.5).parameter_names) == {"alpha", "beta", "gamma", "delta"}
    x0 = torch.tensor([[0.5, 1.5], [1.0, 2.0]], **DOUBLE)
    layer = sx.nn.NeuralODE(field, 2, end=0.5, dt=0.05)
    torch.testing.assert_close(layer(x0), sx.solve(field, x0, [0.0, 0.5], method="rk4", dt=0.05).last)
    layer(x0).sum().backward()
    assert all(p.grad is not None for p in missing.parameters())
    both = sx.nn.Universal(lambda x, t: torch.cos(torch.as_tensor(t)) * x, lambda x, t: t * x, time_dependent=True)
    assert float(both(torch.ones(2, **DOUBLE), 2.0)[0]) == pytest.approx(float(torch.cos(torch.tensor(2.0).double())) + 2)


def test_a_term_of_another_width_and_an_unknown_rule_are_refused():
    with pytest.raises(sx.errors.InputError, match="combine is 'product'"):
        sx.nn.Universal(spiral, network(), combine="product")
    with pytest.raises(sx.errors.ShapeError, match=r"got 2 .* 3 "):
        sx.nn.Universal(spiral, network(3))(torch.zeros(2, **DOUBLE), 0.0)
    with pytest.raises(sx.errors.InputError, match="Linear"):
        sx.nn.parts.zero_output_(nn.Tanh())


# ---------------------------------------------------------------- the method


class Line:
    """r = A θ − b."""

    def __init__(self, a: torch.Tensor, b: torch.Tensor) -> None:
        self.a, self.b = a, b

    def residuals(self, theta: torch.Tensor) -> torch.Tensor:
        return self.a @ theta - self.b

    def linearised(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.residuals(theta), self.a


@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_a_linear_problem_ends_at_the_ridge_solution(shape, decay):
    """(AᵀA + ρ)⁻¹Aᵀb from any start; without decay the nearest of all solutions, from 0."""
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*size, generator=random, **DOUBLE) for size in (shape, shape[:1]))
    start = torch.zeros(shape[1], **DOUBLE) if decay == 0 else torch.randn(shape[1], generator=random, **DOUBLE)
    *_, last = levenberg_marquardt(Line(a, b), start, decay=decay, damping=1e-3, max_steps=30)
    exact = torch.linalg.pinv(a) @ b if decay == 0 else torch.linalg.solve(a.mT @ a + decay * torch.eye(shape[1]), a.mT @ b)
    torch.testing.assert_close(last.theta, exact.double(), rtol=1e-6, atol=1e-7)


def test_the_loss_falls_at_every_step():
    class Rosenbrock:
        def residuals(self, theta):
            return torch.stack([10 * (theta[1] - theta[0] ** 2), 1 - theta[0]])

        def linearised(self, theta):
            return self.residuals(theta), torch.autograd.functional.jacobian(self.residuals, theta)

    start = torch.tensor([-1.2, 1.0], **DOUBLE)
    losses = [at.loss for at in levenberg_marquardt(Rosenbrock(), start, decay=0.0, damping=1e-3, max_steps=60) if at.lowered]
    assert losses[0] == pytest.approx(24.2) and losses[-1] < 1e-20
    assert all(after < before for before, after in pairwise(losses))


# ---------------------------------------------------------------- the fit


TIMES = torch.linspace(0, 3, 16, **DOUBLE)
START = torch.tensor([[1.0, 0.0], [0.0, 2.0]], **DOUBLE)


def seen(c: float = 0.3, d: float = 0.1) -> torch.Tensor:
    with torch.no_grad():
        return sx.solve(sx.nn.Universal(spiral, Drag(c, d)), START, TIMES, method="rk4", dt=0.05).states


def test_two_numbers_of_a_missing_term_are_found_to_rounding():
    drag = Drag()
    fit = sx.nn.fit_observations(sx.nn.Universal(spiral, drag), seen(), x0=START, times=TIMES, dt=0.05, tol=1e-12)
    assert drag.c.item() == pytest.approx(0.3, abs=1e-9) and drag.d.item() == pytest.approx(0.1, abs=1e-9)
    assert fit.status == "ok" and fit.error < 1e-9 and fit.settings["parameters"] == 2
    torch.testing.assert_close(fit.predicted, fit.observed, rtol=0, atol=1e-8)


def test_they_are_found_from_what_is_seen_of_the_states_and_with_holes():
    def distance(states: torch.Tensor) -> torch.Tensor:
        return states.square().sum(-1)

    drag, data = Drag(), distance(seen())
    data[3:9, 0] = torch.nan
    fit = sx.nn.fit_observations(sx.nn.Universal(spiral, drag), data, x0=START, times=TIMES, dt=0.05, observe=distance, tol=1e-12)
    assert drag.c.item() == pytest.approx(0.3, abs=1e-8) and drag.d.item() == pytest.approx(0.1, abs=1e-8)
    assert len(fit.observed) == 32 - 6 and "26 observations" in fit.summary()


def test_what_is_frozen_stays_and_what_is_known_may_be_learned_too():
    drag = Drag(0.3, 0.0)
    drag.c.requires_grad_(False)
    sx.nn.fit_observations(sx.nn.Universal(spiral, drag), seen(), x0=START, times=TIMES, dt=0.05)
    assert drag.c.item() == 0.3 and drag.d.item() == pytest.approx(0.1, abs=1e-6)
    known = Drag(0.1, 0.1)
    sx.nn.fit_observations(sx.nn.Universal(known, spiral), seen(), x0=START, times=TIMES, dt=0.05)
    assert known.c.item() == pytest.approx(0.3, abs=1e-6)


def test_decay_keeps_weights_small_and_a_perfect_fit_away():
    sizes = []
    for decay in (0.0, 1.0):
        missing = sx.nn.parts.zero_output_(network())
        fit = sx.nn.fit_observations(
            sx.nn.Universal(spiral, missing), seen(), x0=START, times=TIMES, dt=0.1, decay=decay, max_steps=15
        )
        sizes.append((fit.error, float(torch.cat([p.detach().flatten() for p in missing.parameters()]).norm())))
    assert sizes[0][0] < sizes[1][0] and sizes[0][1] > sizes[1][1]


def test_a_fit_that_has_not_ended_says_so_and_keeps_what_it_reached():
    missing = sx.nn.parts.zero_output_(network())
    field = sx.nn.Universal(spiral, missing)
    fit = sx.nn.fit_observations(field, seen(), x0=START, times=TIMES, dt=0.1, max_steps=1)
    assert fit.status == "not_converged" and len(fit.misfit) == 2 and fit.misfit[1] < fit.misfit[0]
    with torch.no_grad():
        now = sx.solve(field, START, TIMES, method="rk4", dt=0.1).states
    assert float((now - seen()).norm() / seen().norm()) == pytest.approx(fit.error, rel=1e-10)
    with pytest.raises(sx.errors.NotConvergedError, match="after 1 step"):
        sx.nn.fit_observations(field, seen(), x0=START, times=TIMES, dt=0.1, max_steps=1, throw=True)


def test_a_solution_that_diverges_is_reported():
    class Explosion(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(50.0, **DOUBLE))

        def forward(self, x):
            return self.rate * x**3

    fit = sx.nn.fit_observations(Explosion(), seen(), x0=START, times=TIMES, dt=0.1)
    assert fit.status == "diverged" and len(fit.misfit) == 1
    with pytest.raises(sx.errors.DivergedError, match="not finite after 0 steps"):
        sx.nn.fit_observations(Explosion(), seen(), x0=START, times=TIMES, dt=0.1, throw=True)


def test_a_fit_of_what_no_parameter_changes_is_not_called_converged():
    drag = Drag(0.2, 0.0)
    fit = sx.nn.fit_observations(
        sx.nn.Universal(spiral, drag), torch.ones(1, **DOUBLE), x0=START, times=TIMES, dt=0.1, observe=lambda x: x[0, 0, :1] / 2
    )
    assert fit.status == "not_converged" and fit.misfit.tolist() == [0.5] and drag.c.item() == pytest.approx(0.2, abs=1e-15)
    assert "no parameter affects the observations" in fit.summary()
    options = {"x0": START, "times": TIMES, "dt": 0.1, "observe": torch.detach, "decay": 0.1}
    cut = sx.nn.fit_observations(sx.nn.Universal(spiral, drag), seen(), **options)
    assert cut.status == "not_converged" and drag.c.item() == pytest.approx(0.2, abs=1e-15)
    with pytest.raises(sx.errors.NotConvergedError, match="graph"):
        sx.nn.fit_observations(sx.nn.Universal(spiral, drag), seen(), throw=True, **options)


def test_a_fit_says_why_it_ended():
    options = {"x0": START, "times": TIMES, "dt": 0.1}
    noise = 0.05 * torch.randn(seen().shape, generator=torch.Generator().manual_seed(0), **DOUBLE)
    short = sx.nn.fit_observations(sx.nn.Universal(spiral, Drag()), seen(), max_steps=1, **options)
    whole = sx.nn.fit_observations(sx.nn.Universal(spiral, Drag()), seen() + noise, **options)
    assert short.status == "not_converged" and "stopped by max_steps with the loss still decreasing" in short.summary()
    assert whole.status == "ok" and whole.verdict == "the loss has settled"


def test_a_flow_stands_for_its_field_and_a_map_for_none():
    # a step of a flow, taken for a velocity, would be a silently wrong one
    x, flow = torch.rand(3, 2, **DOUBLE), sx.classic.lotka_volterra(dt=0.1)
    field = sx.nn.Universal(flow, Drag(0.5, 0.0))
    p, q = x.unbind(-1)
    by_hand = torch.stack([1.3 * p - 0.9 * p * q - 0.5 * p, 0.8 * p * q - 1.8 * q - 0.5 * q], dim=-1)
    torch.testing.assert_close(field(x, 0.0), by_hand, rtol=1e-14, atol=1e-15)
    with pytest.raises(sx.errors.UnsupportedModuleError, match="expected a Flow, got a"):
        sx.nn.Universal(sx.classic.henon(), Drag())
    with pytest.raises(sx.errors.InputError, match="of type int"):
        sx.nn.Universal(3, Drag())
    for wrap in (lambda field: sx.Flow(field, 2, 0.1), lambda field: sx.nn.NeuralODE(field, 2)):
        drag = Drag()
        fit = sx.nn.fit_observations(wrap(sx.nn.Universal(spiral, drag)), seen(), x0=START, times=TIMES, dt=0.1)
        assert fit.error < 1e-5 and drag.c.item() == pytest.approx(0.3, abs=1e-4)


def test_weights_that_are_computed_from_others_are_not_silenced_to_nan():
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    with pytest.raises(sx.errors.InputError, match="weight or spectral norm"):
        sx.nn.parts.zero_output_(normed)
    assert torch.isfinite(normed(torch.ones(2))).all()


def test_bad_input_of_a_fit_is_refused_in_one_line():
    field = sx.nn.Universal(spiral, network())
    with pytest.raises(sx.errors.ShapeError, match=r"observed of shape .*\(15, 2, 2\)"):
        sx.nn.fit_observations(field, seen()[1:], x0=START, times=TIMES, dt=0.1)
    with pytest.raises(sx.errors.InputError, match="only 0 and NaN"):
        sx.nn.fit_observations(field, torch.full((16, 2, 2), torch.nan), x0=START, times=TIMES, dt=0.1)
    with pytest.raises(sx.errors.InputError, match="1 of the observations are infinite"):
        sx.nn.fit_observations(
            field,
            seen().index_fill(0, torch.tensor(3), torch.inf)[:, :1, :1],
            x0=START,
            times=TIMES,
            dt=0.1,
            observe=lambda x: x[:, :1, :1],
        )
    with pytest.raises(sx.errors.InputError, match="max_steps is 0"):
        sx.nn.fit_observations(field, seen(), x0=START, times=TIMES, dt=0.1, max_steps=0)
    with pytest.raises(sx.errors.InputError, match="damping is 0"):
        sx.nn.fit_observations(field, seen(), x0=START, times=TIMES, dt=0.1, damping=0.0)
    with pytest.raises(sx.errors.InputError, match="decay is -1"):
        sx.nn.fit_observations(field, seen(), x0=START, times=TIMES, dt=0.1, decay=-1.0)
    with pytest.raises(sx.errors.InputError, match="parameter"):
        sx.nn.fit_observations(sx.nn.Universal(spiral, spiral), seen(), x0=START, times=TIMES, dt=0.1)
