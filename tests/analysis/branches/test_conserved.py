"""Conserved quantities are detected, held along a branch, and varied; folds lie where elimination by hand puts them."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, fsolve
from torch import Tensor

import separatrix as sx
from separatrix.core.components import components


def flow(dim: int, rates, **parameters: float) -> sx.Flow:
    """The flow of (x, parameters) ↦ ẋ, on the components."""

    class Own(sx.Field):
        def __init__(self) -> None:
            super().__init__()
            self.hold(**parameters)

        def forward(self, x: Tensor, t: float) -> Tensor:
            return components(*rates(x.unbind(-1), {name: getattr(self, name) for name in parameters}))

    return sx.Flow(Own(), dim, 0.01)


def state(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def autocatalysis(x, p):
    a, b = x
    rate = p["k"] * a - b * (1 + a)
    return -rate, rate


def switch(x, p):
    """A → B helped by B, and back: bistable for a fixed a + b."""
    a, b = x
    rate = (0.02 + p["k"] * b**2 / (1 + b**2)) * a - b
    return -rate, rate


def enzyme(x, p):
    """S + E ⇌ ES → P + E, and P → S: E + ES and S + ES + P stay."""
    s, e, es, product = x
    binding, making, back = 2 * s * e - es, p["k"] * es, 0.3 * product
    return -binding + back, -binding + making, binding - making, making - back


def product(x, p):
    """A curve of fixed points at each k, on which x y tells them apart: d(x y)/dt = 0."""
    a, b = x
    g = p["k"] - a - 0.5 * b**2
    return a * g, -b * g


def test_a_closed_reaction_has_no_bifurcation_and_keeps_its_total():
    """A ⇌ B at a + b = T rests where  k a = (T − a)(1 + a)."""
    branch = sx.continuation(flow(2, autocatalysis, k=1.0), "k", 0.5, 1.0, state(1.0, 0.5), step_size=0.05)
    k, total = branch.parameters, 1.5
    root = total - 1 - k
    a = (root + (root.square() + 4 * total).sqrt()) / 2
    torch.testing.assert_close(branch.points, torch.stack([a, total - a], -1), rtol=1e-11, atol=0)
    assert (branch.kind, branch.status, branch.conserved) == ((), "ok", ("x[0] + x[1]",))
    rate = -(k + 1 + 2 * a - total)  # d/da of the rate along a + b = T
    torch.testing.assert_close(branch.eigenvalues[:, 0].real, rate, rtol=1e-9, atol=0)
    assert branch.eigenvalues.shape[1] == 1 and bool(branch.stable.all())
    assert branch.totals.tolist() == pytest.approx([1.5], rel=1e-12)


def test_the_total_is_a_parameter():
    """The same at k = 1: (T − a)(1 + a) = a, whatever T."""
    branch = sx.continuation(flow(2, autocatalysis, k=1.0), "total", 0.5, 4.0, state(1.0, 0.5), step_size=0.05)
    total = branch.parameters
    a = ((total - 2) + ((total - 2).square() + 4 * total).sqrt()) / 2
    torch.testing.assert_close(branch.points, torch.stack([a, total - a], -1), rtol=1e-10, atol=0)
    assert branch.kind == () and float(total[0]) == 0.5 and float(total[-1]) == pytest.approx(4.0, abs=1e-12)


def folds_by_hand(curve, low: float, high: float) -> list[float]:
    """Extrema of a parameter as a function of b, in the order of b."""
    b = np.geomspace(low, high, 4_000)

    def slope(at: float) -> float:
        return curve(at * (1 + 1e-6)) - curve(at * (1 - 1e-6))

    signs = np.sign([slope(one) for one in b])
    return [curve(brentq(slope, b[i], b[i + 1], xtol=1e-15)) for i in np.flatnonzero(signs[1:] != signs[:-1])]


@pytest.mark.parametrize("unit", [1e-9, 1e6])
def test_the_folds_of_a_closed_switch_are_those_of_the_equation_left_after_elimination(unit):
    """a = T − b leaves one equation, solved for k, or for T, as a function of b."""

    def scaled(x, p):
        return tuple(unit * one for one in switch(tuple(one / unit for one in x), p))

    by_k = folds_by_hand(lambda b: (b / (3.0 - b) - 0.02) * (1 + b**2) / b**2, 1e-3, 2.9)
    branch = sx.continuation(flow(2, scaled, k=1.0), "k", 0.2, 4.0, unit * state(2.9, 0.1), step_size=0.08)
    assert branch.kind == ("fold", "fold")
    assert branch.bifurcation_parameters.tolist() == pytest.approx(by_k, rel=1e-9)
    torch.testing.assert_close(branch.points.sum(-1), torch.full_like(branch.parameters, 3.0 * unit), rtol=1e-12, atol=0)

    by_total = folds_by_hand(lambda b: b + b / (0.02 + 2.0 * b**2 / (1 + b**2)), 1e-3, 9.0)
    turned = sx.continuation(flow(2, scaled, k=2.0), "total", unit, 6 * unit, unit * state(0.9, 0.1), step_size=0.08)
    assert turned.kind == ("fold", "fold")
    assert (turned.bifurcation_parameters / unit).tolist() == pytest.approx(by_total, rel=1e-9)


def test_an_enzyme_keeps_two_totals_and_either_is_turned():
    system = flow(4, enzyme, k=1.0)

    def by_hand(k: float, enzymes: float, substrate: float) -> np.ndarray:
        def left(y):
            es, p = y
            s, e = substrate - es - p, enzymes - es
            return [2 * s * e - es - k * es, k * es - 0.3 * p]

        es, p = fsolve(left, [0.05 * enzymes, 0.3], xtol=1e-12)
        return np.array([substrate - es - p, enzymes - es, es, p])

    branch = sx.continuation(system, "k", 0.5, 3.0, state(1.0, 0.2, 0.0, 0.0), step_size=0.1)
    assert set(branch.conserved) == {"x[1] + x[2]", "x[0] + x[2] + x[3]"} and branch.kind == ()
    for k, point in zip(branch.parameters.tolist(), branch.points.numpy(), strict=True):
        np.testing.assert_allclose(point, by_hand(k, 0.2, 1.0), rtol=1e-9)
    turned = sx.continuation(system, "total", 0.2, 2.0, state(1.0, 0.2, 0.0, 0.0), total=[0, 1, 1, 0], step_size=0.1)
    for enzymes, point in zip(turned.parameters.tolist(), turned.points.numpy(), strict=True):
        np.testing.assert_allclose(point, by_hand(1.0, enzymes, 1.0), rtol=1e-8)


def test_an_ultrasensitive_switch_is_goldbeter_s_and_koshland_s_function():
    """Goldbeter & Koshland 1981, PNAS 78, 6840: the share of W that is modified, in closed form, at J = 0.01."""
    j = 0.01

    def rates(x, p):
        w, modified = x
        rate = p["v"] * w / (j + w) - modified / (j + modified)
        return -rate, rate

    branch = sx.continuation(flow(2, rates, v=1.0), "v", 0.5, 2.0, state(0.98, 0.02), step_size=0.02)
    v = branch.parameters
    b = 1 - v + j + v * j
    share = 2 * v * j / (b + (b.square() - 4 * (1 - v) * v * j).sqrt())
    torch.testing.assert_close(branch.points[:, 1], share, rtol=1e-8, atol=0)
    assert branch.kind == () and branch.status == "ok"


def test_a_symmetric_closed_network_still_forks():
    """Two patches fed from one pool, a + b + c = T: the symmetric state, a = b, forks where its odd mode's rate is 0."""

    def rates(x, p):
        a, b, c = x
        feed = [c * y * y - y + 0.05 * c for y in (a, b)]
        return feed[0] + 0.02 * (b - a), feed[1] + 0.02 * (a - b), -feed[0] - feed[1]

    branch = sx.continuation(flow(3, rates), "total", 0.5, 2.72, state(0.1, 0.1, 0.3), step_size=0.02)

    def total(a: float) -> float:
        return 2 * a + a / (a * a + 0.05)

    fork = brentq(lambda a: 2 * a * a / (a * a + 0.05) - 1 - 0.04, 0.1, 1.0, xtol=1e-15)
    assert branch.kind[0] == "pitchfork"
    assert branch.bifurcations[0].parameter == pytest.approx(total(fork), rel=1e-9)


def test_a_conserved_product_is_refused_by_name_and_kept_where_it_is_passed():
    system = flow(2, product, k=2.0)
    with pytest.raises(sx.errors.InputError, match=r"k = 2 .*0\.01 .*\n.*total=function"):
        sx.continuation(system, "k", 2.0, 3.0, state(1.0, 0.5))
    branch = sx.continuation(system, "k", 2.0, 3.0, state(1.0, 0.5), total=lambda x: x[0] * x[1], step_size=0.05)
    a, k = branch.points[:, 0], branch.parameters
    torch.testing.assert_close(branch.points.prod(-1), torch.full_like(k, 0.5), rtol=1e-10, atol=0)
    torch.testing.assert_close(a + 0.125 / a**2, k, rtol=1e-10, atol=0)
    assert branch.kind == () and branch.end == "stop"
    turned = sx.continuation(system, "total", 0.5, 1.6, state(1.9, 0.26), total=lambda x: x[0] * x[1], step_size=0.02)
    fold = turned.bifurcations[0]
    assert fold.kind == "fold"  # x y = 2 b − b³/2 is largest at b² = 4/3, where a = 4/3
    assert fold.parameter == pytest.approx(4 / 3 * math.sqrt(4 / 3), rel=1e-9)


def test_a_hamiltonian_system_s_pairs_are_no_hopf_points():
    """The frictionless double well: every pair of rates sums to 0, so no sum changes its sign; it forks at k = 0."""
    well = flow(2, lambda x, p: (x[1], p["k"] * x[0] - x[0] ** 3), k=1.0)
    rest = sx.continuation(well, "k", -1.0, 1.0, state(0.0, 0.0), step_size=0.05)
    assert rest.kind == ("pitchfork",) and rest.bifurcations[0].parameter == pytest.approx(0.0, abs=1e-9)
    centre = sx.continuation(well, "k", 1.0, 2.0, state(1.0, 0.0), step_size=0.05)
    assert centre.kind == () and not bool(centre.stable.any())


@pytest.mark.parametrize(
    ("parameter", "options", "numbers"),
    [
        ("total", {}, r"has 2 .*\n.*total="),
        ("total", {"total": [1, 1, 0, 0]}, r"x\[0\] \+ x\[1\] .*\n.*x\[1\] \+ x\[2\]"),
        ("total", {"total": [1, 1]}, r"\(4,\).*total.*\(2,\)"),
        ("total", {"total": lambda x: x[0] ** 2}, "total is not conserved"),
        ("total", {"total": [0, 1, 1, 0], "direction": [1.0]}, "total.*\n.*direction"),
        ("k", {"scale": -1.0}, r"scale.*-1\.0"),
    ],
)
def test_totals_that_cannot_be_held_are_refused(parameter, options, numbers):
    with pytest.raises(sx.errors.InputError, match=numbers):
        sx.continuation(flow(4, enzyme, k=1.0), parameter, 0.5, 1.0, state(1.0, 0.2, 0.0, 0.0), **options)


def test_a_system_that_conserves_nothing_has_no_total():
    with pytest.raises(sx.errors.InputError, match=r"needs 1 .*has 0 "):
        sx.continuation(sx.classic.lorenz63(), "total", 0.5, 1.0, state(1.0, 1.0, 1.0))
