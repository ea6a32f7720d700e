"""Units of the state and of time are the observer's: numbers that do not depend on them do not change, others go with them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import separatrix as sx
from properties.strategies import SEEDS, fewer, normal, uniform

UNITS = (1e-9, 1e-4, 1.0, 1e3, 1e9)
LARGE = (1.0, 1e3, 1e9)  # tolerances of `fixed_points` are relative to max(1, ‖x‖)


def network(dim: int, gain: float, seed: int):
    w, b = gain / math.sqrt(dim) * normal(seed, dim, dim), 0.2 * normal(seed + 1, dim)
    return lambda x: 0.3 * x + 0.7 * torch.tanh(x @ w.to(x.dtype).mT + b.to(x.dtype))


def rotation(dim: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(seed, dim, dim))[0]


def seen_in(function, unit: float, turn: Tensor):
    """The map in other coordinates, y = c Q x."""
    return lambda y: unit * (function((y / unit) @ turn) @ turn.mT)


def eigenvalue_gap(found: Tensor, wanted: Tensor) -> float:
    """The largest distance between two spectra, matched one to one."""
    cost = (found[:, None] - wanted[None]).abs().numpy()
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].max())


@fewer(8)
@given(st.integers(1, 5), st.sampled_from((0.8, 2.0, 4.0)), SEEDS, st.sampled_from(UNITS))
def test_exponents_do_not_depend_on_the_unit_and_the_axes(dim, gain, seed, unit):
    """The tangent maps are similar: over 160 steps the averages differ by the first frame alone, O(1/T); the check agrees too."""
    function, turn = network(dim, gain, seed), rotation(dim, seed + 7)
    x0 = uniform(seed + 3, dim)
    plain = sx.lyapunov_spectrum(sx.Map(function, dim), x0, steps=160, settle=100)
    other = sx.Map(seen_in(function, unit, turn), dim)
    seen = sx.lyapunov_spectrum(other, unit * (x0 @ turn.mT), steps=160, settle=100, check=True)
    bar = 5 * torch.hypot(plain.stderr, seen.stderr) + 5 / 160
    assert bool(((plain.exponents - seen.exponents).abs() <= bar).all())
    assert not seen.disagreement


@fewer(4)
@given(st.integers(1, 4), st.sampled_from((0.8, 2.0, 4.0)), SEEDS, st.sampled_from(LARGE))
def test_no_fixed_point_is_none_in_any_unit(dim, gain, seed, unit):
    """At each point the map's own step rests, to a billionth of its size; the multipliers are its Jacobian's eigenvalues."""
    function, turn = network(dim, gain, seed), rotation(dim, seed + 7)
    other = seen_in(function, unit, turn)
    found = sx.fixed_points(sx.Map(other, dim), unit * 2 * uniform(seed + 5, 24, dim))
    for point, multipliers in zip(found.points, found.multipliers, strict=True):
        assert float((other(point) - point).abs().max()) <= 1e-9 * max(unit, float(point.abs().max()))
        dense = torch.linalg.eigvals(torch.func.jacrev(other)(point))
        assert eigenvalue_gap(multipliers.to(dense), dense) <= 1e-5 * max(1.0, float(dense.abs().max()))
    plain = sx.fixed_points(sx.Map(function, dim), found.points @ turn / unit)
    assert len(plain.points) == len(found.points)


@fewer(8)
@given(SEEDS, st.sampled_from((1e-3, 0.5, 10.0, 1e6)), st.sampled_from(("rk4", "heun", "implicit_midpoint")))
def test_exponents_are_rates_in_the_unit_of_time(seed, unit, method):
    """With t → c t the field is divided by c and dt multiplied: the very same steps, and exponents 1/c as large."""
    inner = network(3, 2.0, seed)

    def field(x: Tensor) -> Tensor:
        return inner(x) - x

    x0 = uniform(seed, 3)
    plain = sx.lyapunov_spectrum(sx.Flow(field, 3, 0.1, method=method), x0, steps=120, settle=40)
    slow = sx.lyapunov_spectrum(sx.Flow(lambda x: field(x) / unit, 3, 0.1 * unit, method=method), x0, steps=120, settle=40)
    size = float(plain.exponents.abs().max())
    torch.testing.assert_close(slow.exponents * unit, plain.exponents, rtol=1e-6, atol=1e-7 * max(1.0, size))
    assert slow.status == plain.status


@pytest.mark.parametrize("unit", UNITS[::2])
def test_what_an_orbit_settles_on_does_not_depend_on_the_unit(unit):
    """The logistic map, at cycles of one, two and four steps and in its chaos, with x counted in units of c."""

    class Counted(sx.System):
        def __init__(self, r: float = 3.0) -> None:
            super().__init__(dim=1, start=(0.3 * unit,))
            self.hold(r=r)

        def step(self, x: Tensor, n: int = 0) -> Tensor:
            r = torch.as_tensor(self.r)[..., None]
            return unit * (r * (x / unit) * (1 - x / unit))

    diagram = sx.orbit_diagram(Counted(), "r", [2.5, 3.2, 3.5, 3.9])
    assert diagram.periods.flatten().tolist() == [1, 2, 4, 0]
    chaos = Counted(3.9)
    shape = sx.correlation_dimension(chaos, steps=800)
    assert shape.status != "ok" or shape.dimension > 0.5
    assert sx.power_spectrum(chaos, steps=800).verdict == "chaotic"


@given(SEEDS, st.integers(2, 6))
def test_the_points_found_do_not_depend_on_the_order_of_the_guesses(seed, count):
    """Guesses in another order, and twice: the same set of points, to what counts as one.

    Without paths, of which every other one is followed to its second zero: there, more guesses may find more.
    """
    function = network(2, 3.0, seed)
    guesses = 2 * uniform(seed + 5, count, 2)
    first = sx.fixed_points(sx.Map(function, 2), guesses, path_steps=0)
    again = sx.fixed_points(sx.Map(function, 2), torch.cat([guesses.flip(0), guesses]), path_steps=0)
    assert len(first.points) == len(again.points)
    for point in first.points:
        assert float((again.points - point).abs().amax(-1).min()) <= 1e-6


@pytest.mark.parametrize("unit", [1e-30, 1e-9, 1e-4, 1.0, 1e4, 1e9, 1e30])
def test_no_unit_hides_fixed_points(unit):
    """A map with the three fixed points −1, 0, 1, x' = 1.5 x − 0.5 x³, with x counted in another unit: multipliers 0, 1.5, 0."""
    found = sx.fixed_points(sx.Map(lambda x: 1.5 * x - 0.5 * x * (x / unit) ** 2, 1), unit * uniform(0, 24, 1))
    assert sorted((found.points[:, 0] / unit).round(decimals=6).tolist()) == [-1.0, 0.0, 1.0]
    assert sorted(found.multipliers.abs()[:, 0].tolist()) == pytest.approx([0.0, 0.0, 1.5], abs=1e-6)
    assert bool(found.isolated.all()) and float(found.errors.max()) <= 1e-12 * unit
