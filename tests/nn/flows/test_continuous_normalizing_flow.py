"""Log-densities against closed forms, dense Jacobians and their own integral; the estimate of the trace against the exact one."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

import separatrix as sx

DOUBLE = {"dtype": torch.float64}
MATRIX = torch.tensor([[0.3, -0.8, 0.1], [0.5, -0.2, 0.4], [0.0, 0.3, -0.6]], **DOUBLE)
STEPS = ({"dt": 1 / 16}, {"method": "dopri5", "rtol": 1e-9, "atol": 1e-9})


def linear(x: torch.Tensor) -> torch.Tensor:
    return x @ MATRIX.mT


def points(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, **DOUBLE, generator=torch.Generator().manual_seed(seed))


def random_field(dim: int = 2, hidden: tuple[int, ...] = (16, 16), scale: float = 2.0) -> sx.nn.parts.DenseField:
    torch.manual_seed(0)
    field = sx.nn.parts.DenseField(dim, hidden, time_dependent=True).double()
    with torch.no_grad():
        for layer in field.layers:
            layer.weight *= scale
    return field


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("time", [1.0, 0.5])
def test_a_linear_field_makes_the_normal_density_of_its_exponential(steps, time):
    """x(T) = e^{AT} z has covariance e^{AT} e^{AᵀT}."""
    flow = sx.nn.ContinuousNormalizingFlow(linear, 3, end=time, **steps)
    x, grown = points(7, 3), torch.matrix_exp(time * MATRIX)
    wanted = MultivariateNormal(torch.zeros(3, **DOUBLE), grown @ grown.mT).log_prob(x)
    found = flow.log_density(x)
    torch.testing.assert_close(found.values, wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.latents, torch.linalg.solve(grown, x.mT).mT, rtol=0, atol=1e-6)
    assert (found.stderr == 0).all() and set(found.status) == {"ok"}


def test_a_field_that_depends_on_time_is_run_backwards_in_time_too():
    """ẋ = t x:  x(T) = e^{T²/2} z, whatever the order of the steps in which that is found."""
    flow = sx.nn.ContinuousNormalizingFlow(lambda x, t: t * x, 1, end=1.5, dt=1 / 32, time_dependent=True)
    x, width = points(5, 1), math.exp(1.5**2 / 2)
    wanted = -((x[:, 0] / width) ** 2 + math.log(2 * math.pi)) / 2 - math.log(width)
    torch.testing.assert_close(flow.log_density(x).values, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("field", [random_field(), nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).double()])
def test_a_density_is_that_of_the_base_over_the_determinant_of_the_flow_s_map(field):
    """By log p(x) = log N(z) − log |det ∂x/∂z|, with the dense Jacobian of the layer by AD."""
    flow = sx.nn.ContinuousNormalizingFlow(field, 2, dt=1 / 32, time_dependent=isinstance(field, sx.nn.parts.DenseField))
    z = points(6, 2)
    z.requires_grad_()
    x = flow(z)
    jacobian = torch.stack([torch.autograd.grad(x[:, i].sum(), z, retain_graph=True)[0] for i in range(2)], dim=-2)
    x, z, jacobian = x.detach(), z.detach(), jacobian.detach()
    wanted = -(z.square().sum(-1)) / 2 - math.log(2 * math.pi) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(flow.log_density(x).values, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(flow.inverse(x), z, rtol=0, atol=1e-5)


def test_any_field_s_density_adds_up_to_one():
    """On a grid far finer than the density and far wider: the sum of a smooth function is exact beyond all orders."""
    flow = sx.nn.ContinuousNormalizingFlow(random_field(), 2, dt=1 / 16)
    grid = sx.grid((-7, -7), (7, 7), (120, 120)).double()
    with torch.no_grad():
        mass = flow.log_density(grid).values.exp().sum() * (14 / 119) ** 2
    assert float(mass) == pytest.approx(1, abs=1e-4)


def test_samples_have_the_density_s_moments_and_come_back_to_the_base():
    field = nn.Linear(3, 3, bias=False).double()
    with torch.no_grad():
        field.weight.copy_(MATRIX)
    flow = sx.nn.ContinuousNormalizingFlow(field, 3, dt=1 / 16)
    x = flow.sample(4000, seed=3).detach()
    grown = torch.matrix_exp(MATRIX)
    wanted = grown @ grown.mT
    spread = ((wanted.diagonal()[:, None] * wanted.diagonal() + wanted**2) / 4000).sqrt()  # of a sample covariance
    assert ((x.mT.cov() - wanted).abs() < 4 * spread).all()
    torch.testing.assert_close(flow.inverse(x), flow.log_density(x).latents)
    assert torch.equal(flow.sample(5, seed=1), flow.sample(5, seed=1)) and not torch.equal(flow.sample(5), flow.sample(5, seed=1))


def test_transport_passes_through_the_given_times():
    flow = sx.nn.ContinuousNormalizingFlow(linear, 3, dt=1 / 32)
    z = points(4, 3)
    states = flow.transport(z, [0.0, 0.25, 1.0]).states
    for t, x in zip((0.0, 0.25, 1.0), states, strict=True):
        torch.testing.assert_close(x, z @ torch.matrix_exp(t * MATRIX).mT, rtol=0, atol=1e-6)
    torch.testing.assert_close(flow.transport(z).last, flow(z))


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_hutchinson_s_estimate_is_unbiased_and_its_standard_error_is_the_error_s(noise):
    """Over 400 points and seeds: errors in units of their standard error have mean 0 and variance k₁/(k₁ − 2) of Student's t."""
    flow = sx.nn.ContinuousNormalizingFlow(random_field(4), 4, dt=1 / 8, trace="hutchinson", noise=noise)
    x, probes = points(400, 4), 30
    with torch.no_grad():
        exact = sx.nn.ContinuousNormalizingFlow(flow.field, 4, dt=1 / 8).log_density(x).values
        found = flow.log_density(x, probes=probes, seed=5)
    error = found.values - exact
    scaled = error / found.stderr
    assert abs(float(scaled.mean())) < 4 / 20  # 1/√400 is the standard error of the mean
    assert 0.75 < float(scaled.square().mean()) < 1.4  # 29/27, whose own standard error is 0.08 for a normal
    assert float(found.stderr.min()) > 0


def test_gaussian_probes_vary_as_the_symmetric_part_and_signs_less():
    """Var εᵀAε = 2‖S‖² of normal ε and that without the diagonal of signs, S = (A + Aᵀ)/2; T = 1, so that is of the integral."""
    symmetric = (MATRIX + MATRIX.mT) / 2
    whole, beside = 2 * symmetric.square().sum(), 2 * (symmetric - symmetric.diagonal().diag()).square().sum()
    for noise, variance in (("gaussian", whole), ("rademacher", beside)):
        flow = sx.nn.ContinuousNormalizingFlow(linear, 3, dt=0.5, trace="hutchinson", noise=noise)
        found = flow.log_density(points(1, 3), probes=4_000)
        assert float(found.stderr) ** 2 * 4_000 == pytest.approx(float(variance), rel=0.1)


def test_one_probe_has_no_standard_error():
    flow = sx.nn.ContinuousNormalizingFlow(linear, 3, trace="hutchinson")
    found = flow.log_density(points(2, 3))
    assert found.settings["probes"] == 1 and found.stderr.isnan().all() and found.values.isfinite().all()


@pytest.mark.parametrize(
    "settings",
    [
        {"dt": 0.125},
        {"dt": 0.125, "trace": "hutchinson", "probes": 3, "gradient": "checkpoint"},
        {"method": "dopri5", "rtol": 1e-9},
        {"dt": 0.03125, "gradient": "adjoint"},
    ],
)
def test_gradients_of_a_log_density_are_those_of_finite_differences(settings):
    """In the points, and in weights; also where the trace itself is by forward AD."""
    for field in (random_field(), nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2)).double()):
        flow = sx.nn.ContinuousNormalizingFlow(field, 2, **settings)
        weight = next(flow.parameters())
        x = points(3, 2).requires_grad_()
        by_x, by_weight = torch.autograd.grad(flow.log_density(x).values.sum(), [x, weight])
        with torch.no_grad():
            nudge = torch.full_like(x, 1e-5)
            above, below = (flow.log_density(x + sign * nudge).values.sum() for sign in (1, -1))
            assert float((by_x * nudge).sum()) == pytest.approx(float(above - below) / 2, rel=1e-4)
            moved = []
            for change in (1e-5, -2e-5, 1e-5):
                weight[0, 0] += change
                moved.append(float(flow.log_density(x).values.sum()))
        assert float(by_weight[0, 0]) == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-4)


def test_a_short_training_approaches_the_density_of_the_data():
    """Points of a normal density: its entropy is what no model's mean log-density exceeds but by chance."""
    torch.manual_seed(0)
    root = torch.tensor([[1.5, 0.0], [0.9, 0.4]])
    data = torch.randn(512, 2) @ root.mT + torch.tensor([0.5, -0.3])
    flow = sx.nn.ContinuousNormalizingFlow(sx.nn.parts.DenseField(2, (16,), time_dependent=True), 2, dt=0.25)
    optimiser = torch.optim.Adam(flow.parameters(), lr=3e-2)
    for _ in range(60):
        optimiser.zero_grad()
        (-flow.log_density(data).mean).backward()
        optimiser.step()
    best = MultivariateNormal(data.mean(0), data.mT.cov()).log_prob(data).mean()
    assert (best - flow.log_density(data).mean).item() < 0.05


def test_it_is_a_flow_whose_exponents_add_up_to_the_trace():
    flow = sx.nn.ContinuousNormalizingFlow(linear, 3, dt=0.05)
    found = sx.lyapunov_spectrum(flow, points(1, 3)[0], steps=100, settle=0)
    assert float(found.exponents.sum()) == pytest.approx(float(MATRIX.trace()), abs=1e-5)


def test_more_batch_axes_and_single_precision_are_kept():
    flow = sx.nn.ContinuousNormalizingFlow(sx.nn.parts.DenseField(2, (4,)), 2, dt=0.25)
    found = flow.log_density(torch.randn(2, 3, 2), probes=4)
    assert found.values.shape == found.stderr.shape == found.codes.shape == (2, 3) and found.latents.shape == (2, 3, 2)
    assert found.values.dtype == flow.sample(2).dtype == torch.float32
    assert torch.equal(flow.log_density(torch.zeros(2)).values, flow.log_density(torch.zeros(1, 2)).values[0])


def test_a_point_that_diverges_is_marked_and_no_other():
    flow = sx.nn.ContinuousNormalizingFlow(lambda x: -(x**2), 1, method="dopri5", rtol=1e-3)  # back from x: infinite at 1/x
    found = flow.log_density(torch.tensor([[0.5], [4.0]], **DOUBLE))
    assert found.status.tolist() == ["ok", "diverged"] and found.values.isnan().tolist() == [False, True]
    assert float(found.mean) == float(found.values[0])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"trace": "guessed"}, "'guessed'"),
        ({"noise": "uniform"}, "noise"),
        ({"probes": 0}, "probes is 0"),
        ({"end": 0.0}, "end is 0"),
        ({"method": "rk5"}, "rk5"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(sx.SeparatrixError, match=words):
        sx.nn.ContinuousNormalizingFlow(linear, 3, **settings)


def test_bad_points_and_probes_are_named():
    flow = sx.nn.ContinuousNormalizingFlow(linear, 3)
    with pytest.raises(sx.errors.ShapeError, match="of 3 numbers"):
        flow.log_density(torch.zeros(4, 2))
    with pytest.raises(sx.errors.InputError, match="probes is 0"):
        flow.log_density(torch.zeros(4, 3), probes=0)
    for asked in (flow.log_density, flow.inverse, flow.transport):
        with pytest.raises(sx.errors.ShapeError, match="of 3 numbers"):
            asked(torch.zeros(4, 2))
    with pytest.raises(sx.errors.InputError, match="n is -1"):
        flow.sample(-1)


def test_fields_of_another_width_are_named():
    with pytest.raises(sx.errors.ShapeError, match="points of 2 numbers, got one on 3"):
        sx.nn.ContinuousNormalizingFlow(sx.nn.parts.DenseField(3), 2)
    with pytest.raises(sx.errors.ShapeError, match="velocities of shape"):
        sx.nn.ContinuousNormalizingFlow(nn.Linear(2, 3), 2).log_density(torch.zeros(1, 2))


def test_going_back_through_a_contraction_multiplies_the_error_as_much_as_the_map_divides():
    """ẋ = −8x makes a normal density of width e⁻⁸: a tolerance far below that width is needed, and enough."""
    z = points(6, 2)
    x = math.exp(-8) * z
    wanted = -z.square().sum(-1) / 2 - math.log(2 * math.pi) + 16
    fine = sx.nn.ContinuousNormalizingFlow(lambda x: -8 * x, 2, method="dopri5", rtol=1e-9, atol=1e-12).log_density(x)
    torch.testing.assert_close(fine.latents, z, rtol=0, atol=1e-6)
    torch.testing.assert_close(fine.values, wanted, rtol=0, atol=1e-5)
