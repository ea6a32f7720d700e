"""One gene in nanomoles per litre and in moles, in seconds and in years: folds, fixed points and basins are the same."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import separatrix as sx
from separatrix.analysis.driven.responses import attractors
from separatrix.analysis.fixed.guesses import default_guesses
from separatrix.core.components import along_tangents

FOLDS = (5.050510311476148, 1.897211164524679)  # extrema of p(x) = (x − 0.05)(1 + x²)/x²


def gene(unit: float, time: float, turn: float, p: float = 3.0) -> sx.Flow:
    """ẋ = 0.05 K + p K x²/(K² + x²) − x, in units of the state, of time and of p."""

    class Gene(sx.Field):
        def __init__(self) -> None:
            super().__init__()
            self.hold(p=p * turn)

        def forward(self, x: Tensor, t: float) -> Tensor:
            y = x / unit
            return unit * (0.05 + along_tangents(self.p) / turn * y**2 / (1 + y**2) - y) / time

    return sx.Flow(Gene(), 1, 0.05 * time)


UNITS = [(1.0, 1.0, 1.0), (1e-9, 1.0, 1.0), (1e9, 1e-9, 1e6), (1e-6, 1e9, 1e-9)]


@pytest.mark.parametrize(("unit", "time", "turn"), UNITS)
def test_folds_are_where_they_are_in_any_unit(unit, time, turn):
    for x0 in ([0.05 * unit], None) if time == 1 else (None,):
        x0 = None if x0 is None else torch.tensor(x0, dtype=torch.float64)
        branch = sx.continuation(gene(unit, time, turn), "p", 0.2 * turn, 7 * turn, x0, step_size=0.04)
        assert branch.kind == ("fold", "fold") and branch.status == "ok"
        assert (branch.bifurcation_parameters / turn).tolist() == pytest.approx(FOLDS, rel=1e-10)


@pytest.mark.parametrize(("unit", "time", "turn"), UNITS)
def test_fixed_points_and_basins_are_the_same_in_any_unit(unit, time, turn):
    """At p = 3 the cubic  x³ − 3.05 x² + x − 0.05 = 0  has three roots, of which the middle one repels."""
    exact = sorted(np.roots([1, -3.05, 1, -0.05]).real)
    system, states = gene(unit, time, turn), unit * torch.linspace(0, 5, 48, dtype=torch.float64)[:, None]
    found = sx.fixed_points(system, states)
    assert sorted((found.points[:, 0] / unit).tolist()) == pytest.approx(exact, rel=1e-12)
    slope = [2 * 3 * x / (1 + x**2) ** 2 - 1 for x in (found.points[:, 0] / unit).tolist()]
    assert (found.rates[:, 0] * time).tolist() == pytest.approx(slope, rel=1e-9)
    basins = sx.basins_of_attraction(system, states, steps=50)
    assert sorted((basins.attractors[:, 0] / unit).tolist()) == pytest.approx([exact[0], exact[2]], rel=1e-2)
    assert basins.kind == ("equilibrium", "equilibrium")
    beyond = (states[:, 0] / unit > exact[1]).double().mean()
    assert float(basins.fractions.max()) == pytest.approx(float(beyond), abs=1e-12)


def test_numbers_of_very_different_size_each_have_a_unit():
    """A voltage of kilovolts and a concentration of nanomoles per litre: the same two attractors, folds and fixed points."""

    class Both(sx.Field):
        def __init__(self, p: float = 3.0) -> None:
            super().__init__()
            self.hold(p=p)

        def forward(self, x: Tensor, t: float) -> Tensor:
            c, v = (x / torch.tensor([1e-9, 1e3], dtype=x.dtype)).unbind(-1)
            c, v = 0.05 + self.p * v**2 / (1 + v**2) - c, 2 * (c - v)
            return torch.stack([1e-9 * c, 1e3 * v], -1)

    size = torch.tensor([1e-9, 1e3], dtype=torch.float64)
    system = sx.Flow(Both(), 2, 0.05)
    branch = sx.continuation(system, "p", 0.2, 7.0, 0.05 * size, step_size=0.04)
    assert branch.kind == ("fold", "fold")
    assert branch.bifurcation_parameters.tolist() == pytest.approx(FOLDS, rel=1e-9)
    states = size * torch.linspace(0, 5, 24, dtype=torch.float64)[:, None]
    basins = sx.basins_of_attraction(system, states, steps=60)
    assert len(basins.kind) == 2 and float(basins.fractions.sum()) == 1
    found = sx.fixed_points(system, states, scale=size)
    assert len(found.points) == 3 and bool(found.isolated.all())
    torch.testing.assert_close(found.points[:, 0] / 1e-9, found.points[:, 1] / 1e3, rtol=1e-10, atol=0)


def test_a_system_s_own_tangents_are_used_where_automatic_ones_are_not_its_own():
    """A straight-through rounding inside has no derivative that is its own; the field's pushforward says which is meant."""

    class Hard(sx.Field):
        def __init__(self, p: float = 1.0) -> None:
            super().__init__()
            self.hold(p=p)

        def forward(self, x: Tensor, t: float) -> Tensor:
            return along_tangents(self.p) - x.detach() ** 2

        def pushforward(self, x: Tensor, v: Tensor, t: float) -> tuple[Tensor, Tensor]:
            return self(x, t), -2 * x[..., None, :] * v

    system = sx.Flow(Hard(), 1, 0.1)
    branch = sx.continuation(system, "p", 1.0, -1.0, torch.tensor([1.0]), step_size=0.05)
    assert branch.kind == ("fold",) and branch.bifurcations[0].parameter == pytest.approx(0.0, abs=1e-8)
    found = sx.fixed_points(system, torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None])
    assert sorted(found.rates[:, 0].tolist()) == pytest.approx([-2.0, 2.0], rel=1e-9)


@pytest.mark.parametrize(
    "ask",
    [
        lambda z: sx.trajectory(sx.Map(lambda x: x, 2), z, steps=1),
        lambda z: sx.continuation(sx.classic.logistic(), "r", 2.6, 3.0, z),
        lambda z: sx.correlation_dimension_of(z.expand(100, 2)),
    ],
)
def test_complex_states_are_refused_with_the_way_that_keeps_the_imaginary_part(ask):
    with pytest.raises(sx.errors.InputError, match=r"complex128(?s:.*)view_as_real\((x0|points)\)\.flatten\(-2\)"):
        ask(torch.tensor([1 + 2j, 3j], dtype=torch.complex128))


@pytest.mark.parametrize(("unit", "time", "turn"), UNITS)
def test_a_pair_is_born_and_another_lost_along_a_parameter_in_any_unit(unit, time, turn):
    """Between the folds there are three points, beyond them one; those of p = 3 and p = 4 are a fifth of the largest apart."""
    guesses = unit * torch.linspace(0, 8, 48, dtype=torch.float64)[:, None]
    systems = {p: gene(unit, time, 1.0, p) for p in (1.5, 1.8, 2.0, 2.2, 2.5, 3.0, 4.0, 5.0, 5.2)}
    tracks = sx.along(systems, lambda system: sx.fixed_points(system, guesses)).result
    assert [(event.change, event.likely, event.before, event.after) for event in tracks.events] == [
        ("birth", "fold", 1.8, 2.0),
        ("loss", "fold", 5.0, 5.2),
    ]
    assert tracks.points.shape[1] == 3


def test_points_at_zero_to_rounding_are_one_track():
    """A scaled rotation has its fixed point at 0, which is found to within 1e-13 of the guesses' size, each time elsewhere."""
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    systems = [sx.Map(lambda x, r=r: r * x @ turn.mT + 1e-16 * math.sin(90 * r), 2) for r in (0.5, 0.6, 0.7, 0.8)]
    guesses = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tracks = sx.along(systems, lambda system: sx.fixed_points(system, guesses)).result
    assert tracks.points.shape[1] == 1 and not tracks.events


@pytest.mark.parametrize("unit", [1e-12, 1e-9, 1.0, 1e9, 1e12])
def test_attractors_are_told_apart_by_their_moments_in_any_unit(unit):
    """The map x → c tanh(2 x / c) keeps the sign: two attractors."""
    system = sx.Map(lambda x: unit * torch.tanh(2 * x / unit), 1)
    x0 = unit * torch.tensor([[-0.5], [0.3], [0.9], [-0.1]], dtype=torch.float64)
    assert attractors(system, x0, settle=100, steps=64).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_default_guesses_are_as_large_as_orbits_are(unit):
    """Of orbits that begin at 0, and of those that stay where they begin: then by 1, as nothing says more."""
    one, other = (default_guesses(gene(c, 1.0, 1.0), 64, seed=0) / c for c in (1.0, unit))
    torch.testing.assert_close(other, one, rtol=1e-9, atol=0)
    still = default_guesses(sx.Map(lambda x: torch.tanh(x / unit), 1), 64, seed=0)
    assert 0.5 < float(still.abs().max()) < 10


@pytest.mark.parametrize("time", [1e-9, 1.0, 1e9])
def test_a_transient_is_the_same_on_any_clock(time):
    """ẋ = A x / c: abscissas go as 1/c, the peak and Kreiss's constant stay."""
    a = torch.tensor([[-1.0, 8.0], [0.0, -1.5]], dtype=torch.float64)
    growing = torch.tensor([[1e-3, 8.0], [0.0, -1.5]], dtype=torch.float64)
    at = torch.zeros(2, dtype=torch.float64)
    one, other = (sx.transient_growth(sx.Flow(lambda x, c=c: x @ a.mT / c, 2, 0.05 * c), at, steps=200) for c in (1.0, time))
    assert float(other.log_norm.max()) == pytest.approx(float(one.log_norm.max()), rel=1e-9)
    assert float(other.kreiss) == pytest.approx(float(one.kreiss), rel=1e-9)
    assert float(other.spectral_abscissa) * time == pytest.approx(-1.0, rel=1e-9)
    endless = sx.transient_growth(sx.Flow(lambda x: x @ growing.mT / time, 2, 0.05 * time), at, steps=20)
    assert math.isinf(endless.kreiss)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_linear_flows_come_to_rest_and_are_told_apart_in_any_unit(unit):
    """At rest is what moves no more beside the extent of all orbits."""
    x0 = unit * torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = torch.diag(torch.tensor([-1.0, -2.0], dtype=torch.float64))
    flow = sx.Flow(lambda x: x @ matrix + unit, 2, 0.05)
    found = sx.compare_dynamics(flow, flow, x0, steps=400, points=0)
    assert found.resting == (6, 6) and found.left == (0, 0)
