"""One gene in nanomoles per litre and in moles, in seconds and in years: folds, rest points and basins are the same."""

import pytest
import torch
from torch import Tensor

import separatrix as sx
from separatrix.system import along_tangents

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
    for x0 in ([0.05 * unit], None):
        x0 = None if x0 is None else torch.tensor(x0, dtype=torch.float64)
        branch = sx.continuation(gene(unit, time, turn), "p", 0.2 * turn, 7 * turn, x0, step=0.04)
        assert branch.kinds == ("fold", "fold") and branch.status == "ok"
        assert (branch.bifurcation_parameters / turn).tolist() == pytest.approx(FOLDS, rel=1e-10)


@pytest.mark.parametrize(("unit", "time", "turn"), UNITS)
def test_rest_points_and_basins_are_the_same_in_any_unit(unit, time, turn):
    """At p = 3 the cubic  x³ − 3.05 x² + x − 0.05 = 0  has three roots, of which the middle one repels."""
    import numpy as np

    exact = sorted(np.roots([1, -3.05, 1, -0.05]).real)
    system, states = gene(unit, time, turn), unit * torch.linspace(0, 5, 48, dtype=torch.float64)[:, None]
    found = sx.fixed_points(system, states)
    assert sorted((found.points[:, 0] / unit).tolist()) == pytest.approx(exact, rel=1e-12)
    slope = [2 * 3 * x / (1 + x**2) ** 2 - 1 for x in (found.points[:, 0] / unit).tolist()]
    assert (found.rates[:, 0] * time).tolist() == pytest.approx(slope, rel=1e-9)
    basins = sx.basins_of_attraction(system, states, steps=50)
    assert sorted((basins.attractors[:, 0] / unit).tolist()) == pytest.approx([exact[0], exact[2]], rel=1e-2)
    assert basins.kind == ("rest point", "rest point")
    beyond = (states[:, 0] / unit > exact[1]).double().mean()
    assert float(basins.fractions.max()) == pytest.approx(float(beyond), abs=1e-12)


def test_numbers_of_very_different_size_each_have_a_unit():
    """A voltage of kilovolts and a concentration of nanomoles per litre: the same two attractors, folds and rest points."""

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
    branch = sx.continuation(system, "p", 0.2, 7.0, 0.05 * size, step=0.04)
    assert branch.kinds == ("fold", "fold")
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
    branch = sx.continuation(system, "p", 1.0, -1.0, torch.tensor([1.0]), step=0.05)
    assert branch.kinds == ("fold",) and branch.bifurcations[0].parameter == pytest.approx(0.0, abs=1e-8)
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
    with pytest.raises(sx.InputError, match=r"complex128(?s:.*)view_as_real\((x0|points)\)\.flatten\(-2\)"):
        ask(torch.tensor([1 + 2j, 3j], dtype=torch.complex128))
