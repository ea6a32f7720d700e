"""A status of `ok` means that the number meets its own error bar: what no analysis may call ok, and what it calls ok is true."""

import math

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Slowing(sx.System):
    """Rotation and contraction whose strength fades with the step: no rate of it is that of its future."""

    def __init__(self) -> None:
        super().__init__(dim=2, start=(1.0, 0.5))

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return math.exp(-1 / (1 + 0.05 * n)) * x


class LateNaN(sx.System):
    """A rotation that gives NaN from its step 30 on."""

    def __init__(self) -> None:
        super().__init__(dim=2, start=(1.0, 0.5))

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        p, q = x.unbind(-1)
        turned = torch.stack([math.cos(1) * p - math.sin(1) * q, math.sin(1) * p + math.cos(1) * q], dim=-1)
        return turned if n < 30 else turned * math.nan


def growing_flow() -> sx.Flow:
    """ẋ = x²: from 1 the solution ends at t = 1."""
    return sx.Flow(lambda x: x**2, 2, 0.05, start=(1.0, 1.0))


class Creeping(sx.System):
    """The map x' = x + x² + e just past a fold: orbits creep through where its fixed points were."""

    def __init__(self, e: float = 1e-7) -> None:
        super().__init__(dim=1, start=(0.0,))
        self.hold(e=e)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return x + x**2 + torch.as_tensor(self.e)[..., None]


def rotating() -> sx.System:
    """A rotation with contraction: a complex pair, whose two directions are none."""
    matrix = 0.9 * torch.tensor([[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]], dtype=torch.float64)
    return sx.Map(lambda x: x @ matrix.T, 2)


def chain(dim: int) -> sx.System:
    """A shift register under a slow leak: it remembers more lags than are asked for."""
    matrix = 0.99 * torch.diag(torch.ones(dim - 1, dtype=torch.float64), -1)
    return sx.Map(lambda x: x @ matrix.T, dim)


def swelling() -> sx.System:
    """Every perturbation grows, for ever."""
    return sx.Map(lambda x: 1.1 * x, 2)


def no_zero() -> sx.System:
    """Without a fixed point: x' = x + 1 + x² in each component."""
    return sx.Map(lambda x: x + 1 + x**2, 2)


def overflowing() -> nn.Module:
    """The second layer's outputs are beyond the largest number."""
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).double()
    with torch.no_grad():
        network[0].bias.fill_(1e3)
        network[1].weight.fill_(1e307)
    return network


def off_manifold() -> nn.Module:
    """Flat singular values, of which one sweep of a subspace iteration settles few."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(40, 40) for _ in range(3))).double()


X = torch.tensor([0.1, 0.1], dtype=torch.float64)

# For each analysis: inputs of which its answer cannot meet its bar, each with why.
NOT_OK = {
    "lyapunov_spectrum": {
        "too few steps for an error bar": lambda: sx.lyapunov_spectrum(sx.classic.henon(), steps=5),
        "a tolerance out of reach": lambda: sx.lyapunov_spectrum(sx.classic.henon(), steps=50, error=1e-9, max_steps=100),
        "rates that fade": lambda: sx.lyapunov_spectrum(Slowing(), steps=500, settle=0),
        "NaN late": lambda: sx.lyapunov_spectrum(LateNaN(), steps=50, settle=0),
    },
    "covariant_lyapunov_vectors": {
        "a complex pair": lambda: sx.covariant_lyapunov_vectors(rotating(), X, steps=200),
        "NaN late": lambda: sx.covariant_lyapunov_vectors(LateNaN(), steps=50, settle=0),
    },
    "finite_time_lyapunov": {
        "NaN late": lambda: sx.finite_time_lyapunov(LateNaN(), steps=40),
        "a solution that ends": lambda: sx.finite_time_lyapunov(growing_flow(), steps=100),
    },
    "divergence_rate": {
        "too few steps for an error bar": lambda: sx.divergence_rate(sx.classic.henon(), steps=5),
        "rates that fade": lambda: sx.divergence_rate(Slowing(), steps=500, settle=0),
        "NaN late": lambda: sx.divergence_rate(LateNaN(), steps=50, settle=0),
    },
    "gradient_propagation": {
        "rates that fade": lambda: sx.gradient_propagation(Slowing(), lags=range(0, 200, 5)),
        "NaN late": lambda: sx.gradient_propagation(LateNaN(), lags=(1, 10, 40)),
    },
    "fixed_points": {
        "no fixed point": lambda: sx.fixed_points(no_zero(), seeded(4, 2)),
        "guesses that are no numbers": lambda: sx.fixed_points(rotating(), torch.full((3, 2), math.nan).double()),
    },
    "phase_portrait": {"a solution that ends": lambda: sx.phase_portrait(growing_flow(), torch.ones(1, 2).double(), steps=100)},
    "flow_map": {"NaN late": lambda: sx.flow_map(LateNaN(), X[None].expand(3, 2), steps=40)},
    "correlation_dimension": {
        "too few states": lambda: sx.correlation_dimension(sx.classic.henon(), steps=60),
        "NaN late": lambda: sx.correlation_dimension(LateNaN(), steps=3000),
    },
    "power_spectrum": {
        "a record too short for its chaos": lambda: sx.power_spectrum(sx.classic.lorenz63(), steps=400, settle=2000, every=1),
        "NaN late": lambda: sx.power_spectrum(LateNaN(), steps=200, settle=0),
    },
    "echo_state": {
        "states that are still closing in": lambda: sx.echo_state(sx.Map(lambda x: 0.999 * x, 2), steps=50),
        "NaN late": lambda: sx.echo_state(LateNaN(), steps=60),
    },
    "transient_growth": {
        "growth without end": lambda: sx.transient_growth(swelling(), X, steps=50),
        "NaN late": lambda: sx.transient_growth(LateNaN(), steps=50),
    },
    "memory_capacity": {
        "more memory than lags": lambda: sx.memory_capacity(chain(30), torch.zeros(30).double(), max_lag=5, steps=2000),
        "too few steps for the readouts": lambda: sx.memory_capacity(chain(8), torch.zeros(8).double(), steps=60, max_lag=20),
        "NaN late": lambda: sx.memory_capacity(LateNaN(), steps=200, settle=20),
    },
    "basins_of_attraction": {
        "no attractor within the steps": lambda: sx.basins_of_attraction(
            sx.Map(lambda x: 0.9999 * x + 1e-4 * torch.sin(x), 2), 5 + seeded(3, 2), steps=20, max_steps=60
        ),
        "a solution that ends": lambda: sx.basins_of_attraction(growing_flow(), torch.ones(2, 2).double(), steps=50),
    },
    "return_map": {
        "maxima that end": lambda: sx.return_map(
            sx.Flow(lambda x: torch.stack([x[..., 1], -x[..., 0] - 1.9 * x[..., 1]], -1), 2, 0.1),
            torch.tensor([[1.0, 0.5]]).double(),
            settle=0,
            steps=20,
            max_steps=200,
        ),
        "NaN late": lambda: sx.return_map(LateNaN(), settle=0, steps=60),
    },
    "orbit_diagram": {
        "a slow passage": lambda: sx.orbit_diagram(Creeping(), "e", [1e-7], torch.zeros(1).double(), settle=100),
        "a cycle at its bifurcation": lambda: sx.orbit_diagram(sx.classic.logistic(), "r", [3.0], settle=20_000),
        "a parameter at which orbits diverge": lambda: sx.orbit_diagram(sx.classic.logistic(), "r", [5.0]),
    },
    "continuation": {
        "too few points": lambda: sx.continuation(sx.classic.logistic(), "r", 2.0, 3.5, torch.tensor([0.5]).double(), max_steps=3),
    },
    "depth_profile": {
        "too few sweeps": lambda: sx.depth_profile(off_manifold(), seeded(2, 40), k=4, sweeps=2, tol=1e-9),
        "a layer that overflows": lambda: sx.depth_profile(overflowing(), seeded(2, 3)),
    },
    "coordinate_sizes": {
        "a layer that overflows": lambda: sx.coordinate_sizes(overflowing(), seeded(2, 3).float()),
    },
    "along": {
        "one checkpoint of which diverges": lambda: sx.along(
            {0: 1.2, 1: 9.0}, lambda s: sx.lyapunov_spectrum(s, steps=200), build=lambda a: sx.classic.henon(a=a)
        ),
    },
    "stationarity": {"a memory as long as the drive": lambda: sx.stationarity(seeded(400, 1).cumsum(0))},
    "step_convergence": {
        "a kink in time": lambda: sx.step_convergence(
            sx.Flow(lambda x, t: (math.sqrt(abs(t - 0.5))) * torch.ones_like(x), 1, 0.1, time_dependent=True),
            torch.zeros(1).double(),
            steps=10,
        ),
        "a solution that ends": lambda: sx.step_convergence(growing_flow(), steps=40),
    },
    "stability_region": {"a solution that ends": lambda: sx.stability_region(growing_flow(), steps=60)},
}


@pytest.mark.parametrize("name", [*sx.tables.ANALYSES, *sx.tables.SWEEPS, *sx.tables.PROFILES])
def test_every_analysis_has_an_answer_that_it_must_not_call_ok(name):
    """An entry of the tables without such a case fails by its name; one with a case calls no item of it ok."""
    assert NOT_OK.get(name), f"{name} has no case in NOT_OK: give it inputs of which its answer cannot meet its bar."
    for why, ask in NOT_OK[name].items():
        result = ask()
        unsure = result.codes != sx.Status.OK
        assert bool(unsure.any() if name == "along" else unsure.all()), f"{name} calls ok what it cannot know: {why}."


class Drawn(sx.System):
    """Contractions x_i → exp(μ_i + s ξ_{n,i}) x_i with independent standard normal ξ: the exponents are μ.

    A number that follows its last one by half makes ξ coloured, so that neighbouring blocks are not independent.
    """

    def __init__(self, mean: list[float], spread: float, seed: int, steps: int) -> None:
        super().__init__(dim=len(mean), horizon=steps, start=(1e-3,) * len(mean))
        drawn = seeded(steps + 1, len(mean), seed=seed)
        self.register_buffer("factors", (torch.tensor(mean).double() + spread * (drawn[1:] + 0.5 * drawn[:-1])).exp())

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return torch.tanh(self.factors[n] * x)  # near 0 a contraction; tanh bounds what grows at first

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        slope = self.factors[n] / torch.cosh(self.factors[n] * x).square()
        return self.step(x, n), slope[..., None, :] * v


def within(value: Tensor, error: Tensor, truth: float, time: float) -> bool:
    """Within four standard errors and what the first directions add, O(1/T)."""
    return bool(((value - truth).abs() <= 4 * error.nan_to_num(0.0) + 3 / time).all())


MEANS, STEPS = [-0.2, -0.4, -0.5], 1500


@pytest.mark.parametrize("seed", range(4))
def test_what_is_ok_of_exponents_is_true_of_drawn_contractions(seed):
    """E ln R_ii = μ_i: the spectrum, the pair's rate, the covariant vectors' rates, the pooled ones, and the check agrees."""
    spectrum = sx.lyapunov_spectrum(Drawn(MEANS, 0.5, seed, STEPS + 200), steps=STEPS, settle=200, check=True)
    covariant = sx.covariant_lyapunov_vectors(Drawn(MEANS, 0.5, seed, STEPS + 600), steps=STEPS, settle=200, align=200)
    near = spectrum.check
    assert not spectrum.disagreement
    for value, error, result in (
        *((spectrum.exponents[i], spectrum.stderr[i], spectrum) for i in range(3)),
        (near.rate, near.stderr, near),
    ):
        truth = min(MEANS, key=lambda mean, value=value: abs(mean - float(value)))
        assert result.status != "ok" or within(value, error, truth, STEPS)
    for value, error in zip(covariant.exponents, covariant.stderr, strict=True) if hasattr(covariant, "stderr") else ():
        truth = min(MEANS, key=lambda mean, value=value: abs(mean - float(value)))
        assert covariant.status != "ok" or within(value, error, truth, STEPS)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_ok_of_exponents_is_true_of_chaos(seed):
    """The full logistic map has λ = ln 2; the map of the torus by ((2, 1), (1, 1)) ±ln((3 + √5)/2), for any orbit."""
    x0 = 0.1 + 0.8 * torch.rand(8, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    full = sx.lyapunov_spectrum(sx.classic.logistic(4.0), x0, steps=2000, settle=100, check=True)
    ok = full.codes == sx.Status.OK
    assert ok.float().mean() > 0.8
    assert within(full.exponents[ok], full.stderr[ok], math.log(2), 2000)
    assert within(full.check.rate[ok], full.check.stderr[ok], math.log(2), 2000)
    cat = sx.Map(lambda x: (x @ torch.tensor([[2.0, 1.0], [1.0, 1.0]], dtype=x.dtype)) % 1, 2)
    spectrum = sx.lyapunov_spectrum(cat, torch.rand(2, generator=torch.Generator().manual_seed(seed)).double(), steps=400)
    golden = math.log((3 + math.sqrt(5)) / 2)
    assert spectrum.status == "ok" and within(spectrum.exponents, spectrum.stderr, torch.tensor([golden, -golden]), 400)
    slope = sx.gradient_propagation(cat, torch.rand(2, generator=torch.Generator().manual_seed(seed)).double())
    assert slope.status == "ok" and within(slope.rates, slope.rates_stderr, torch.tensor([golden, -golden]), 200)


@pytest.mark.parametrize("every", [1, 40])
def test_finite_time_exponents_are_those_of_the_matrix_power_however_seldom_they_are_factored(every):
    """For x' = A x with A triangular: λ_i = ln σ_i(A^T)/T; σ of the exact power, whose range float64 cannot hold."""
    import mpmath

    a = [[2.0, 0.7, -0.3], [0.0, 0.5, 0.4], [0.0, 0.0, 0.05]]
    matrix = torch.tensor(a, dtype=torch.float64)
    field = sx.finite_time_lyapunov(sx.Map(lambda x: x @ matrix.T, 3), torch.zeros(3).double(), steps=40, k=3, every=every)
    with mpmath.workdps(160):
        sigma = mpmath.svd_r(mpmath.matrix(a) ** 40, compute_uv=False)
        truth = [float(mpmath.log(value) / 40) for value in sigma]
    assert field.status == "ok"
    assert field.exponents.tolist() == pytest.approx(truth, abs=1e-10)


@pytest.mark.parametrize("turn", [math.sqrt(2), 1.0, 2 * math.pi / (1 + math.sqrt(5))])
def test_what_is_ok_of_a_rotation_is_true(turn):
    """Its orbit fills a circle, of correlation dimension 1; its only frequency is turn/2π; perturbations neither grow nor fade."""
    c, s = math.cos(turn), math.sin(turn)
    matrix = torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
    circle, x0 = sx.Map(lambda x: x @ matrix, 2), torch.tensor([1.0, 0.0]).double()
    dimension = sx.correlation_dimension(circle, x0, steps=3000)
    assert dimension.status == "ok" and within(dimension.dimension, dimension.stderr, 1.0, 3000)
    rhythm = sx.power_spectrum(circle, x0, steps=2000)
    assert rhythm.status == "ok"
    assert float(rhythm.lines[0]) == pytest.approx(turn / (2 * math.pi), abs=1e-6)
    growth = sx.transient_growth(circle, x0, steps=30)
    assert growth.status == "ok" and float(growth.peak) == 0.0


def test_what_is_ok_of_memory_is_true():
    """A shift register of d numbers keeps exactly d past inputs: its linear memory capacity is d."""
    for dim in (3, 6):
        matrix = torch.diag(torch.ones(dim - 1, dtype=torch.float64), -1)
        direction = torch.eye(dim, dtype=torch.float64)[0]
        register = sx.Map(lambda x, m=matrix: x @ m.T, dim)
        memory = sx.memory_capacity(register, torch.zeros(dim).double(), direction=direction, steps=2000)
        assert memory.status == "ok" and within(memory.capacity, memory.stderr, dim, 2000)


def test_what_is_ok_of_branches_and_cycles_is_true():
    """The logistic map: x = 1 − 1/r loses stability at r = 3 to a cycle of two, x± = (r + 1 ± √((r − 3)(r + 1))) / 2r."""
    branch = sx.continuation(sx.classic.logistic(), "r", 2.0, 3.4, torch.tensor([0.5]).double())
    assert branch.status == "ok"
    assert branch.points[:, 0].tolist() == pytest.approx((1 - 1 / branch.parameters).tolist(), abs=1e-11)
    assert [event.parameter for event in branch.bifurcations] == pytest.approx([3.0], abs=1e-8)
    diagram = sx.orbit_diagram(sx.classic.logistic(), "r", [2.5, 2.99, 3.0, 3.2, 3.4])
    for period, code, truth in zip(diagram.periods, diagram.codes, (1, 1, 1, 2, 2), strict=True):
        assert int(code) != sx.Status.OK or int(period) in (0, truth)
    assert [(int(diagram.periods[i]), int(diagram.codes[i])) for i in (0, 3, 4)] == [(1, 0), (2, 0), (2, 0)]
    r = 3.2
    ends = [(r + 1 + sign * math.sqrt((r - 3) * (r + 1))) / (2 * r) for sign in (-1, 1)]
    assert sorted(diagram.states[-2:, 3, 0].tolist()) == pytest.approx(ends, abs=1e-10)


def test_a_stationary_drive_is_seldom_said_to_change_and_a_change_is_seen():
    """Of 40 white drives 5 % may be called non-stationary at that level: more than 8 would be so in one case of 10⁴."""
    white = sx.stationarity(seeded(2000, 40, 1))
    assert (white.codes == sx.Status.OK).all() and int((~white.stationary).sum()) <= 8
    assert not sx.stationarity(seeded(2000, 1) + torch.linspace(0, 2, 2000).double()[:, None]).stationary
