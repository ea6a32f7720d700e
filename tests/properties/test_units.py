"""Fixed points, branches, basins and dimensions of random fields in random units of state, time and parameter, and turned axes."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import separatrix as sx
from properties.strategies import SEEDS, fewer, normal, uniform
from separatrix.core.components import along_tangents

UNITS = st.sampled_from((1e-9, 3e-7, 1e-4, 0.02, 1.0, 70.0, 1e3, 2e6, 1e9))


class Units:
    """y = c Q x in time c_t t, with the parameter counted in units of c_p."""

    def __init__(self, dim: int, seed: int, size: float, time: float, turn: float, *, rotates: bool) -> None:
        self.size, self.time, self.turn = size, time, turn
        self.axes = torch.linalg.qr(normal(seed + 7, dim, dim))[0] if rotates else torch.eye(dim, dtype=torch.float64)

    def seen(self, x: Tensor) -> Tensor:
        return self.size * (x @ self.axes.mT)

    def meant(self, y: Tensor) -> Tensor:
        return (y / self.size) @ self.axes


def network(dim: int, seed: int, units: Units, p: float = 0.0, dt: float = 0.1) -> sx.Flow:
    """ẋ = −x + W tanh(x + p u) + b, of gain 2, in the given units: bistable or turning for many seeds."""
    w, u, b = 2 / dim**0.5 * normal(seed, dim, dim), normal(seed + 1, dim), 0.3 * normal(seed + 2, dim)

    class Network(sx.Field):
        def __init__(self) -> None:
            super().__init__()
            self.hold(p=p * units.turn)

        def forward(self, y: Tensor, t: float) -> Tensor:
            x = units.meant(y)
            pushed = torch.tanh(x + along_tangents(self.p) / units.turn * u)
            return units.seen(pushed @ w.mT + b - x) / units.time

    return sx.Flow(Network(), dim, dt * units.time)


def same_points(found: Tensor, wanted: Tensor, near: float) -> bool:
    """As sets."""
    if len(found) != len(wanted):
        return False
    apart = (found[:, None] - wanted[None]).norm(dim=-1)
    return not len(found) or bool((apart.amin(0) <= near).all() and (apart.amin(1) <= near).all())


@fewer(4)
@given(st.integers(1, 4), SEEDS, UNITS, UNITS, st.booleans())
def test_fixed_points_are_the_same_in_any_units(dim, seed, size, time, rotates):
    plain, units = (Units(dim, seed, *c, rotates=r) for c, r in (((1.0, 1.0, 1.0), False), ((size, time, 1.0), rotates)))
    guesses = 3 * uniform(seed + 5, 24, dim)
    one = sx.fixed_points(network(dim, seed, plain), guesses)
    other = sx.fixed_points(network(dim, seed, units), units.seen(guesses))
    assert same_points(units.meant(other.points), one.points, 1e-7)
    for point, rates in zip(units.meant(other.points), other.eigenvalues * time, strict=True):
        same = int((one.points - point).norm(dim=-1).argmin())
        torch.testing.assert_close(rates.real, one.eigenvalues[same].real, rtol=1e-6, atol=1e-6)


@fewer(12)
@given(st.integers(1, 3), SEEDS, UNITS, UNITS, UNITS, st.booleans())
def test_branches_are_the_same_in_any_units(dim, seed, size, time, turn, rotates):
    plain = Units(dim, seed, 1.0, 1.0, 1.0, rotates=False)
    units = Units(dim, seed, size, time, turn, rotates=rotates)
    found = sx.fixed_points(network(dim, seed, plain, p=-1.5), 3 * uniform(seed + 5, 24, dim))
    start = found.points[0]
    one, other = (
        sx.continuation(network(dim, seed, each), "p", -1.5 * each.turn, 1.5 * each.turn, each.seen(start), step_size=0.04)
        for each in (plain, units)
    )
    assert other.kind == one.kind and other.end == one.end
    torch.testing.assert_close(other.bifurcation_parameters / turn, one.bifurcation_parameters, rtol=1e-7, atol=1e-7)
    where = units.meant(other.points)
    field = network(dim, seed, plain)
    for point, p in zip(where[::7], (other.parameters / turn)[::7], strict=True):
        assert float(field.at(p=p).residual(point).abs().max()) <= 1e-10
    rates = other.eigenvalues[-1] * time
    torch.testing.assert_close(rates.real.sort().values, one.eigenvalues[-1].real.sort().values, rtol=1e-6, atol=1e-6)


@fewer(8)
@given(SEEDS, UNITS, UNITS, st.booleans())
def test_totals_are_found_and_kept_in_any_units(seed, size, time, scales):
    """A chain of reversible reactions with rates at random, helped by a product: closed, so that w·x stays for its weights w."""
    dim = 3
    rates = normal(seed, 2, 2).exp()
    weights = normal(seed + 3, dim).mul(6 if scales else 0).exp()  # what one counts each species in

    class Chain(sx.Field):
        def __init__(self) -> None:
            super().__init__()
            self.hold(k=1.0)

        def forward(self, y: Tensor, t: float) -> Tensor:
            a, b, c = (y / (size * weights)).unbind(-1)
            first = self.k * rates[0, 0] * a - rates[0, 1] * b
            second = rates[1, 0] * b * (1 + c) - rates[1, 1] * c
            return size * weights * torch.stack([-first, first - second, second], -1) / time

    x0 = size * weights * torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    branch = sx.continuation(sx.Flow(Chain(), dim, 0.1 * time), "k", 0.5, 2.0, x0, step_size=0.1)
    assert len(branch.conserved) == 1 and branch.end == "stop"
    total = (branch.points / (size * weights)).sum(-1)
    torch.testing.assert_close(total, torch.full_like(total, 1.75), rtol=1e-10, atol=0)


@fewer(12)
@given(st.integers(1, 3), SEEDS, UNITS, UNITS, st.booleans())
def test_basins_are_the_same_in_any_units(dim, seed, size, time, rotates):
    """All states but those nearly on a border, which rounding may send to either side."""
    plain, units = Units(dim, seed, 1.0, 1.0, 1.0, rotates=False), Units(dim, seed, size, time, 1.0, rotates=rotates)
    states = 2 * uniform(seed + 5, 24, dim)
    one, other = (
        sx.basins_of_attraction(network(dim, seed, each), each.seen(states), steps=200, max_steps=4_000) for each in (plain, units)
    )
    if one.undecided or "chaotic" in one.kind or "quasi-periodic" in one.kind:
        return
    assert sorted(other.kind) == sorted(one.kind)
    assert float((other.fractions.sort().values - one.fractions.sort().values).abs().max()) <= 1 / 24 + 1e-12
    rest = torch.tensor([kind in ("fixed point", "equilibrium") for kind in one.kind])
    for point in one.attractors[rest]:
        assert float((units.meant(other.attractors) - point).norm(dim=-1).min()) <= 2e-2


@fewer(12)
@given(SEEDS, UNITS, st.booleans())
def test_the_dimension_of_points_is_the_same_in_any_units(seed, size, rotates):
    units = Units(3, seed, size, 1.0, 1.0, rotates=rotates)
    points = torch.cat([uniform(seed, 600, 2), torch.zeros(600, 1, dtype=torch.float64)], -1)
    one, other = sx.correlation_dimension_of(points), sx.correlation_dimension_of(units.seen(points))
    if not rotates:
        assert one.status == other.status
        torch.testing.assert_close(other.dimension, one.dimension, rtol=1e-6, atol=0, equal_nan=True)
    elif one.status == other.status == "ok":  # the radii begin at the extent along the axes, which turns with them
        assert abs(float(other.dimension - one.dimension)) <= 3 * float(one.stderr + other.stderr)


@fewer(4)
@given(st.integers(1, 4), SEEDS, UNITS, UNITS, st.sampled_from(("rk4", "heun", "midpoint", "dopri5")))
def test_trajectories_are_the_same_in_any_units(dim, seed, size, time, method):
    plain, units = (Units(dim, seed, *c, rotates=r) for c, r in (((1.0, 1.0, 1.0), False), ((size, time, 1.0), True)))
    x0 = uniform(seed + 5, dim)
    runs = []
    for each in (plain, units):
        flow = sx.Flow(network(dim, seed, each).field, dim, 0.1 * each.time, method=method)
        runs.append(each.meant(sx.trajectory(flow, each.seen(x0), 10)))
    torch.testing.assert_close(runs[1], runs[0], rtol=1e-9, atol=1e-9)
