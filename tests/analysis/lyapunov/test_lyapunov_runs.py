"""How a spectrum is run: batches and grids, stopping, failing items, what is refused, what is recorded."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import separatrix as sx
from separatrix.analysis.run.steps import plan_steps


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_grid_of_parameters_is_a_loop():
    """Parameters r (B,) against one x0: each exponent is that of its own logistic map; 2.5 and 3.2 have exact ones."""
    r = torch.tensor([2.5, 3.2, 3.5, 3.9], dtype=torch.float64)
    together = sx.lyapunov_spectrum(sx.classic.logistic(r), torch.tensor([0.4]).double(), steps=1000, settle=500)
    assert together.exponents.shape == (4, 1)
    for i, value in enumerate(r):
        alone = sx.lyapunov_spectrum(sx.classic.logistic(float(value)), torch.tensor([0.4]).double(), steps=1000, settle=500)
        assert float(together.exponents[i]) == pytest.approx(float(alone.exponents), abs=1e-12)
    assert float(together.exponents[0]) == pytest.approx(math.log(0.5), abs=1e-12)  # fixed point 1 − 1/r: slope 2 − r
    assert float(together.exponents[1]) == pytest.approx(math.log(0.16) / 2, abs=1e-12)


def test_a_grid_and_a_batch_of_states_broadcast():
    """Parameters (3, 1) and states (4, dim) make a run of batch (3, 4)."""
    system = sx.classic.henon(a=torch.tensor([1.2, 1.3, 1.4]).double()[:, None])
    spectrum = sx.lyapunov_spectrum(system, 0.1 * seeded(4, 2), steps=200, settle=100)
    assert spectrum.exponents.shape == (3, 4, 2)
    assert spectrum.status.shape == (3, 4)
    assert spectrum.exponents.sum(-1).numpy() == pytest.approx(math.log(0.3), abs=1e-8)


@pytest.mark.parametrize("runs", [3, 20])
def test_an_item_of_a_batch_is_a_run_of_its_own(runs):
    """Lorenz orbits in one run and alone; 20 of them are orthonormalised by another method than 1 or 3."""
    system, x0 = sx.classic.lorenz63(), sx.classic.lorenz63().initial_state((runs,), seed=2)
    together = sx.lyapunov_spectrum(system, x0, steps=400, settle=100)
    for i in range(3):
        alone = sx.lyapunov_spectrum(system, x0[i], steps=400, settle=100)
        assert together.exponents[i].numpy() == pytest.approx(alone.exponents.numpy(), abs=1e-6)


# --- failing items ---------------------------------------------------------------------------------------------------


def step_of_overflow(x: list[float]) -> int:
    """The first step of the Hénon map whose result is not finite, in plain Python."""
    p, q = x
    for n in range(1000):
        p, q = 1 - 1.4 * p * p + q, 0.3 * p
        if not math.isfinite(p):
            return n
    raise AssertionError("this orbit stays")


@pytest.mark.parametrize("every", [1, 5, "auto"])
@pytest.mark.parametrize("settle", [0, 100])
def test_an_item_that_diverges_is_marked_alone_at_its_step(every, settle):
    """Hénon outside its basin: NaN, `diverged`, the step in plain Python; its neighbours as in a run without it."""
    inside, outside = [[0.0, 0.0], [0.1, -0.1]], [3.0, 0.5]
    x0 = torch.tensor([inside[0], outside, inside[1]], dtype=torch.float64)
    spectrum = sx.lyapunov_spectrum(sx.classic.henon(), x0, steps=300, settle=settle, every=every)
    without = sx.lyapunov_spectrum(sx.classic.henon(), x0[[0, 2]], steps=300, settle=settle, every=every)
    assert spectrum.status.tolist()[1] == "diverged"
    assert spectrum.failed_at.tolist() == [-1, step_of_overflow(outside), -1]
    for name in ("exponents", "stderr", "kaplan_yorke_dimension", "entropy"):
        assert getattr(spectrum, name)[1].isnan().all(), name
    assert not spectrum.converged[1]
    assert spectrum.rank.tolist() == [2, 0, 2]
    kept = spectrum.exponents[[0, 2]]
    if every == 1:
        assert torch.equal(kept, without.exponents)
    assert torch.allclose(kept, without.exponents, rtol=0, atol=1e-8)  # before it fails an item may shorten the QR interval


def test_tangents_that_leave_the_numbers_alone_are_a_divergence_at_their_step():
    """√(x²) has no derivative at 0, where its state rests: NaN from the first step that meets 0, which is step 3."""

    def step(x: Tensor, n: int) -> Tensor:
        return (x * x).sqrt() if n < 3 else ((x - x) ** 2).sqrt()

    x0 = torch.tensor([[1.0]], dtype=torch.float64)
    spectrum = sx.lyapunov_spectrum(sx.Map(step, 1, time_dependent=True), x0, steps=40, settle=0)
    assert spectrum.status.tolist() == ["diverged"]
    assert spectrum.failed_at.tolist() == [3]


def test_throw_raises_instead_of_marking():
    """`DivergedError` with the count and the step; `NotConvergedError` when the bars stay above the tolerance."""
    x0 = torch.tensor([[0.0, 0.0], [3.0, 0.5]], dtype=torch.float64)
    with pytest.raises(sx.errors.DivergedError, match=rf"(?s)1 of 2 items .* step {step_of_overflow([3.0, 0.5])}\b"):
        sx.lyapunov_spectrum(sx.classic.henon(), x0, steps=100, throw=True)
    with pytest.raises(sx.errors.NotConvergedError, match="300 steps"):
        sx.lyapunov_spectrum(sx.classic.henon(), steps=100, error=1e-9, max_steps=300, throw=True)


# --- stopping --------------------------------------------------------------------------------------------------------


def test_a_run_with_a_tolerance_continues_until_every_error_bar_is_below_it():
    """Hénon's bar is near 0.37 / √steps: 0.006 takes some 4,000 steps, more than asked and fewer than allowed."""
    x0 = sx.classic.henon().initial_state((8,), seed=1)
    spectrum = sx.lyapunov_spectrum(sx.classic.henon(), x0, steps=500, error=6e-3)
    assert (spectrum.stderr <= 6e-3).all()
    assert spectrum.converged.all()
    assert 2_000 < spectrum.steps < 50_000
    assert spectrum.settings["steps"] == spectrum.steps


def test_a_tolerance_out_of_reach_ends_at_max_steps_not_converged():
    """The limit is kept exactly, and the answer is not called converged."""
    spectrum = sx.lyapunov_spectrum(sx.classic.henon(), steps=500, error=1e-6, max_steps=1234)
    assert spectrum.steps == 1234
    assert spectrum.status == "not_converged"
    assert not spectrum.converged


def test_a_tolerance_within_a_horizon_ends_with_the_inputs():
    """Stopping respects what the drive can give."""
    system = sx.Recurrent(nn.RNN(1, 3), seeded(100, 1))
    spectrum = sx.lyapunov_spectrum(system, steps=40, settle=10, error=1e-12)
    assert spectrum.settle + spectrum.steps == 100


class Exponential(sx.System):
    """v → e^{a_n} v about a fixed point, a_n a function of n."""

    def __init__(self, rate) -> None:
        super().__init__(1)
        self.rate = rate

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return x

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        return x, math.exp(self.rate(n)) * v


def test_a_rate_that_drifts_is_not_converged():
    """The two halves of the run differ by far more than chance: no tolerance was asked, yet the average means little."""
    noise = seeded(4001).tolist()
    steady = sx.lyapunov_spectrum(Exponential(lambda n: 0.1 * noise[n]), steps=4000, settle=0)
    drifting = sx.lyapunov_spectrum(Exponential(lambda n: 0.1 * noise[n] + n / 40_000), steps=4000, settle=0)
    assert steady.status == "ok"
    assert drifting.status == "not_converged"


def test_the_average_is_over_the_steps_after_settling_exactly():
    """Rates 1 while settling, 2 for `steps` steps, 3 after: the exponent is 2."""
    system = Exponential(lambda n: 1.0 if n < 37 else 2.0 if n < 37 + 111 else 3.0)
    spectrum = sx.lyapunov_spectrum(system, steps=111, settle=37)
    assert float(spectrum.exponents) == pytest.approx(2.0, abs=1e-12)
    assert float(spectrum.history_time[-1]) == 111


def test_exponents_descend_even_where_the_frame_does_not():
    """After settling on diag(2, ½) the axes swap rates, and the frame keeps its old order: everything is sorted together."""
    settled, swapped = math.log(2), (math.log(0.25), math.log(3))

    class Swapping(sx.System):
        def step(self, x: Tensor, n: int = 0) -> Tensor:
            return x

        def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
            rates = (settled, -settled) if n < 400 else swapped if n < 500 else (swapped[0], swapped[1] + 1)
            return x, v * torch.tensor(rates, dtype=torch.float64).exp()

    spectrum = sx.lyapunov_spectrum(Swapping(2), steps=110, settle=400, every=1)
    assert spectrum.exponents.tolist() == pytest.approx([math.log(3) + 10 / 110, math.log(0.25)])
    assert spectrum.history[-1].tolist() == pytest.approx(spectrum.exponents.tolist())
    assert spectrum.stderr[0] > 0 and spectrum.stderr[1] == pytest.approx(0, abs=1e-15)  # each with its own series


# --- defaults and refusals -------------------------------------------------------------------------------------------


def test_the_defaults_respect_the_horizon():
    """50 inputs: a tenth of them settle, the rest is averaged; asked for 30, the others may settle."""
    system = sx.Recurrent(nn.RNN(1, 3), seeded(50, 1))
    spectrum = sx.lyapunov_spectrum(system)
    assert (spectrum.settle, spectrum.steps) == (5, 45)
    asked = sx.lyapunov_spectrum(system, steps=30)
    assert asked.steps == 30
    assert asked.settle + asked.steps <= 50


@pytest.mark.parametrize(("dt", "steps"), [(1.0, 2000), (0.05, 4000), (0.001, 10_000)])
def test_the_defaults_cover_200_units_of_time(dt, steps):
    """Within 2,000 … 10,000 steps; a fifth as many settle."""
    plan = plan_steps(sx.System(1, dt=dt))
    assert (plan.settle, plan.steps, plan.most) == (steps // 5, steps, steps)
    assert plan_steps(sx.System(1, dt=dt), error=0.1).most == 100 * steps


def test_more_steps_than_the_horizon_are_refused_with_both_numbers():
    """60 asked, 50 there."""
    system = sx.Recurrent(nn.RNN(1, 3), seeded(50, 1))
    with pytest.raises(sx.errors.HorizonError, match=r"settle 20 \+ steps 40 = 60 steps .* 50"):
        sx.lyapunov_spectrum(system, steps=40, settle=20)


@pytest.mark.parametrize("k", [0, 3, -1])
def test_k_out_of_range_is_refused_with_both_numbers(k):
    """1 … dim."""
    with pytest.raises(sx.errors.InputError, match=rf"k is {k} but the state has 2 numbers"):
        sx.lyapunov_spectrum(sx.classic.henon(), k=k)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"settle": -1}, "settle is -1"),
        ({"error": 0.0}, "error is 0.0"),
        ({"error": math.nan}, "error is nan"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"steps": 100, "max_steps": 50, "error": 0.1}, "max_steps is 50 but steps is 100"),
        ({"every": 0}, "every is 0"),
        ({"every": "often"}, "every is 'often'"),
    ],
)
def test_counts_out_of_range_are_refused_by_name(wrong, named):
    """Every message names the argument and its value."""
    with pytest.raises(sx.errors.InputError, match=named):
        sx.lyapunov_spectrum(sx.classic.henon(), **wrong)


def test_float32_is_kept_and_its_limit_reported():
    """The result is in float32, close to float64's, and says what that limits."""
    system = sx.classic.lorenz63()
    x0 = system.initial_state()
    single = sx.lyapunov_spectrum(system, x0.float(), steps=500, settle=200)
    double = sx.lyapunov_spectrum(system, x0, steps=500, settle=200)
    assert single.exponents.dtype == torch.float32
    assert single.exponents.sum().item() == pytest.approx(double.exponents.sum().item(), abs=0.01)
    assert "float32" in single.notes[0] and "float32" in repr(single)
    assert double.notes == ()


# --- randomness and memory -------------------------------------------------------------------------------------------


def test_the_global_generator_is_left_alone_and_a_seed_repeats_every_bit():
    """Local generators only: the global state is the same after, and so are the results."""
    before = torch.random.get_rng_state()
    first = sx.lyapunov_spectrum(sx.classic.lorenz63(), steps=200, seed=4, check=True)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    again = sx.lyapunov_spectrum(sx.classic.lorenz63(), steps=200, seed=4, check=True)
    other = sx.lyapunov_spectrum(sx.classic.lorenz63(), steps=200, seed=5)
    assert torch.equal(first.exponents, again.exponents)
    assert torch.equal(first.check.rate, again.check.rate)
    assert not torch.equal(first.exponents, other.exponents)


def test_memory_does_not_grow_with_the_steps():
    """A QR every step for 3,000 steps: at most 256 blocks are kept, and they add up to the run."""
    spectrum = sx.lyapunov_spectrum(sx.classic.logistic(), steps=3000, every=1)
    assert len(spectrum.history) <= 256
    assert float(spectrum.history_time[-1]) == 3000
    assert float(spectrum.history[-1]) == pytest.approx(float(spectrum.exponents), abs=1e-12)


@pytest.mark.parametrize(
    ("system", "steps"), [(sx.classic.henon(), 2000), (sx.classic.lorenz63(), 2000)], ids=["henon", "lorenz63"]
)
def test_the_check_is_the_leading_exponent_within_the_bars(system, steps):
    """Two nearby trajectories, which use no derivative, separate at λ₁."""
    spectrum = sx.lyapunov_spectrum(system, steps=steps, settle=500, check=True)
    difference = float(spectrum.exponents[0] - spectrum.check.rate)
    assert abs(difference) < 2 * math.hypot(spectrum.stderr[0], spectrum.check.stderr)
    assert abs(difference) < 5 / (steps * system.dt)  # along the same orbit only the first direction differs
    assert sx.lyapunov_spectrum(system, steps=10).check is None


# --- pooled ----------------------------------------------------------------------------------------------------------


def spectrum_of(exponents: Tensor, stderr: Tensor, codes: Tensor | None = None) -> sx.results.LyapunovSpectrum:
    """A spectrum with the given numbers, (*batch, k)."""
    batch = exponents.shape[:-1]
    blank = torch.zeros(batch, dtype=torch.float64)
    return sx.results.LyapunovSpectrum(
        codes=torch.zeros(batch, dtype=torch.int8) if codes is None else codes,
        exponents=exponents,
        stderr=stderr,
        converged=blank == 0,
        failed_at=blank.long() - 1,
        rank=blank.long(),
        kaplan_yorke_dimension=blank,
        kaplan_yorke_stderr=blank,
        entropy=blank,
        entropy_stderr=blank,
        history=exponents[None],
        history_time=blank[None],
        dim=exponents.shape[-1],
        steps=1,
        settle=0,
    )


def test_pooling_separates_the_variance_within_from_that_between():
    """Values 1, 2, 3, 6 have mean 3 and variance 14/3; bars of 1 leave 11/3 between the runs, bars of 3 leave nothing."""
    values = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [6.0, 6.0]], dtype=torch.float64)
    bars = torch.tensor([1.0, 3.0]).double().expand(4, 2)
    pooled = spectrum_of(values, bars).pooled()
    assert pooled.exponents.tolist() == [3.0, 3.0]
    assert pooled.within.tolist() == [1.0, 9.0]
    assert pooled.between.tolist() == pytest.approx([11 / 3, 0.0])
    assert pooled.stderr.tolist() == pytest.approx([(14 / 3 / 4) ** 0.5] * 2)
    assert (pooled.runs, pooled.diverged, pooled.status) == (4, 0, "ok")


def test_pooling_flattens_the_batch_and_leaves_diverged_runs_out():
    """A (2, 2) batch with one NaN run: three are averaged, and the one left out is counted."""
    values = torch.tensor([[[1.0], [2.0]], [[math.nan], [6.0]]], dtype=torch.float64)
    codes = torch.tensor([[0, 1], [2, 0]], dtype=torch.int8)
    pooled = spectrum_of(values, values * 0, codes).pooled()
    assert pooled.exponents.tolist() == [3.0]
    assert (pooled.runs, pooled.diverged, pooled.status) == (3, 1, "not_converged")
    with pytest.raises(sx.errors.DivergedError, match="all 4 runs"):
        spectrum_of(values, values, torch.full((2, 2), 2, dtype=torch.int8)).pooled()


def test_pooling_one_run_keeps_its_own_bar():
    """There is no spread: the error bar is that of the run, and the variance between runs is unknown."""
    pooled = spectrum_of(torch.tensor([[0.5]]).double(), torch.tensor([[0.1]]).double()).pooled()
    assert pooled.stderr.item() == pytest.approx(0.1)
    assert pooled.between.isnan().all()


def test_pooling_keeps_minus_infinities():
    """Directions erased in all runs are −∞ without an error, and the others are unaffected."""
    values = torch.tensor([[0.5, -math.inf], [0.7, -math.inf]], dtype=torch.float64)
    pooled = spectrum_of(values, torch.zeros(2, 2).double()).pooled()
    assert pooled.exponents.tolist() == [pytest.approx(0.6), -math.inf]
    assert pooled.stderr.tolist() == [pytest.approx(0.1), 0.0]
    assert pooled.between.tolist() == [pytest.approx(0.02), 0.0]


def test_pooling_attributes_differences_of_networks_to_the_variance_between():
    """Four logistic maps at rest in 0, of slope r: their exponents differ by ln r alone, so all variance is between."""
    r = torch.tensor([0.2, 0.3, 0.4, 0.5], dtype=torch.float64)
    pooled = sx.lyapunov_spectrum(sx.classic.logistic(r), torch.zeros(4, 1).double(), steps=100).pooled()
    assert float(pooled.between) == pytest.approx(float(r.log().var()), rel=1e-9)
    assert float(pooled.within) == pytest.approx(0.0, abs=1e-20)
    assert float(pooled.exponents) == pytest.approx(float(r.log().mean()), rel=1e-9)


def test_whole_numbers_may_be_numpys():
    asked = {"k": np.int64(1), "steps": np.int32(50), "settle": np.int64(0), "every": np.int64(2), "seed": np.int64(1)}
    assert sx.lyapunov_spectrum(sx.classic.henon(), **asked).exponents.shape == (1,)
