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


def test_a_network_without_time_takes_no_budget():
    with pytest.raises(sx.errors.InputError, match="seconds and full"):
        sx.analyze(nn.Linear(3, 3), torch.randn(4, 3), seconds=1.0, full=True)


def test_what_is_measured_first_and_how_long_it_takes_is_said(capsys):
    portrait = sx.analyze(network(), steps=300, settle=100, copies=2, also="none", progress=True)
    said = capsys.readouterr().err
    assert "2 runs × 400 steps: the verdict in about 1 s, all 6 exponents" in said
    assert portrait.verdict in said.replace("\n", "")
