"""Along checkpoints: fixed points that are born, lost and turned at known places, and spectra that are those of lone runs."""

import copy
import math

import pytest
import torch
from scipy.optimize import brentq
from torch import nn

import separatrix as sx
from separatrix import plot


def neuron(w: float) -> sx.Map:
    """The map x ↦ tanh(w x): one fixed point up to w = 1, three beyond."""
    return sx.Map(lambda x: torch.tanh(w * x), 1)


def fold(mu: float) -> sx.Map:
    """The map x ↦ x + μ − x²: fixed points ±√μ."""
    return sx.Map(lambda x: x + mu - x * x, 1)


def hopf(mu: float) -> sx.Flow:
    """The normal form: the origin's eigenvalues are μ ± i."""

    def field(z):
        x, y = z.unbind(-1)
        r = x * x + y * y
        return torch.stack([mu * x - y - x * r, x + mu * y - y * r], -1)

    return sx.Flow(field, 2, 0.1)


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


LINE = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]


def sought(system: sx.System) -> sx.results.FixedPoints:
    return sx.fixed_points(system, LINE)


# ---------------------------------------------------------------- fixed points


def test_a_neurons_memories_are_born_in_a_pitchfork_at_weight_one():
    weights = (0.8, 0.95, 1.02, 1.2, 1.5, 2.0)
    found = sx.along({w: neuron(w) for w in weights}, sought)
    tracks = found.result
    assert found.labels.tolist() == list(weights) and tracks.points.shape == (6, 3, 1)
    (event,) = tracks.events
    assert (event.change, event.likely, event.before, event.after) == ("birth", "pitchfork", 0.95, 1.02)
    assert event.tracks[0] == 0 and tracks.points[:, 0].abs().max() < 1e-9
    for i, w in enumerate(weights[2:], 2):
        exact = brentq(lambda x, w=w: math.tanh(w * x) - x, 1e-3, 1, xtol=1e-14)
        assert sorted(tracks.points[i, 1:, 0].tolist()) == pytest.approx([-exact, exact], abs=1e-10)
        slope = w * (1 - exact**2)
        assert tracks.rates[i, 1:, 0].tolist() == pytest.approx([math.log(slope)] * 2, abs=1e-8)
    assert tracks.stable.tolist() == [[True, False, False]] * 2 + [[False, True, True]] * 4
    assert (tracks.points[2:, 1].diff(dim=0) * tracks.points[2, 1] > 0).all()  # each keeps its side
    assert (tracks.degree == 1).all()


def test_a_pair_is_born_and_lost_in_a_fold_at_zero():
    values = (-0.2, -0.05, 0.04, 0.09, 0.16, 0.04, -0.1)
    tracks = sx.along([fold(mu) for mu in values], sought).result
    assert [(event.change, event.likely, event.before, event.after) for event in tracks.events] == [
        ("birth", "fold", 1, 2),
        ("loss", "fold", 5, 6),
    ]
    assert tracks.points[2:6, :, 0].abs().flatten().tolist() == pytest.approx([0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.2, 0.2], abs=1e-10)
    assert tracks.points[[0, 1, 6]].isnan().all() and (tracks.kind[[0, 1, 6]] == -1).all()
    assert (tracks.degree == 0).all()
    assert "born together: a likely fold (a multiplier is 0.4 from 1)" in tracks.summary()  # 1 − (1 − 2√μ) at μ = 0.04


@pytest.mark.parametrize(
    ("systems", "likely"),
    [
        ({r: sx.classic.logistic(r) for r in (2.8, 2.9, 3.1, 3.2)}, "flip"),  # at r = 3
        ({mu: hopf(mu) for mu in (-0.2, -0.1, 0.1, 0.2)}, "Hopf"),
        ({r: sx.classic.logistic(r) for r in (0.94, 0.97, 1.03, 1.06)}, "transcritical"),  # at r = 1
    ],
    ids=["flip", "Hopf", "transcritical"],
)
def test_a_change_of_stability_is_named_by_the_border_it_crosses(systems, likely):
    dim, labels = next(iter(systems.values())).dim, list(systems)
    guesses = torch.randn(40, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tracks = sx.along(systems, lambda system: sx.fixed_points(system, guesses)).result
    assert {(event.change, event.likely, event.before, event.after) for event in tracks.events} == {
        ("stability", likely, *labels[1:3])
    }
    assert bool(tracks.alive.all())


def test_a_delayed_logistic_map_turns_at_a_neimark_sacker_point():
    """The map x' = a x (1 − y), y' = x loses its fixed point's stability at a = 2 to a pair of multipliers e^{±iπ/3}."""

    def delayed(a):
        return sx.Map(lambda z: torch.stack([a * z[..., 0] * (1 - z[..., 1]), z[..., 0]], -1), 2)

    tracks = sx.along({a: delayed(a) for a in (1.9, 1.95, 2.05, 2.1)}, lambda s: sx.fixed_points(s, numbers(0.5, 0.5)[None])).result
    (event,) = tracks.events
    assert (event.likely, event.before, event.after) == ("Neimark–Sacker", 1.95, 2.05)
    assert tracks.points[:, 0, 0].tolist() == pytest.approx([1 - 1 / a for a in (1.9, 1.95, 2.05, 2.1)])


def crossing(t: float) -> sx.Map:
    """Fixed points at (t, ε), (−t, −ε) and a saddle at the origin, with ε = 0.05: the first coordinates cross at t = 0."""

    def step(z):
        x, y = z.unbind(-1)
        u = y / 0.05
        return torch.stack([0.5 * x + 0.5 * t * u, y + 0.2 * (y - y * u * u)], -1)

    return sx.Map(step, 2)


def test_tracks_that_cross_are_not_swapped():
    """Between −0.1 and 0.15 the nearest point of each is the other: only extrapolation distinguishes them."""
    guesses = sx.grid((-0.6, -0.06), (0.6, 0.06), (7, 7))
    times = (-0.5, -0.3, -0.1, 0.15, 0.35)
    tracks = sx.along({t: crossing(t) for t in times}, lambda system: sx.fixed_points(system, guesses)).result
    assert tracks.points.shape == (5, 3, 2) and not tracks.events
    for track in range(3):
        side = torch.sign((tracks.points[0, track, 1] / 0.05).round())
        assert tracks.points[:, track, 0].tolist() == pytest.approx([float(side) * t for t in times], abs=1e-8)


def test_a_point_farther_than_the_gate_is_another_one():
    systems = [sx.Map(lambda x, a=a: 0.5 * (x + a), 1) for a in (0.0, 0.1, 0.9)]
    near = sx.along(systems, sought, gate=1.0).result
    assert near.points.shape[1] == 1 and near.points[:, 0, 0].tolist() == pytest.approx([0.0, 0.1, 0.9])
    far = sx.along(systems, sought, gate=0.5).result
    assert [(event.change, event.likely) for event in far.events] == [("birth", ""), ("loss", "")]


def test_points_that_a_checkpoints_own_guesses_miss_are_found_from_its_neighbours():
    """On the second and third checkpoints the guesses lead to the positive point alone."""
    weights = (2.0, 2.1, 2.2, 2.3)
    few = iter([LINE, LINE[-1:], LINE[-1:], LINE])
    tracks = sx.along({w: neuron(w) for w in weights}, lambda system: sx.fixed_points(system, next(few))).result
    assert tracks.points.shape[1] == 3 and bool(tracks.alive.all()) and not tracks.events
    few = iter([LINE[-1:], LINE])
    assert sx.along({1.5: neuron(1.5), 1.6: neuron(1.6)}, lambda s: sx.fixed_points(s, next(few))).result.alive.all()


def test_checkpoints_without_any_fixed_point_make_no_tracks():
    found = sx.along([fold(-0.1), fold(-0.2)], sought)
    assert found.result.points.shape == (2, 0, 1) and found.status.tolist() == ["ok", "ok"]
    assert "0 fixed points followed" in repr(found) and "<svg" in plot.svg(found.plot())


# ---------------------------------------------------------------- any analysis


def test_spectra_over_checkpoints_are_those_of_lone_runs_bit_for_bit():
    x0 = numbers(0.1, 0.3)[:, None]
    parameters = {1: 3.5, 2: 3.7, 5: 3.9}
    found = sx.along({e: sx.classic.logistic(r) for e, r in parameters.items()}, lambda s: sx.lyapunov_spectrum(s, x0, steps=300))
    assert isinstance(found.result, sx.results.LyapunovSpectrum) and found.result.batch == (3, 2)
    for i, r in enumerate(parameters.values()):
        alone = sx.lyapunov_spectrum(sx.classic.logistic(r), x0, steps=300)
        for name in ("exponents", "stderr", "kaplan_yorke_dimension", "codes"):
            assert torch.equal(getattr(found.result, name)[i].nan_to_num(), getattr(alone, name).nan_to_num())
        assert torch.equal(found.result.history[: len(alone.history), i], alone.history)


@pytest.mark.parametrize(
    "analysis",
    [
        lambda s: sx.correlation_dimension(s, steps=400),
        lambda s: sx.power_spectrum(s, steps=400),
        lambda s: sx.divergence_rate(s, steps=200),
        lambda s: sx.finite_time_lyapunov(s, steps=20),
        lambda s: sx.gradient_propagation(s, lags=(0, 1, 5)),
        lambda s: sx.lyapunov_spectrum(s, steps=200, check=True),
    ],
    ids=["dimension", "power", "divergence", "field", "propagation", "spectrum"],
)
def test_results_of_any_analysis_are_stacked_and_drawn(analysis, tmp_path):
    found = sx.along({a: sx.classic.henon(a) for a in (1.2, 1.3, 1.4)}, analysis)
    assert found.result.batch == (3,) and found.batch == (3,)
    again = sx.load(found.save(tmp_path / "along"))
    assert isinstance(again, sx.results.Along) and repr(again) == repr(found)
    assert torch.equal(again.result.codes, found.result.codes)
    assert "<svg" in plot.svg(found.plot())


def memory(gain: float) -> nn.RNN:
    torch.manual_seed(0)
    net = nn.RNN(1, 4)
    with torch.no_grad():
        net.weight_hh_l0.mul_(gain)
    return net


def test_state_dicts_go_into_copies_and_the_model_is_left_alone():
    model = memory(1.0)
    checkpoints = {epoch: copy.deepcopy(memory(gain).state_dict()) for epoch, gain in enumerate((1.0, 2.0, 3.0))}
    inputs = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))

    def run():
        return sx.along(
            checkpoints, lambda s: sx.lyapunov_spectrum(s, steps=100), model=model, build=lambda net: sx.Recurrent(net, inputs)
        )

    found = sx.testing.check_module_untouched(model, run)
    for i, gain in enumerate((1.0, 2.0, 3.0)):
        alone = sx.lyapunov_spectrum(sx.Recurrent(memory(gain), inputs), steps=100)
        assert torch.equal(found.result.exponents[i], alone.exponents)


def test_a_checkpoint_with_weights_that_are_not_finite_does_not_stop_the_others():
    gains = (1.0, 1.5, math.nan, 2.0)
    checkpoints = [memory(gain).state_dict() for gain in gains]
    asked = {"model": memory(1.0), "build": lambda net: sx.Recurrent(net)}
    found = sx.along(checkpoints, lambda s: sx.lyapunov_spectrum(s, steps=100), **asked)
    assert found.status[2] == "diverged" and found.result.exponents[2].isnan().all()
    assert not found.result.exponents[[0, 1, 3]].isnan().any()
    ((label, message),) = found.failures
    assert label == "2" and "not finite" in message and message in repr(found)
    points = sx.along(checkpoints, lambda s: sx.fixed_points(s, starts=32), **asked)
    assert points.status.tolist() == ["ok", "ok", "diverged", "ok"]
    assert (points.result.alive.sum(-1) >= 1).tolist() == [True, True, False, True]
    assert points.result.alive[:, 0].tolist() == [True, True, False, True]  # followed past the gap
    with pytest.raises(sx.SeparatrixError, match="not finite"):
        sx.along(checkpoints, sx.lyapunov_spectrum, throw=True, **asked)


def test_a_run_that_diverges_on_one_checkpoint_has_its_status_there():
    found = sx.along([sx.classic.logistic(r) for r in (3.2, 4.5, 3.9)], lambda s: sx.lyapunov_spectrum(s, steps=200))
    with pytest.raises(sx.errors.DivergedError, match=r"1 of 3 items .*\(1,\)"):
        sx.along([sx.classic.logistic(r) for r in (3.2, 4.5, 3.9)], lambda s: sx.lyapunov_spectrum(s, steps=200), throw=True)
    assert found.status[1] == "diverged" and found.result.exponents[:, 0].isnan().tolist() == [False, True, False]


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("checkpoints", "named"),
    [
        ({}, "at least 1 checkpoint, got 0"),
        ([], "at least 1 checkpoint, got 0"),
        (3, "got a int"),
        ({2: 0, 1: 0}, "checkpoint 1 follows 2"),
        ({"a": 0}, "label is 'a'"),
        ({math.nan: 0}, "label is nan"),
        (memory(1.0).state_dict(), "one state dict"),
    ],
)
def test_bad_checkpoints_are_refused(checkpoints, named):
    with pytest.raises(sx.errors.InputError, match=named):
        sx.along(checkpoints, sx.lyapunov_spectrum)


def test_bad_arguments_are_refused():
    with pytest.raises(sx.errors.InputError, match="got 'lyapunov_spectrum'"):
        sx.along([neuron(1.0)], "lyapunov_spectrum")
    with pytest.raises(sx.errors.InputError, match="gate is 0"):
        sx.along([neuron(1.0)], sought, gate=0)
    with pytest.raises(sx.errors.InputError, match="model needs build"):
        sx.along([{}], sought, model=memory(1.0))
    with pytest.raises(sx.errors.UnsupportedModuleError, match="expected a System, got"):
        sx.along([memory(1.0)], sought)
    with pytest.raises(sx.errors.ModelError, match=r"does not fit this RNN: .*weight_ih_l0"):
        sx.along([{}], sought, model=memory(1.0), build=sx.Recurrent)
    with pytest.raises(sx.errors.ModelError, match="Result, got a float"):
        sx.along([neuron(1.0)], lambda system: 1.0)
    with pytest.raises(sx.errors.InputError, match="k is 7"):  # an error of every checkpoint is raised as it is
        sx.along([neuron(1.0), neuron(2.0)], lambda s: sx.lyapunov_spectrum(s, k=7))


# ---------------------------------------------------------------- the record


def test_tracks_are_saved_loaded_and_drawn_with_their_events(tmp_path):
    found = sx.along({w: neuron(w) for w in (0.9, 1.1, 1.3)}, sought)
    again = sx.load(found.save(tmp_path / "along"))
    assert repr(again) == repr(found) and again.result.events == found.result.events
    assert torch.equal(again.result.points.nan_to_num(), found.result.points.nan_to_num())
    figure = found.plot()
    (mark,) = figure.findobj(lambda artist: artist.get_gid() == "event")
    assert list(mark.get_xdata()) == [1.1] * 3
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["attracts", "does not", "birth, pitchfork"]


def test_the_picture_of_spectra_shows_the_leading_exponents_over_the_labels():
    found = sx.along(
        {e: sx.classic.henon(a) for e, a in ((10, 1.2), (20, 1.3), (40, 1.4))}, lambda s: sx.lyapunov_spectrum(s, steps=200)
    )
    figure = found.plot()
    for k in (1, 2):
        (line,) = figure.findobj(lambda artist, k=k: artist.get_gid() == f"exponents {k}")
        assert list(line.get_xdata()) == [10, 20, 40]
        assert list(line.get_ydata()) == pytest.approx(found.result.exponents[:, k - 1].tolist())
    assert figure.axes[0].get_ylabel() == "exponents (nats per unit time)"


def test_a_refused_checkpoint_counts_as_diverged_whatever_the_analysis():
    torch.manual_seed(0)
    good, bad = torch.nn.GRU(2, 4), torch.nn.GRU(2, 4)
    with torch.no_grad():
        bad.weight_hh_l0.fill_(math.nan)
    drive = torch.randn(200, 2)
    echo = sx.along([bad, good], sx.echo_state, build=lambda net: sx.Recurrent(net, drive))
    assert echo.result.verdict.tolist() == ["diverged", "echo state"]
    assert "1 echo state, 1 diverged" in echo.summary()


def test_fixed_points_of_networks_of_two_sizes_are_refused():
    networks = [torch.nn.GRU(2, 4), torch.nn.GRU(2, 5)]
    with pytest.raises(sx.errors.InputError, match="states of 4 and 5 numbers"):
        sx.along(networks, sx.fixed_points, build=lambda net: sx.Recurrent(net, constant=torch.zeros(2)))


def test_results_that_do_not_fit_into_one_batch_are_separate():
    """tanh(w x) has one attractor at w = ½ and two at w = 2; a checkpoint that is refused affects neither."""

    def build(w: float) -> sx.System:
        return sx.Map(lambda x: torch.tanh(w * x), 1)

    grid = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]

    def basins(system: sx.System) -> sx.Result:
        return sx.basins_of_attraction(system, grid)

    found = sx.along({0: 0.5, 1: 2.0}, basins, build=build)
    assert isinstance(found.result, sx.results.Separate)
    assert [len(result.kind) for result in found.result.each.values()] == [1, 2]
    assert found.status.tolist() == ["ok", "ok"]


def test_results_with_different_lags_are_not_stacked():
    lags = iter([(0, 1), (0, 2)])
    found = sx.along([neuron(1.0), neuron(2.0)], lambda s: sx.gradient_propagation(s, lags=next(lags)))
    assert isinstance(found.result, sx.results.Separate)
    assert [result.lags.tolist() for result in found.result.each.values()] == [[0, 1], [0, 2]]
