"""Covariant vectors: eigenvectors where the Jacobian is constant, a flow's velocity, and the two properties that define them."""

import math

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx
from separatrix.analysis.lyapunov import factors
from separatrix.analysis.lyapunov.covariant import sine
from separatrix.core.evolve import begin


def linear(matrix: Tensor) -> sx.Map:
    return sx.Map(lambda x: x @ matrix.mT, dim=len(matrix))


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Henon(sx.System):
    """(p, q) → (1 − 1.4 p² + q, 0.3 p)."""

    def __init__(self) -> None:
        super().__init__(dim=2, start=(0.1, 0.1))

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        p, q = x.unbind(-1)
        return torch.stack([1 - 1.4 * p**2 + q, 0.3 * p], dim=-1)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        dp, dq = v.unbind(-1)
        return self.step(x, n), torch.stack([-2.8 * x[..., :1] * dp + dq, 0.3 * dp], dim=-1)


def driven_gru(size: int = 6, length: int = 900) -> sx.Recurrent:
    torch.manual_seed(0)
    gru = nn.GRU(2, size)
    with torch.no_grad():
        gru.weight_hh_l0.mul_(4)
    return sx.Recurrent(gru, gaussian(length, 2))


RUNS = {
    "henon": (Henon(), {"steps": 1_000}),
    "lorenz63": (sx.classic.lorenz63(), {"steps": 1_500}),
    "driven gru": (driven_gru(), {"steps": 300, "settle": 300, "align": 300}),
}


@pytest.fixture(scope="module", params=RUNS)
def case(request) -> tuple[sx.System, Tensor, dict[str, int], sx.results.CovariantVectors]:
    system, asked = RUNS[request.param]
    x0 = system.initial_state()
    return system, x0, asked, sx.covariant_lyapunov_vectors(system, x0, **asked)


def test_the_dynamics_carry_each_vector_into_the_next(case):
    """By an independent product: every kept vector pushed step by step from its state to the next one."""
    system, _, _, found = case
    assert found.residual.max() < 1e-8
    for v, ahead, x, n in zip(found.vectors[:-1], found.vectors[1:], found.states[:-1], found.at[:-1].tolist(), strict=True):
        for i in range(n, n + found.every):
            x, v = system.pushforward(x, v, i)
        assert sine(v, ahead).max() < 1e-8


@pytest.mark.long
def test_two_seeds_of_frame_and_backward_start_find_the_same_directions(case):
    """Every backward start gives covariant vectors; only the Lyapunov vectors are the same for all starts."""
    system, x0, asked, found = case
    other = sx.covariant_lyapunov_vectors(system, x0, **asked, every=found.every, seed=7)
    torch.testing.assert_close(other.states, found.states, rtol=0, atol=0)
    assert found.status == "ok"
    assert sine(found.vectors, other.vectors).max() < 1e-6  # what `status` asks of the alignment


def test_the_vectors_grow_at_the_exponents_of_the_spectrum(case):
    system, x0, _, found = case
    spectrum = sx.lyapunov_spectrum(system, x0, steps=found.steps, settle=found.settle)
    bound = 4 * (found.stderr.square() + spectrum.stderr.square()).sqrt() + 1e-9
    assert ((found.exponents - spectrum.exponents).abs() < bound).all()


def test_the_vectors_of_a_constant_jacobian_are_its_eigenvectors():
    matrix = torch.tensor([[1.5, 0.7, -0.3], [0.0, 0.8, 0.5], [0.0, 0.0, -0.2]], dtype=torch.float64)
    found = sx.covariant_lyapunov_vectors(linear(matrix), steps=20, settle=80, align=80, every=1)
    for i, value in enumerate((1.5, 0.8, -0.2)):
        _, _, kernel = torch.linalg.svd(matrix - value * torch.eye(3, dtype=torch.float64))
        assert sine(found.vectors[:, i], kernel[-1]).max() < 1e-13
        assert found.exponents[i] == pytest.approx(math.log(abs(value)), abs=1e-13)


def test_the_angle_between_the_subspaces_of_a_constant_jacobian_is_that_of_its_eigenspaces():
    """Eigenvectors: (1, 0, 0, 0), (0, 1, 0, 0) unstable; two others stable, the nearest combination at a known angle."""
    directions = torch.linalg.qr(gaussian(4, 4))[0] + 0.3 * gaussian(4, 4, seed=1)
    matrix = directions @ torch.diag(torch.tensor([3.0, 2.0, 0.5, 0.2], dtype=torch.float64)) @ torch.linalg.inv(directions)
    found = sx.covariant_lyapunov_vectors(linear(matrix), steps=10, settle=100, align=100, every=1)
    unstable, stable = (torch.linalg.qr(part)[0] for part in directions.split(2, dim=1))
    exact = torch.linalg.svdvals(unstable.mT @ stable)[0].acos()
    assert (int(found.unstable), int(found.neutral), int(found.stable)) == (2, 0, 2)
    torch.testing.assert_close(found.angles, exact.expand(10), rtol=0, atol=1e-12)


@pytest.mark.long
def test_the_neutral_vector_of_lorenz_63_is_its_velocity():
    """DF f(x) = f(F(x)) holds for the exact flow; RK4's step keeps it to O(dt⁵) a step, which at dt = 0.004 leaves under 1e-6.

    The vectors align like exp(−0.9 t): 24 units of time leave 4e-10 of what they began with.
    """
    system = sx.classic.lorenz63(dt=0.004)
    found = sx.covariant_lyapunov_vectors(system, k=2, steps=500, settle=4_000, align=6_000, every=25)
    velocity = system.residual(found.states)
    velocity = velocity / velocity.norm(dim=-1, keepdim=True)
    assert sine(found.vectors[:, 1], velocity).max() < 1e-6
    assert found.status == "ok"


def test_henon_comes_near_tangencies_and_a_hyperbolic_map_does_not():
    """The cat map's directions are the same everywhere: those of ((2, 1), (1, 1)), which is symmetric, at a right angle."""
    cat = sx.Map(lambda x: torch.stack([2 * x[..., 0] + x[..., 1], x[..., 0] + x[..., 1]], -1).remainder(1), dim=2)
    start = torch.tensor([0.1, 0.237], dtype=torch.float64)
    straight = sx.covariant_lyapunov_vectors(cat, start, steps=300, settle=50, align=50)
    torch.testing.assert_close(straight.angles, torch.full_like(straight.angles, math.pi / 2), rtol=0, atol=1e-12)
    assert "stays away from 0" in straight.hyperbolicity()
    assert "not hyperbolic" in sx.covariant_lyapunov_vectors(Henon(), steps=1_500).hyperbolicity()


def test_a_run_in_segments_is_bit_for_bit_the_run_held_in_memory(monkeypatch):
    asked = {"steps": 200, "every": 2}
    segments = sx.covariant_lyapunov_vectors(Henon(), **asked)
    monkeypatch.setattr(factors, "segment_length", lambda intervals: intervals)
    whole = sx.covariant_lyapunov_vectors(Henon(), **asked)
    for name in segments.layout:
        assert torch.equal(getattr(segments, name), getattr(whole, name)), name


def test_no_more_fronts_are_held_than_twice_the_root_of_the_intervals():
    run = factors.FactoredRun(begin(Henon(), None).with_tangents(torch.eye(2, dtype=torch.float64)), 1, 1_000)
    for _ in run.forward():
        pass
    assert len(run._checkpoints) + run.segment <= 2 * math.ceil(1_000**0.5)
    assert [stretch.start.n for stretch in run.backward()] == list(range(999, -1, -1))


def test_a_batch_is_its_items_one_by_one():
    starts = torch.tensor([[0.1, 0.1], [0.3, -0.2], [0.0, 0.2]], dtype=torch.float64)
    asked = {"steps": 60, "settle": 60, "align": 60, "every": 2}
    together = sx.covariant_lyapunov_vectors(Henon(), starts, **asked)
    assert together.vectors.shape == (30, 3, 2, 2)
    for i, start in enumerate(starts):
        alone = sx.covariant_lyapunov_vectors(Henon(), start, **asked)
        torch.testing.assert_close(together.vectors[:, i], alone.vectors, rtol=0, atol=1e-9)
        torch.testing.assert_close(together.angles[:, i], alone.angles, rtol=0, atol=1e-9)


def test_the_leading_vectors_are_the_first_of_all():
    system = driven_gru()
    asked = {"steps": 300, "settle": 300, "align": 300, "every": 2}
    every, leading = (sx.covariant_lyapunov_vectors(system, k=k, **asked) for k in (6, 3))
    assert sine(every.vectors[:, :3], leading.vectors).max() < 1e-9


def test_a_singular_jacobian_erases_its_own_vector_and_no_other():
    """Eigenvalues 2, 1/2 and 0: the kernel is forgotten in one step, and cannot be found by going backward."""
    directions = torch.eye(3, dtype=torch.float64) + 0.3 * gaussian(3, 3)
    matrix = directions @ torch.diag(torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64)) @ torch.linalg.inv(directions)
    found = sx.covariant_lyapunov_vectors(linear(matrix), steps=10, settle=60, align=60, every=1)
    assert found.status == "ok"
    assert int(found.rank) == 2
    assert found.exponents[2] == -math.inf
    assert found.vectors[:, 2].isnan().all()
    for i in range(2):
        assert sine(found.vectors[:, i], directions[:, i] / directions[:, i].norm()).max() < 1e-13


def test_vectors_of_a_rotating_pair_do_not_converge():
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.1]], dtype=torch.float64)
    found = sx.covariant_lyapunov_vectors(linear(turn), steps=10, settle=50, align=50, every=1)
    assert found.status == "not_converged"
    assert found.alignment[1] > 1e-3
    assert found.alignment[2] < 1e-12
    assert found.flag[0] > 1e-3
    assert found.flag[2] < 1e-12


@pytest.mark.parametrize(("short", "long"), [("settle", "align"), ("align", "settle")])
def test_the_checks_show_which_of_settle_and_align_is_too_short(short, long):
    """Eigenvalues 1 and 0.9: a misalignment is 0.9ᵗ of what it was, 0.12 after 20 steps and 1e-13 after 280."""
    matrix = torch.tensor([[1.0, 0.5], [0.0, 0.9]], dtype=torch.float64)
    found = sx.covariant_lyapunov_vectors(linear(matrix), steps=10, every=1, **{short: 20, long: 280})
    assert found.status == "not_converged"
    seen = {"settle": found.flag.max(), "align": found.alignment.max()}
    assert seen[short] > 1e-3
    assert seen[long] < 1e-11


def test_throw_raises_where_vectors_are_not_defined():
    """Of a rotation by one radian, a complex pair, only the plane of its two vectors is defined."""
    turn = torch.tensor([[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]], dtype=torch.float64)
    rotation, asked = sx.Map(lambda x: 0.9 * x @ turn.T, 2), {"steps": 50, "settle": 20, "align": 20}
    assert sx.covariant_lyapunov_vectors(rotation, **asked).status == "not_converged"
    with pytest.raises(sx.errors.NotConvergedError, match=r"1 of 1 item (?s:.*)settle \(20\) and align \(20\)"):
        sx.covariant_lyapunov_vectors(rotation, **asked, throw=True)


def test_vectors_are_thinned_out_where_asked_and_the_rest_is_unchanged():
    asked = {"steps": 60, "settle": 30, "align": 30, "every": 1}
    all_of_them, some = (sx.covariant_lyapunov_vectors(Henon(), keep=keep, **asked) for keep in (1, 7))
    assert some.at.tolist() == list(range(30, 90, 7))
    assert torch.equal(some.vectors, all_of_them.vectors[::7])
    assert torch.equal(some.exponents, all_of_them.exponents)


def test_a_result_is_read_back_as_it_was_written(tmp_path):
    found = sx.covariant_lyapunov_vectors(Henon(), steps=60, settle=20, align=20, every=1)
    back = sx.load(found.save(tmp_path / "vectors"))
    assert repr(back) == repr(found)
    for name in found.layout:
        assert torch.equal(getattr(back, name), getattr(found, name)), name


@pytest.mark.parametrize(
    ("asked", "error", "named"),
    [
        ({"steps": 80, "settle": 20, "align": 10}, sx.errors.HorizonError, "settle 20 + steps 80 + align 10 = 110 steps"),
        ({"settle": 60, "align": 60}, sx.errors.HorizonError, "this system can take 100"),
        ({"steps": 0}, sx.errors.InputError, "steps is 0"),
        ({"steps": 10, "align": -1}, sx.errors.InputError, "align is -1"),
        ({"k": 9}, sx.errors.InputError, "k is 9"),
        ({"x0": torch.zeros(0, 6)}, sx.errors.InputError, r"x0 .*shape \(0, 6\)"),
        ({"every": 0}, sx.errors.InputError, "every is 0"),
        ({"keep": 0}, sx.errors.InputError, "keep is 0"),
    ],
)
def test_bad_arguments_are_refused_by_name(asked, error, named):
    with pytest.raises(error, match=named.replace("+", r"\+")):
        sx.covariant_lyapunov_vectors(driven_gru(length=100), **asked)


@pytest.mark.parametrize("length", [1, 2, 5, 100])
def test_the_defaults_fit_into_any_horizon(length):
    found = sx.covariant_lyapunov_vectors(driven_gru(length=length))
    assert found.settle + found.steps + found.align <= length
    assert len(found.vectors) >= 1


def test_the_picture_shows_the_smallest_angle_and_both_directions():
    found = sx.covariant_lyapunov_vectors(Henon(), steps=60, settle=20, align=20, every=1)
    directions, angles = found.plot().axes
    (smallest,) = (line for line in angles.lines if line.get_gid() == "smallest")
    assert smallest.get_xdata()[0] == pytest.approx(float(found.angles.min()))
    assert sum(bar.get_height() for bar in angles.patches) == 60
    assert [len(lines.get_segments()) for lines in directions.collections] == [60, 60]
    (start, end), state = directions.collections[0].get_segments()[0], found.states[0]
    assert (start + end) / 2 == pytest.approx(state.numpy())
    assert (end - start) @ [-found.vectors[0, 0, 1], found.vectors[0, 0, 0]] == pytest.approx(0, abs=1e-12)


def test_a_network_without_unstable_directions_has_a_picture_that_says_so():
    found = sx.covariant_lyapunov_vectors(linear(0.5 * torch.eye(4, dtype=torch.float64)), steps=10)
    (axes,) = found.plot().axes
    assert "no angle" in axes.texts[0].get_text()
