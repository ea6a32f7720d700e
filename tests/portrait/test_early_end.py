"""An early end, by time or by Ctrl-C, keeps what has been measured."""

import math
import sys
import time

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.core.ending import Ended, check_time, ending
from separatrix.portrait.findings import QUESTIONS, Question

LONG = 10**9  # steps, far more than any of these runs takes
PARTS = sys.modules["separatrix.portrait.measurements"]


def halving(pause: float = 0.0, interrupt_at: int = LONG) -> sx.Map:
    """x → x/2, whose exponent is −ln 2; a step may take time, and Ctrl-C may be pressed in one."""

    def step(x, n):
        time.sleep(pause)
        if n == interrupt_at:
            raise KeyboardInterrupt
        return x / 2

    return sx.Map(step, 2, time_dependent=True)


def test_a_spectrum_ends_after_the_given_seconds_with_the_steps_until_then():
    spectrum = sx.lyapunov_spectrum(halving(1e-3), torch.ones(2).double(), steps=LONG, settle=0, every=8, seconds=0.1)
    assert 0 < spectrum.steps < 1_000
    torch.testing.assert_close(spectrum.exponents, torch.full((2,), -math.log(2)).double())
    assert f"after {spectrum.steps} of 1,000,000,000 steps" in spectrum.summary()
    assert spectrum.settings["seconds"] == 0.1


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan, "soon"])
def test_a_time_that_is_none_is_refused(seconds):
    with pytest.raises(sx.errors.InputError, match="seconds"):
        sx.lyapunov_spectrum(halving(), steps=4, seconds=seconds)


def test_ctrl_c_still_stops_a_script_that_measures_a_spectrum():
    with pytest.raises(KeyboardInterrupt):
        sx.lyapunov_spectrum(halving(interrupt_at=50), torch.ones(2).double(), steps=100, settle=0)


def test_within_an_ending_a_spectrum_keeps_its_steps_and_other_loops_raise():
    with ending(None, on_interrupt=True) as end:
        spectrum = sx.lyapunov_spectrum(halving(interrupt_at=50), torch.ones(2).double(), steps=100, settle=0, every=1)
        assert end.is_due and spectrum.steps == 50
        with pytest.raises(Ended, match="Ctrl-C"):
            sx.divergence_rate(halving(), steps=10)
    check_time()  # outside, there is no limit


def test_an_inner_ending_does_not_outlast_the_outer_one():
    with ending(1e-9), ending(60.0) as inner:
        assert inner.is_due and inner.why == "ended after 1 × 10⁻⁹ s"


def network(size: int = 6) -> nn.RNN:
    torch.manual_seed(0)
    return nn.RNN(1, size)


@pytest.mark.parametrize("part", ["gradient_propagation", "divergence_rate", "common_drive_responses"])
def test_ctrl_c_in_a_part_leaves_out_the_rest_and_keeps_the_verdict(monkeypatch, tmp_path, part):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(PARTS, part, interrupt)
    portrait = sx.analyze(network(), torch.randn(20, 9, 1).transpose(0, 1), steps=300, settle=100, copies=2)
    assert portrait.verdict.startswith("ordered: λ₁ = ") and portrait.ended == "stopped by Ctrl-C"
    assert portrait.propagation is None and "propagation" in portrait.left_out and "fixed_points" in portrait.left_out
    assert "Not measured (stopped by Ctrl-C): " in portrait.summary()
    place = sx.write_report({"cut": portrait}, tmp_path / "report", title="cut short")
    assert "stopped by Ctrl-C" in (place / "report.html").read_text()
    portrait.save(tmp_path / "cut")
    assert sx.load(tmp_path / "cut").left_out == portrait.left_out
    portrait.plot()


def test_ctrl_c_in_a_further_analysis_keeps_those_before_it(monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setitem(QUESTIONS, "broken", Question("Broken", "-", "common", interrupt, lambda _: True))
    portrait = sx.analyze(network(), also=("power_spectrum", "broken"), steps=300, settle=100, copies=2)
    assert list(portrait.findings) == ["power_spectrum"] and portrait.left_out == ("broken",)
    assert portrait.propagation is not None and not portrait.unanswered


def test_a_budget_below_the_settling_is_refused_with_both_numbers():
    with pytest.raises(sx.errors.InputError, match=r"seconds is 1 × 10⁻⁶, .* about .* s"):
        sx.analyze(network(), seconds=1e-6)


@pytest.mark.parametrize("seconds", [0, math.nan, "5"])
def test_a_budget_that_is_no_time_is_refused(seconds):
    with pytest.raises(sx.errors.InputError, match="seconds"):
        sx.analyze(network(), seconds=seconds)


def test_a_network_without_time_has_no_whole_spectrum():
    with pytest.raises(sx.errors.InputError, match="full cannot be used"):
        sx.analyze(nn.Linear(3, 3), torch.randn(4, 3), full=True)
    with pytest.raises(sx.errors.InputError, match="full is 'yes'; expected True or False"):
        sx.analyze(nn.Linear(3, 3), torch.randn(4, 3), full="yes")


class Passes:
    """A count of a network's passes; each may take time, and in one Ctrl-C is pressed."""

    def __init__(self) -> None:
        self.count, self.pause, self.interrupt_at = 0, 0.0, LONG

    def restart(self, interrupt_at: int = LONG) -> None:
        self.count, self.interrupt_at = 0, interrupt_at

    def __call__(self) -> None:
        self.count += 1
        time.sleep(self.pause)
        if self.count == self.interrupt_at:
            raise KeyboardInterrupt


PASSES = Passes()


class Begin(nn.Linear):
    def forward(self, x):
        PASSES()
        return super().forward(x)


@pytest.fixture
def passes():
    PASSES.restart()
    yield PASSES
    PASSES.pause = 0.0
    PASSES.restart()


def deep() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Begin(300, 120), nn.Tanh(), nn.Linear(120, 120)).double()


PICTURES = torch.randn(3, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


def test_ctrl_c_before_any_singular_value_keeps_what_one_pass_gave(monkeypatch, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt
        yield

    whole = sx.depth_profile(deep(), PICTURES, k=2)
    monkeypatch.setattr("separatrix.analysis.depth.layerwise.refine", interrupt)
    portrait = sx.analyze(deep(), PICTURES, k=2)
    cut = portrait.profile
    for name in ("gain", "gain_stderr", "gradient", "activation", "parameter_gradient", "dead_units"):
        assert same(getattr(cut, name), getattr(whole, name)), name
    assert cut.verdict == whole.verdict and cut.ended == "stopped by Ctrl-C" and cut.left_out == whole.layers
    assert cut.singular_values.isnan().all() and set(cut.status) == {"not_converged"} and set(whole.status) == {"ok"}
    sentence = "Not measured (stopped by Ctrl-C): singular values at 3 of 3 layers."
    assert sentence in portrait.summary() and portrait.numbers()["left_out"] == list(whole.layers)
    assert portrait.left_out == whole.layers
    assert "sensitive" not in cut.summary() and "stopped by Ctrl-C" in cut.summary() and not whole.ended
    place = sx.write_report({"cut": portrait}, tmp_path / "report", title="cut short")
    assert sentence in (place / "report.html").read_text()
    portrait.save(tmp_path / "cut")
    assert sx.load(tmp_path / "cut").profile.left_out == cut.left_out
    with pytest.raises(KeyboardInterrupt):  # a script of one's own is stopped
        sx.depth_profile(deep(), PICTURES, k=2)


def test_ctrl_c_between_sweeps_keeps_the_singular_values_found(passes):
    """In the last pass of a profile Ctrl-C is pressed: what was known before it has its residuals, and lies within these."""
    model, asked = deep(), {"k": 2, "sweeps": 4, "tol": 1e-9}
    whole = sx.depth_profile(model, PICTURES, **asked)
    passes.restart(interrupt_at=passes.count)
    with ending(None, on_interrupt=True):
        cut = sx.depth_profile(model, PICTURES, **asked)
    assert cut.ended == "stopped by Ctrl-C" and "3 layers" in cut.missing and not cut.left_out
    assert (cut.residual > whole.residual).any() and set(cut.status) == {"not_converged"}
    exact = torch.stack([torch.linalg.svdvals(torch.func.jacrev(lambda x: model[0](x))(x))[:2] for x in PICTURES]).detach()
    assert ((cut.singular_values[0] - exact).abs() <= cut.residual[0] * cut.singular_values[0, :, :1]).all()


def test_inputs_that_were_not_reached_are_missing(monkeypatch, passes):
    monkeypatch.setattr("separatrix.analysis.depth.layerwise.MOST_NUMBERS", 1)  # one input at a time
    model = deep()
    whole = sx.depth_profile(model, PICTURES)
    passes.restart(interrupt_at=passes.count)
    with ending(None, on_interrupt=True):
        cut = sx.depth_profile(model, PICTURES)
    assert cut.batch == (2,) and same(cut.gain, whole.gain[:, :2]) and cut.missing == "1 of 3 inputs"
    assert set(cut.status) == {"ok"} and "not measured (stopped by Ctrl-C): 1 of 3 inputs" in cut.summary()
    passes.restart(interrupt_at=3)
    with ending(None, on_interrupt=True), pytest.raises(KeyboardInterrupt):  # nothing to keep yet
        sx.depth_profile(model, PICTURES)


def test_a_profile_ends_after_the_given_seconds(passes):
    passes.pause, asked = 1e-2, {"k": 4, "tol": 1e-12, "sweeps": 1_000}
    profile = sx.depth_profile(deep(), PICTURES[:1], **asked, seconds=0.1)
    assert profile.ended == "ended after 0.1 s" and profile.settings["seconds"] == 0.1
    assert profile.status.tolist() == ["not_converged"] and profile.gain.isfinite().all()


@pytest.mark.parametrize("measure", [sx.depth_profile, sx.analyze])
def test_a_budget_below_one_pass_is_refused_with_both_numbers(measure):
    with pytest.raises(sx.errors.InputError, match=r"seconds is 1 × 10⁻⁶, .* 3 inputs take about .* s"):
        measure(deep(), PICTURES, seconds=1e-6)
    with pytest.raises(sx.errors.InputError, match="seconds is 0"):
        measure(deep(), PICTURES, seconds=0)


def test_what_is_measured_first_and_how_long_it_takes_is_said(capsys):
    portrait = sx.analyze(network(), steps=300, settle=100, copies=2, also="none", progress=True)
    said = capsys.readouterr().err
    assert "2 runs × 400 steps: the verdict in about 1 s, all 6 exponents" in said
    assert portrait.verdict in said.replace("\n", "")
