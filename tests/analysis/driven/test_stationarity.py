"""The stationarity test: its error rate on stationary drives, and the changes it finds."""

import math

import pytest
import torch
from scipy.signal import lfilter

import separatrix as sx


def white(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def autoregressive(phi: float, steps: int, *batch: int, seed: int = 0) -> torch.Tensor:
    """u' = φ u + √(1 − φ²) ξ, begun in its stationary distribution."""
    kicks = white(steps, *batch, seed=seed).numpy() * math.sqrt(1 - phi * phi)
    kicks[0] /= math.sqrt(1 - phi * phi)
    return torch.as_tensor(lfilter([1.0], [1.0, -phi], kicks, axis=0))


@pytest.mark.parametrize(("phi", "steps"), [(0.0, 3_000), (0.8, 6_000), (-0.5, 3_000)])
def test_a_stationary_drive_is_rejected_about_one_time_in_twenty(phi, steps):
    """600 runs of a 5 % test: 30 ± 5.3 rejections. The blocks share up to 2 % of their variance, hence up to 7 %."""
    found = sx.stationarity(autoregressive(phi, steps, 600, 1))
    assert (found.status == "ok").all()
    rejected = int((~found.stationary).sum())
    assert 30 - 3 * 5.3 <= rejected <= 0.07 * 600 + 3 * 5.3
    below_half = float((found.p_value < 0.5).double().mean())
    assert below_half == pytest.approx(0.5, abs=0.12)


def test_the_correlation_time_is_that_of_an_autoregressive_process():
    """τ = (1 + φ)/(1 − φ) = 9 at φ = 0.8; that of its square is shorter."""
    found = sx.stationarity(autoregressive(0.8, 50_000, 4, 1, seed=1))
    assert found.correlation_time.tolist() == pytest.approx([9.0] * 4, rel=0.2)
    assert torch.equal(found.needed, (16 * (20 * found.correlation_time).ceil()).long())


@pytest.mark.parametrize(
    ("change", "test"),
    [
        (lambda u, t: u + 0.6 * t, "mean"),
        (lambda u, t: u * (1 + 0.5 * t), "variance"),
        (lambda u, t: torch.where(t > 0.5, (u + u.roll(1, 0)) / 2**0.5, u), "slow part"),
    ],
)
def test_a_change_is_found_and_named(change, test):
    t = torch.linspace(0, 1, 6_000, dtype=torch.float64)[:, None]
    found = sx.stationarity(change(white(6_000, 2, seed=2), t))
    assert not bool(found.stationary)
    assert f"the {test} of input" in found.summary() or test == "slow part"
    assert float(found.p_value) < 1e-4


def test_a_strong_trend_is_not_mistaken_for_a_long_correlation_time():
    found = sx.stationarity(white(4_000, 1) + torch.linspace(0, 30, 4_000, dtype=torch.float64)[:, None])
    assert found.status == "ok"
    assert float(found.p_value) < 1e-12
    assert "the mean of input 1" in found.summary()


def test_a_drive_whose_correlation_time_is_its_length_is_too_short():
    walk = white(2_000, 1).cumsum(0)
    found = sx.stationarity(walk)
    assert found.status == "not_converged"
    assert not bool(found.stationary)
    assert f"{int(found.needed):,}" in found.summary()
    with pytest.raises(sx.errors.NotConvergedError, match=f"{int(found.needed):,}"):
        sx.stationarity(walk, throw=True)


def test_progress_is_shown_while_a_stream_is_read(capsys):
    stream = sx.Stream(white(40, 12, 2))
    shown = sx.stationarity(stream, steps=2_000, progress=True)
    assert capsys.readouterr().err  # the bar, cleared at the end
    assert torch.equal(shown.p_value, sx.stationarity(stream, steps=2_000).p_value)
    assert not capsys.readouterr().err


def test_a_stream_is_stationary_and_a_sequence_with_a_jump_is_not(tmp_path):
    stream = sx.Stream(white(40, 12, 2), copies=3)
    assert sx.stationarity(stream, steps=6_000).stationary.all()
    driven = sx.Recurrent(torch.nn.RNN(2, 4), stream)
    assert torch.equal(sx.stationarity(driven, steps=6_000).p_value, sx.stationarity(stream, steps=6_000).p_value)
    jump = white(3_000, 1)
    jump[1_500:] += 1
    found = sx.stationarity(jump)
    assert not bool(found.stationary)
    again = sx.load(found.save(tmp_path / "drive.zarr"))
    assert torch.equal(again.p_values, found.p_values)


def test_a_constant_drive_is_stationary():
    assert float(sx.stationarity(torch.full((1_000, 2), 0.1)).p_value) == 1


@pytest.mark.parametrize(
    ("inputs", "options", "error", "names"),
    [
        (torch.zeros(100, 1), {"windows": 1}, sx.errors.InputError, "windows.* 1"),
        (torch.zeros(100, 1), {"level": 0.0}, sx.errors.InputError, r"level.* 0\.0"),
        (torch.zeros(100, 1), {"steps": 200}, sx.errors.HorizonError, "200.* 100"),
        (torch.zeros(100), {}, sx.errors.ShapeError, r"\(100,\)"),
        (torch.zeros(7, 1), {}, sx.errors.ShapeError, "32.* 7"),
        (torch.full((100, 1), math.nan), {}, sx.errors.InputError, "100"),
        ("text", {}, sx.errors.InputError, "inputs"),
        (torch.nn.Linear(1, 1), {}, sx.errors.UnsupportedModuleError, "Linear"),
        (sx.classic.henon(), {}, sx.errors.UnsupportedModuleError, "Henon"),
    ],
)
def test_inputs_and_options_that_cannot_be_used_are_refused(inputs, options, error, names):
    with pytest.raises(error, match=names):
        sx.stationarity(inputs, **options)
