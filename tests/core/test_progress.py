"""The text beside a progress bar: what is known so far, asked for seldom."""

import itertools
import math

import pytest
import torch
from rich.progress import Progress

import separatrix as sx
from separatrix.core import progress
from separatrix.core.progress import PAUSE, Tick, watched
from separatrix.core.wording import measured


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    """The texts that are put beside bars."""
    texts, update = [], Progress.update

    def noted(self, task, **changes):
        texts.extend([changes["known"]] if "known" in changes else [])
        return update(self, task, **changes)

    monkeypatch.setattr(Progress, "update", noted)
    return texts


def test_a_text_is_asked_for_at_most_twice_a_second_and_not_without_a_bar(shown, monkeypatch):
    clock = itertools.count(step=PAUSE / 4)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    ticks, asked = [Tick(i) for i in range(40)], []
    assert list(watched(ticks, 40, "run", True, says=lambda: asked.append(1) or f"{len(asked)}")) == ticks
    assert 5 <= len(asked) <= 10 and shown == [str(i + 1) for i in range(len(asked))]
    asked.clear()
    assert list(watched(ticks, 40, "run", False, says=lambda: asked.append(1) or "")) == ticks and not asked


@pytest.mark.parametrize("runs", [1, 3])
def test_the_bar_of_a_spectrum_shows_the_leading_exponent_with_its_error(shown, monkeypatch, runs):
    """A map of slope 2 has λ₁ = ln 2 from the first block on; the last text of a noisy one is what the spectrum says."""
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    double = sx.Map(lambda x: torch.stack([2 * x[..., 0], 0.5 * x[..., 1]], -1), 2)
    sx.lyapunov_spectrum(double, torch.zeros(runs, 2).double(), steps=20, settle=5, progress=True)
    assert shown and all(text.startswith(f"λ₁ = {math.log(2):.4f}") for text in shown)
    shown.clear()
    x0 = torch.linspace(0.1, 0.3, runs).double()[:, None] * torch.ones(2).double()
    found = sx.lyapunov_spectrum(sx.classic.henon(), x0, steps=400, progress=True)
    pooled = found.pooled()
    assert shown[-1] == f"λ₁ = {measured(float(pooled.exponents[0]), float(pooled.stderr[0]))}"
