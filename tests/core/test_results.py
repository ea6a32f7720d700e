"""Every class of results, by one of its kind: it is saved and loaded whole, drawn, shown and tabled, and says so in words."""

import math
from dataclasses import fields

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import separatrix as sx

BRIEF = {"steps": 60, "settle": 20}


def cell() -> nn.RNN:
    torch.manual_seed(0)
    return nn.RNN(1, 3, batch_first=True).double()


def driven() -> sx.Recurrent:
    return sx.Recurrent(cell(), torch.randn(400, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def ranges() -> sx.System:
    """Hénon's map for three values of a, the last of which sends every orbit away."""
    return sx.classic.henon(a=torch.tensor([1.2, 1.4, 9.0], dtype=torch.float64))


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()


def along() -> sx.results.Along:
    checkpoints = [cell().state_dict(), {name: 1.5 * weight for name, weight in cell().state_dict().items()}]
    return sx.along(checkpoints, sx.fixed_points, build=sx.Recurrent, model=cell())


def separate() -> sx.results.Along:
    """The basins of a unit before and after its pitchfork: one attractor, then two."""
    units = {w: sx.Map(lambda x, w=w: torch.tanh(w * x), 1) for w in (0.5, 2.0)}
    return sx.along(units, lambda unit: sx.basins_of_attraction(unit, torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]))


def widths() -> sx.results.Along:
    networks = {n: nn.Sequential(nn.Linear(2, n), nn.Tanh(), nn.Linear(n, 1)) for n in (4, 8, 16)}
    return sx.along(networks, lambda network: sx.coordinate_sizes(network, torch.randn(3, 2)))


def deceived() -> sx.results.AdversarialImages:
    models = {"one": layers(), "other": nn.Sequential(nn.Tanh(), layers())}
    x = torch.tensor([[0.5, 0.1], [0.2, 0.9]], dtype=torch.float64)
    return sx.bounds.adversarial_images(models, x, torch.tensor([0, 1]), radii=[0.1, 5.0], bounds=None, steps=2, restarts=1)


def turning() -> Tensor:
    """A point on the unit circle, sampled."""
    t = 0.1 * torch.arange(30, dtype=torch.float64)
    return torch.stack([t.cos(), t.sin()], dim=-1)


def robust() -> sx.results.Robustness:
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = (torch.arange(20) % 5 == 0).long()
    return sx.bounds.robustness(layers(), x, labels, lipschitz=5.0, radii=[0.05, 0.5], bounds=None, steps=2, restarts=1)


def sparse() -> sx.results.SparseTerms:
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.stack([x, 1.1 * x, x * float("nan")])
    return sx.sparse_terms(values, x)


def fitted() -> sx.results.ObservationFit:
    x0, times = torch.ones(2, dtype=torch.float64), torch.linspace(0, 1, 5)
    return sx.nn.fit_observations(layers(), torch.ones(5, 2), x0=x0, times=times, dt=0.25, max_steps=3)


def trained() -> sx.results.Curvature:
    model, x = layers(), torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = sx.training.Batches(x, x, size=4)
    return sx.curvature(sx.Training(model, nn.MSELoss(), data, torch.optim.Adam(model.parameters())), k=2, batches=2)


MADE = {
    sx.results.LyapunovSpectrum: lambda: sx.lyapunov_spectrum(ranges(), check=True, **BRIEF),
    sx.results.PooledSpectrum: lambda: sx.lyapunov_spectrum(ranges(), **BRIEF).pooled(),
    sx.results.DivergenceRate: lambda: sx.divergence_rate(ranges(), **BRIEF),
    sx.results.CovariantVectors: lambda: sx.covariant_lyapunov_vectors(ranges(), **BRIEF),
    sx.results.FiniteTimeField: lambda: sx.finite_time_lyapunov(sx.classic.henon(), sx.grid((-1, -1), (1, 1), (4, 5)), steps=3),
    sx.results.Propagation: lambda: sx.gradient_propagation(driven(), lags=[1, 5, 20]),
    sx.results.FixedPoints: lambda: sx.fixed_points(sx.classic.henon(), starts=16),
    sx.results.PhasePortrait: lambda: sx.phase_portrait(sx.classic.pendulum(), resolution=12, steps=20),
    sx.results.FlowMap: lambda: sx.flow_map(layers(), sx.grid((-1, -1), (1, 1), (4, 5))),
    sx.results.CorrelationDimension: lambda: sx.correlation_dimension(sx.classic.henon(), steps=2_000),
    sx.results.PowerSpectrum: lambda: sx.power_spectrum(ranges(), steps=512, settle=20),
    sx.results.EchoState: lambda: sx.echo_state(driven(), starts=4, steps=100),
    sx.results.TransientGrowth: lambda: sx.transient_growth(ranges(), steps=10),
    sx.results.MemoryCapacity: lambda: sx.memory_capacity(driven(), max_lag=5, steps=300),
    sx.results.Basins: lambda: sx.basins_of_attraction(
        sx.classic.henon(), sx.grid((-1, -1), (1, 1), (6, 6)), steps=200, max_steps=2_000
    ),
    sx.results.ReturnMap: lambda: sx.return_map(sx.classic.lorenz63(), steps=20, settle=5),
    sx.results.OrbitDiagram: lambda: sx.orbit_diagram(sx.classic.logistic(), "r", torch.linspace(3, 4.5, 4), steps=20, settle=100),
    sx.results.Branch: lambda: sx.continuation(sx.classic.logistic(), "r", 2.5, 3.2, step_size=0.05),
    sx.results.DepthProfile: lambda: sx.depth_profile(layers(), torch.randn(4, 2)),
    sx.results.DepthPortrait: lambda: sx.analyze(layers(), torch.randn(4, 2)),
    sx.results.RecurrentPortrait: lambda: sx.analyze(cell(), copies=2, also="fixed_points", **BRIEF),
    sx.results.Along: along,
    sx.results.Separate: lambda: separate().result,
    sx.results.Tracks: lambda: along().result,
    sx.results.CoordinateSizes: lambda: sx.coordinate_sizes([layers(), layers()], torch.randn(3, 2)),
    sx.results.WidthScaling: lambda: widths().result,
    sx.results.AdversarialImages: deceived,
    sx.results.Robustness: robust,
    sx.results.Certificate: lambda: sx.certificate(
        torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.GLU()), 3, starts=2, steps=2
    ),
    sx.results.Arrival: lambda: sx.solve_until(
        lambda x: x * x, torch.tensor([[0.5], [1.5], [-1.0]], dtype=torch.float64), lambda x: x[..., 0] - 1, end=1.5
    ),
    sx.results.LogDensity: lambda: sx.nn.ContinuousNormalizingFlow(nn.Tanh(), 2).log_density(torch.randn(4, 2), probes=3),
    sx.results.FlowFit: lambda: sx.nn.fit_flow(layers(), turning(), 0.1, horizon=1, steps=3),
    sx.results.DynamicsComparison: lambda: sx.compare_dynamics(sx.classic.henon(), sx.classic.henon(b=0.25), starts=6, steps=200),
    sx.results.Solution: lambda: sx.solve(lambda x: x * x, torch.tensor([[0.5], [1.5]], dtype=torch.float64), [0.0, 0.5, 1.0]),
    sx.results.StabilityRegion: lambda: sx.stability_region(sx.classic.lorenz63(), torch.ones(2, 3, dtype=torch.float64), steps=20),
    sx.results.StepConvergence: lambda: sx.step_convergence(sx.classic.lorenz63(), torch.ones(2, 3, dtype=torch.float64), steps=10),
    sx.results.SparseTerms: sparse,
    sx.results.ObservationFit: fitted,
    sx.results.Curvature: trained,
    sx.results.Stationarity: lambda: sx.stationarity(torch.randn(400, 2)),
}


@pytest.fixture(scope="module", params=MADE, ids=lambda kind: kind.__name__)
def result(request) -> sx.Result:
    made = MADE[request.param]()
    assert type(made) is request.param
    return made


def subclasses(kind: type) -> set[type]:
    return {below for child in kind.__subclasses__() for below in (child, *subclasses(child))}


def test_every_class_of_results_is_tried_here():
    drawn = {kind for kind in subclasses(sx.Result) if kind.__module__.startswith("separatrix.") and "drawn_by" in vars(kind)}
    assert set(MADE) == drawn


def test_a_result_is_loaded_as_it_was_saved(result, tmp_path):
    assert differs(sx.load(result.save(tmp_path / "r.zarr")), result) == []


def test_a_result_says_itself_in_words_and_not_in_codes(result):
    assert "_" not in result.summary().replace("x_", "") and "tensor(" not in result.summary()
    assert repr(result) == result.summary()


def test_a_result_is_drawn_and_shown_in_a_notebook(result):
    figure = result.plot()
    assert isinstance(figure, Figure) and figure.get_label()
    page = result._repr_html_()
    assert page.count("<svg") == page.count("</svg>") >= 1 and "nan" not in figure.get_label()


def test_a_table_of_a_result_names_its_axes_and_units(result):
    data = result.to_dataset()
    for name in result.layout:
        if getattr(result, name) is not None:
            assert data[name].shape == tuple(getattr(result, name).shape)
            assert data[name].attrs.get("units", "") == result.units.get(name, "").replace("unit time", result.clock)
    assert set(result.units) <= set(result.layout)


def differs(one: object, other: object, name: str = "") -> list[str]:
    """The names of what is not the same in two results, numbers and their kinds, all the way down."""
    if isinstance(other, sx.Result):
        if type(one) is not type(other):
            return [name]
        return [d for f in fields(other) for d in differs(getattr(one, f.name), getattr(other, f.name), f"{name}.{f.name}")]
    if isinstance(other, Tensor):
        same = isinstance(one, Tensor) and one.dtype == other.dtype and one.shape == other.shape
        return (
            []
            if same and torch.equal(one.isnan(), other.isnan()) and torch.equal(one[~one.isnan()], other[~other.isnan()])
            else [name]
        )
    if isinstance(other, dict):
        if not isinstance(one, dict) or list(one) != list(other):
            return [name]
        return [d for key in other for d in differs(one[key], other[key], f"{name}[{key!r}]")]
    if isinstance(other, list | tuple):
        if not isinstance(one, list | tuple) or len(one) != len(other):
            return [name]
        return [d for i, (a, b) in enumerate(zip(one, other, strict=True)) for d in differs(a, b, f"{name}[{i}]")]
    if isinstance(other, float) and math.isnan(other):
        return [] if isinstance(one, float) and math.isnan(one) else [name]
    return [] if one == other and type(one) is type(other) else [name]
