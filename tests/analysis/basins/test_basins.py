"""Basins against closed forms: borders that are known, symmetries, cycles of known period, entropies and exponents of borders."""

import math

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.analysis.basins.borders import entropy_of, lattice_errors, uncertainty_of


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def squaring(x: torch.Tensor) -> torch.Tensor:
    """The map z → z² on the plane."""
    p, q = x.unbind(-1)
    return torch.stack([p * p - q * q, 2 * p * q], dim=-1)


def bistable() -> sx.Flow:
    return sx.Flow(lambda x: x - x**3, 1, 0.05)


def rings(x: torch.Tensor) -> torch.Tensor:
    """ṙ = −(r−1)(r−2)(r−3) r, θ̇ = 1: cycles of period 2π at r = 1 and 3, and the border r = 2 between them."""
    r = x.norm(dim=-1, keepdim=True)
    p, q = x.unbind(-1)
    return -(r - 1) * (r - 2) * (r - 3) * x + torch.stack([-q, p], dim=-1)


def exits_of_a_cantor_set(x: torch.Tensor) -> torch.Tensor:
    """Both outer thirds of [0, 1] go over all of it; the halves of the middle third go to rest at 2 and at 3."""
    middle = torch.where(x < 0.5, 2.0, 3.0)
    inside = torch.where(x < 1 / 3, 3 * x, torch.where(x > 2 / 3, 3 * x - 2, middle))
    return torch.where(x > 1, x.round() + 0.1 * (x - x.round()), inside)


def hopfield(patterns: torch.Tensor, gain: float) -> sx.Recurrent:
    units = patterns.shape[1]
    module = nn.RNN(1, units, bias=False, dtype=torch.float64)
    with torch.no_grad():
        module.weight_hh_l0.copy_(gain / units * patterns.mT @ patterns)
    return sx.Recurrent(module)


def test_two_wells_have_half_the_states_each_and_the_border_itself_none():
    x0 = torch.cat([-(x := 2 * uniform(60, 1) + 1e-9), x, torch.zeros(1, 1, dtype=torch.float64)])
    basins = sx.basins_of_attraction(bistable(), x0)
    assert basins.kind == ("equilibrium", "equilibrium")
    assert basins.attractors.flatten().tolist() == pytest.approx([-1, 1], abs=1e-9)
    assert basins.labels.tolist() == [0] * 60 + [1] * 60 + [-1]
    assert basins.fractions.tolist() == [60 / 121] * 2
    assert basins.status[-1] == "not_converged" and basins.undecided == pytest.approx(1 / 121)
    assert basins.stderr[0] == pytest.approx(math.sqrt(60 / 121 * 61 / 121 / 121))
    assert "0.00826 of the states not converged" in str(basins)


def test_the_unit_disc_is_the_basin_of_zero_under_squaring_and_all_else_diverges():
    x0 = sx.grid((-1.503, -1.503), (1.497, 1.497), (151, 151))
    basins = sx.basins_of_attraction(sx.Map(squaring, 2), x0)
    inside = x0.norm(dim=-1) < 1
    assert torch.equal(basins.labels == 0, inside)
    assert torch.equal(basins.codes == sx.Status.DIVERGED, ~inside)
    step = 3 / 150
    assert basins.fractions[0] == pytest.approx(math.pi / (151 * step) ** 2, abs=4 * float(basins.stderr[0]))
    assert basins.diverged == pytest.approx(1 - float(basins.fractions[0]))


def test_newtons_method_has_a_third_of_a_round_domain_each():
    """Of z³ = 1, by the symmetry of a third of a turn, by which the states are three copies of one set."""
    radius, angle = uniform(2, 300)
    turns = 2 * math.pi / 3 * torch.arange(3, dtype=torch.float64)
    z = torch.polar(2 * radius.sqrt() + 0.01, 2 * math.pi * angle) * torch.polar(torch.ones_like(turns), turns)[:, None]

    def newton(x):
        z = torch.complex(*x.unbind(-1))
        return torch.view_as_real(z - (z**3 - 1) / (3 * z**2))

    basins = sx.basins_of_attraction(sx.Map(newton, 2), torch.view_as_real(z))
    roots = torch.complex(*basins.attractors.unbind(-1))
    assert (roots**3 - 1).abs().max() < 1e-12
    assert basins.fractions.tolist() == [1 / 3] * 3
    reached = roots[basins.labels]
    assert (reached[1] - reached[0] * roots[0] ** 0 * torch.polar(torch.ones_like(turns), turns)[1]).abs().max() < 1e-12
    assert (reached[0, :10] - newton_by_hand(z[0, :10])).abs().max() < 1e-12


def newton_by_hand(z: torch.Tensor) -> torch.Tensor:
    for _ in range(200):
        z = z - (z**3 - 1) / (3 * z**2)
    return z


def test_nested_cycles_are_distinguished_whatever_their_phase():
    """The step is a hundredth of the period, so that no two orbits ever visit the same states."""
    angle = 2 * math.pi * uniform(200)
    r = torch.cat([0.1 + 1.85 * uniform(100), 2.05 + 2 * uniform(100)])
    x0 = r[:, None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
    basins = sx.basins_of_attraction(sx.Flow(rings, 2, math.pi / 50), x0)
    assert basins.kind == ("cycle", "cycle")
    assert basins.period.tolist() == pytest.approx([2 * math.pi] * 2, rel=1e-4)  # a parabola's vertex, and RK4's own error
    assert basins.labels.tolist() == [0] * 100 + [1] * 100
    assert basins.orbits.norm(dim=-1).mean(-1).tolist() == pytest.approx([1, 3], abs=1e-3)


@pytest.mark.parametrize(("r", "period"), [(2.8, 0), (3.2, 2), (3.5, 4), (3.83, 3)])
def test_a_cycle_of_a_map_is_one_attractor_with_its_period(r, period):
    """Even if the period divides the sampling interval, so that the samples look like a fixed point."""
    basins = sx.basins_of_attraction(sx.classic.logistic(r=r), uniform(40, 1))
    assert basins.fractions.tolist() == [1] and basins.period.tolist() == [period]


def test_a_strange_attractor_is_one_and_chaotic_with_the_exponent_of_its_spectrum():
    """Sprott 2005: λ₁ = 0.4192 for Hénon's map."""
    x0 = sx.grid((-0.5, -0.5), (0.5, 0.5), (8, 8))
    basins = sx.basins_of_attraction(sx.classic.henon(), x0)
    assert basins.kind == ("chaotic",)
    assert torch.equal(basins.labels == 0, sx.trajectory(sx.classic.henon(), x0, 500)[-1].isfinite().all(-1))
    assert float(basins.rate[0]) == pytest.approx(0.4192, abs=4 * float(basins.rate_stderr[0]))
    assert basins.period.isnan().all()


def test_a_torus_that_attracts_is_quasi_periodic():
    """Two angles turned by the golden and the silver mean, each on the unit circle to which its radius comes."""
    turns = torch.tensor([(5**0.5 - 1) / 2, 2**0.5 - 1], dtype=torch.float64)

    def torus(x):
        z = torch.view_as_complex(x.unflatten(-1, (2, 2)))
        z = torch.polar(z.abs().sqrt(), z.angle() + 2 * math.pi * turns)
        return torch.view_as_real(z).flatten(-2)

    basins = sx.basins_of_attraction(sx.Map(torus, 4), 0.2 + uniform(20, 4))
    assert basins.kind == ("quasi-periodic",) and basins.fractions.tolist() == [1]
    assert abs(float(basins.rate[0])) < 1e-2


def test_a_network_reaches_a_pattern_as_often_as_its_negative():
    """As h ← tanh(W h) is odd. Patterns at right angles, of gain 2, have ends ±m p with m = tanh(2 m)."""
    signs = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1]], dtype=torch.float64).repeat(1, 8)
    half = 2 * uniform(150, 32) - 1
    basins = sx.basins_of_attraction(hopfield(signs, 2.0), torch.stack([half, -half]))
    m = 1.0
    for _ in range(200):
        m = math.tanh(2 * m)
    overlap = basins.attractors @ signs.mT / 32
    assert overlap.abs().amax(-1).tolist() == pytest.approx([m] * 6, abs=1e-9)
    assert torch.allclose(basins.attractors[basins.labels[0]], -basins.attractors[basins.labels[1]], atol=1e-9)
    best = (half @ signs.mT).abs().argmax(-1)
    own = overlap[basins.labels[0]].abs().argmax(-1)
    assert (own == best).double().mean() > 0.95  # the nearest pattern, unless two are about as near


@pytest.mark.long
def test_the_magnetic_pendulum_turns_with_its_three_magnets():
    """A state turned by a third of a turn reaches the next magnet, but for the few on a border that rounding decides."""
    p = 0.2 + uniform(60, 2)
    states = []
    for i in range(3):
        c, s = math.cos(2 * math.pi * i / 3), math.sin(2 * math.pi * i / 3)
        states.append(torch.stack([c * p[:, 0] - s * p[:, 1], s * p[:, 0] + c * p[:, 1]], -1))
    places = torch.stack(states)
    basins = sx.basins_of_attraction(sx.classic.magnetic_pendulum(dt=0.05), torch.cat([places, torch.zeros_like(places)], -1))
    assert basins.kind == ("equilibrium",) * 3
    angle = torch.atan2(basins.attractors[:, 1], basins.attractors[:, 0]) / (2 * math.pi / 3)
    assert (angle - angle.round()).abs().max() < 1e-6
    magnet = angle.round().long()[basins.labels] % 3
    assert ((magnet[1] - magnet[0]) % 3 == 1).double().mean() > 0.9
    assert ((magnet[2] - magnet[0]) % 3 == 2).double().mean() > 0.9


def test_without_an_attractor_all_states_are_undecided():
    """A rotation by one radian keeps every circle."""
    c, s = math.cos(1), math.sin(1)
    turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    basins = sx.basins_of_attraction(sx.Map(lambda x: x @ turn.mT, 2), sx.grid((-1, -1), (1, 1), (4, 4)), max_steps=9_000)
    assert basins.kind == () and basins.undecided == 1
    assert "0 attractors" in str(basins)


def test_a_saddle_is_not_an_attractor():
    """States on the stable line of a saddle of (x − x³, −y), exactly, are undecided; their neighbours are not."""
    flow = sx.Flow(lambda x: torch.stack([x[..., 0] - x[..., 0] ** 3, -x[..., 1]], -1), 2, 0.05)
    x0 = torch.tensor([[0.0, 1], [0, -2], [1e-3, 1], [-1e-3, -2]], dtype=torch.float64)
    assert sx.basins_of_attraction(flow, x0).status.tolist() == ["not_converged", "not_converged", "ok", "ok"]


def test_a_force_that_repeats_is_seen_once_a_period():
    """A damped spring under cos t is where its force leaves it: one attractor, at the amplitude of the exact response."""
    forced = sx.classic.duffing(delta=0.5, alpha=2.0, beta=0.0, gamma=1.0, omega=1.0, dt=2 * math.pi / 40)
    with pytest.raises(sx.errors.InputError, match="steps 0 and 1"):
        sx.basins_of_attraction(forced)
    basins = sx.basins_of_attraction(sx.Iterate(forced, 40), sx.grid((-1, -1), (1, 1), (3, 3)), steps=20)
    response = 1 / complex(2 - 1, 0.5)  # x = Re(response e^{it}), seen at t = 0
    assert basins.kind == ("fixed point",) and basins.fractions.tolist() == [1]
    assert basins.attractors[0].tolist() == pytest.approx([response.real, (1j * response).real], abs=1e-4)  # RK4 at 40 steps a turn


def test_the_entropy_of_a_half_plane_is_its_borders():
    """Boxes of 4 over a border through their middle hold half each, S = ln 2; over all offsets, −Σ p ln p of 1/4, 1/2, 3/4."""
    labels = (torch.arange(42) >= 21).long().expand(42, 42)
    entropy = entropy_of(labels, 4)

    def h(p):
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    assert entropy.boundary == pytest.approx((h(1 / 4) + h(1 / 2) + h(3 / 4)) / 3)
    assert not entropy.is_fractal


def test_the_entropy_of_a_checkerboard_is_ln_2_and_of_random_labels_that_of_their_number():
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    board = entropy_of((rows + columns) % 2, 4)
    assert (board.value, board.boundary, board.stderr) == pytest.approx((math.log(2), math.log(2), 0), abs=1e-12)
    drawn = torch.randint(5, (300, 300), generator=torch.Generator().manual_seed(0))
    noise = entropy_of(drawn, 20)
    bias = (5 - 1) / (2 * 20**2)  # of an entropy from 400 draws: Miller 1955
    assert noise.value == pytest.approx(math.log(5) - bias, abs=1e-3)
    assert noise.is_fractal


def test_undecided_states_are_left_out_of_their_boxes():
    labels = torch.zeros(20, 20, dtype=torch.int64)
    labels[::2] = -1
    assert entropy_of(labels, 4).value == 0


def test_a_smooth_border_has_the_uncertainty_exponent_one_and_noise_has_zero():
    """Of a straight border at a slope, f(ε) is proportional to ε; of random labels it is the same for all ε."""
    x, y = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    smooth = uncertainty_of((3 * x + 5 * y > 1000).long())
    assert smooth.value == pytest.approx(1, abs=0.03)  # the stairs of the smallest shifts
    assert smooth.dimension == pytest.approx(1, abs=0.03)
    drawn = torch.randint(2, (256, 256), generator=torch.Generator().manual_seed(0))
    assert uncertainty_of(drawn).value == pytest.approx(0, abs=0.02)


def test_the_border_of_a_cantor_sets_exits_has_its_dimension():
    """It is ln 2 / ln 3, so α = 1 − ln 2 / ln 3 = 0.369; ε runs over four octaves and f wavers with the factor 3 of the set."""
    basins = sx.basins_of_attraction(sx.Map(exits_of_a_cantor_set, 1), sx.grid((0.0003,), (0.9998,), (8_000,)))
    assert basins.attractors.flatten().sort().values.tolist() == pytest.approx([2, 3])
    assert basins.fractions.tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    exponent = basins.uncertainty_exponent()
    assert exponent.value == pytest.approx(1 - math.log(2) / math.log(3), abs=0.03)
    assert exponent.dimension == pytest.approx(math.log(2) / math.log(3), abs=0.03)


def test_the_error_of_a_lattice_is_that_of_a_disc_over_many_offsets():
    """Lattice points in a disc: the spread over random offsets against the standard error."""
    errors, stderrs = [], []
    for seed in range(100):
        offset = uniform(2, seed=seed)
        points = sx.grid((-20, -20), (20, 20), (41, 41)) + offset
        inside = (points.norm(dim=-1) < 15.0).long() - 1
        errors.append(float((inside == 0).double().mean()) - math.pi * 15**2 / 41**2)
        stderrs.append(float(lattice_errors(inside, 1)[0]))
    spread = torch.tensor(errors, dtype=torch.float64).square().mean().sqrt()
    assert 0.5 < float(spread) / (sum(stderrs) / 100) < 2


def test_only_a_lattice_has_an_entropy():
    scattered = sx.basins_of_attraction(bistable(), uniform(30, 1))
    assert not scattered.is_grid
    with pytest.raises(sx.errors.InputError, match=r"sx\.grid"):
        scattered.entropy()
    lattice = sx.basins_of_attraction(bistable(), sx.grid((-1.01,), (1.0,), (40,)))
    assert lattice.is_grid
    assert lattice.basin_entropy == lattice.entropy(5).value
    assert lattice.boundary_basin_entropy <= math.log(2) + 1e-12
    with pytest.raises(sx.errors.InputError, match=r"box is 1; .* 2 to 40"):
        lattice.entropy(1)


@pytest.mark.parametrize(
    ("bad", "numbers"),
    [
        ({"steps": 3}, "steps is 3; .* 8"),
        ({"distinct": 0.0}, "distinct.* 0"),
        ({"distinct": math.nan}, "distinct.* nan"),
        ({"max_steps": 2_000}, "max_steps.* 3000.* 2000"),
        ({"settle": -1}, "settle.* -1"),
        ({"seed": -1}, "seed.* -1"),
        ({"steps": 2.5}, r"steps.* 2\.5"),
        ({"x0": torch.tensor([math.nan])}, "x0"),
        ({"x0": torch.zeros(0, 1)}, r"x0.*\(0, 1\)"),
    ],
)
def test_bad_input_is_refused(bad, numbers):
    with pytest.raises(sx.errors.InputError, match=numbers):
        sx.basins_of_attraction(bistable(), **bad)


def test_a_batch_of_systems_is_refused():
    with pytest.raises(sx.errors.ShapeError, match=r"\(2,\)"):
        sx.basins_of_attraction(sx.classic.logistic(r=torch.tensor([3.2, 3.5])))


def test_throw_raises_for_states_that_diverge_or_reach_no_attractor():
    with pytest.raises(sx.errors.DivergedError, match="1 of 2 items"):
        sx.basins_of_attraction(sx.Map(squaring, 2), torch.tensor([[0.1, 0], [2, 0]], dtype=torch.float64), throw=True)
    with pytest.raises(sx.errors.NotConvergedError, match="1 of 1 item"):
        sx.basins_of_attraction(bistable(), torch.zeros(1, 1, dtype=torch.float64), throw=True)


def test_the_summary_omits_the_entropy_if_all_states_are_undecided():
    basins = sx.basins_of_attraction(sx.Map(lambda x: x, 1), sx.grid((-1.0,), (1.0,), (40,)))
    assert str(basins).splitlines() == ["0 attractors reached from 40 states", "all of the states not converged"]


def test_the_result_is_saved_and_loaded(tmp_path):
    basins = sx.basins_of_attraction(bistable(), sx.grid((-1.01,), (1.0,), (40,)))
    again = sx.load(basins.save(tmp_path / "basins"))
    assert isinstance(again, sx.results.Basins) and repr(again) == repr(basins)
    assert torch.equal(again.labels, basins.labels) and torch.equal(again.attractors, basins.attractors)


def test_the_picture_shows_each_state_where_it_begins():
    basins = sx.basins_of_attraction(sx.Map(squaring, 2), sx.grid((-1.2, -1.5), (1.1, 1.4), (24, 30)))
    figure = basins.plot()
    (mesh,) = figure.findobj(lambda artist: artist.get_gid() == "basins")
    shown = torch.as_tensor(mesh.get_array()).reshape(30, 24).mT
    assert torch.equal(shown == 1, basins.labels == 0)
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("state x₁", "state x₂")
    assert "diverged" in figure.axes[0].get_legend().get_texts()[1].get_text()
    scattered = sx.basins_of_attraction(bistable(), uniform(30, 1)).plot()
    assert [patch.get_width() for patch in scattered.axes[1].patches] == [1.0]
