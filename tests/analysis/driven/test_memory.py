"""Linear memory capacity of reservoirs whose memory is known: delay lines, rings, leaky units, with and without noise."""

import math

import pytest
import torch

import separatrix as sx


def delay_line(units: int) -> sx.Map:
    shift = torch.diag(torch.ones(units - 1, dtype=torch.float64), -1)
    return sx.Map(lambda x: x @ shift.mT, units)


def first(units: int) -> torch.Tensor:
    return torch.eye(units, dtype=torch.float64)[0]


def test_a_delay_line_remembers_as_many_inputs_as_it_has_units_exactly():
    found = sx.memory_capacity(delay_line(10), direction=first(10), max_lag=10, steps=2_000)
    torch.testing.assert_close(found.curve, torch.ones(10, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float(found.capacity) == pytest.approx(10, abs=1e-11)
    assert int(found.half_lag) == 5
    assert int(found.rank) == 10


def test_beyond_its_length_a_delay_line_remembers_nothing_within_its_error_bars():
    found = sx.memory_capacity(delay_line(10), direction=first(10), max_lag=60)
    assert (found.curve[10:].abs() < 5 * found.curve_stderr[10:]).all()
    assert abs(float(found.capacity) - 10) < 4 * float(found.stderr)
    assert found.status == "ok"


def test_a_ring_spreads_its_memory_over_its_rounds():
    """x' = ρ R x + e₁ s, R a shift around N units: C_l = (1 − ρ^2N) ρ^(2N m) in round m, and N in all."""
    units, rho = 6, 0.9
    ring = rho * torch.roll(torch.eye(units, dtype=torch.float64), 1, 0)
    found = sx.memory_capacity(sx.Map(lambda x: x @ ring.mT, units), direction=first(units), max_lag=72, steps=20_000)
    kept = rho ** (2 * units)
    exact = (1 - kept) * kept ** (torch.arange(72, dtype=torch.float64) // units)
    assert ((found.curve - exact).abs() < 5 * found.curve_stderr).all()
    assert abs(float(found.capacity) - units) < 4 * float(found.stderr)


def test_a_random_linear_network_remembers_as_much_as_it_has_units():
    """Jaeger 2001: generically exactly N, whatever the weights; here those of an nn-like reservoir at spectral radius 0.8."""
    weight = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = 0.8 * weight / torch.linalg.eigvals(weight).abs().max()
    found = sx.memory_capacity(sx.Map(lambda x: x @ weight.mT, 8), max_lag=80)
    assert abs(float(found.capacity) - 8) < 4 * float(found.stderr) + 1e-3


@pytest.mark.parametrize("a", [0.0, 0.7, 0.95])
def test_a_leaky_unit_forgets_geometrically(a):
    """x' = a x + s: C_l = (1 − a²) a^{2(l−1)}."""
    found = sx.memory_capacity(sx.Map(lambda x: a * x, 1), max_lag=60, steps=20_000)
    exact = (1 - a * a) * a ** (2 * torch.arange(60, dtype=torch.float64))
    assert ((found.curve - exact).abs() < 5 * found.curve_stderr + 1e-12).all()
    assert float(found.capacity) == pytest.approx(1 - a**120, abs=4 * float(found.stderr))


def test_noise_along_a_delay_line_adds_up():
    """Each unit's noise σ² comes on top: C_l = v/(v + l σ²), v = 1/3 that of the input; by symmetry no other unit helps."""
    units, sigma = 12, 0.4
    found = sx.memory_capacity(sx.Noisy(delay_line(units), sigma, seed=5), direction=first(units), max_lag=12, steps=20_000)
    exact = (1 / 3) / (1 / 3 + sigma**2 * torch.arange(1, 13, dtype=torch.float64))
    assert ((found.curve - exact).abs() < 4 * found.curve_stderr).all()
    assert abs(float(found.capacity) - float(exact.sum())) < 4 * float(found.stderr)


def reservoir(gain: float = 0.9, units: int = 20, inputs: int = 2) -> torch.nn.RNN:
    rnn = torch.nn.RNN(inputs, units, bias=False).double()
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(units, units, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(gain * weight / torch.linalg.eigvals(weight).abs().max())
        rnn.weight_ih_l0.copy_(torch.randn(units, inputs, dtype=torch.float64, generator=generator))
    return rnn


def test_a_nonlinear_network_remembers_less_the_harder_it_is_driven():
    system = sx.Recurrent(reservoir())
    gentle, hard = (sx.memory_capacity(system, scale=scale, steps=8_000) for scale in (0.01, 3.0))
    assert gentle.capacity > 2 * hard.capacity
    assert hard.capacity + 5 * hard.stderr < 20
    assert gentle.capacity < 20 + 4 * gentle.stderr
    assert "through the system's input" in gentle.summary()


@pytest.mark.parametrize("seed", range(4))
def test_an_input_that_does_not_enter_has_capacity_0(seed):
    """A network driven by other data only: 0 within an error bar smaller than the bias of a plain regression, 20 · 40 / T."""
    rnn = reservoir()
    with torch.no_grad():
        rnn.weight_ih_l0[:, 1] = 0
    data = torch.randn(7_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 7))
    found = sx.memory_capacity(sx.Recurrent(rnn, data), direction=torch.tensor([0.0, 1.0]), max_lag=40, seed=seed)
    assert abs(float(found.capacity)) < 3.5 * float(found.stderr)
    assert float(found.stderr) < 0.5 * 20 * 40 / 5_600


def test_memory_beyond_the_longest_lag_is_reported():
    leaky = sx.Map(lambda x: 0.99 * x, 1)
    found = sx.memory_capacity(leaky, max_lag=30)
    assert found.status == "not_converged"
    assert "longer lags" in found.summary()
    with pytest.raises(sx.errors.NotConvergedError, match="max_lag = 30"):
        sx.memory_capacity(leaky, max_lag=30, steps=1_000, throw=True)


def test_items_of_a_batch_are_independent(tmp_path):
    a = torch.tensor([[0.0], [0.9], [1.5]], dtype=torch.float64)
    found = sx.memory_capacity(sx.Map(lambda x: a * x, 1), torch.zeros(3, 1).double(), max_lag=50, steps=4_000)
    assert found.status.tolist() == ["ok", "ok", "diverged"]
    alone = sx.memory_capacity(sx.Map(lambda x: 0.9 * x, 1), max_lag=50, steps=4_000)
    torch.testing.assert_close(found.capacity[1], alone.capacity, rtol=1e-9, atol=1e-9)
    assert found.capacity[2].isnan()
    again = sx.load(found.save(tmp_path / "memory.zarr"))
    assert torch.equal(again.curve.nan_to_num(), found.curve.nan_to_num())


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"scale": 0.0}, r"scale.* 0\.0"),
        ({"scale": math.nan}, "scale.* nan"),
        ({"max_lag": 0}, "max_lag.* 0"),
        ({"steps": 10}, "steps.* 10.* 26"),
        ({"settle": 3}, "settle.* 3.* 20"),
        ({"direction": torch.zeros(2)}, "direction"),
        ({"direction": torch.ones(3)}, r"direction.*\(2,\).*\(3,\)"),
    ],
)
def test_options_out_of_range_are_refused(options, names):
    with pytest.raises(sx.SeparatrixError, match=names):
        sx.memory_capacity(sx.Map(torch.sin, 2), **options)


def test_inputs_that_end_too_early_are_refused():
    with pytest.raises(sx.SeparatrixError, match="steps"):
        sx.memory_capacity(sx.Recurrent(torch.nn.RNN(1, 4), torch.zeros(30, 1)))


def test_too_few_steps_for_the_readouts_do_not_converge():
    """With 5 steps per weight the capacity of this network, 2.5, is estimated at about −1."""
    torch.manual_seed(0)
    network = sx.Recurrent(torch.nn.GRU(2, 6))
    few = sx.memory_capacity(network, max_lag=20, steps=34, settle=40)
    assert few.status == "not_converged"
    assert "34 steps" in few.summary() and "105" in few.summary()
    whole = sx.memory_capacity(network, max_lag=20, steps=20_000, seed=1)
    errors = []
    for seed in range(20):
        enough = sx.memory_capacity(network, max_lag=20, steps=105, settle=40, seed=seed)
        errors.append(float((enough.capacity - whole.capacity) / enough.stderr))
    assert sum(abs(error) < 2 for error in errors) >= 15 and abs(sum(errors)) / 20 < 0.8
