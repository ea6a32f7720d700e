"""Recurrent networks of other people: the exponent of the loop that they run, or a refusal by name."""

import re

import pytest
import torch

import separatrix as sx
from foreign import networks_generators, networks_loops
from foreign.oracle import Looped, asked, built, exact, exponents, marked, streamed

CASES: list[Looped] = [*networks_loops.CASES, *networks_generators.CASES]
COPIES = 3


@pytest.mark.parametrize("case", marked(CASES, "analyze"))
def test_analyze_gives_the_exponents_of_the_loop_that_runs(case):
    """λ₁ and λ₂ against QR of dense Jacobians of the whole step, on a drive of the same sequences drawn anew."""
    model, k = built(case.make), min(2, case.dim)
    asked_for = {"module": case.module, "k": k, "copies": COPIES, "steps": case.steps[0], "settle": case.steps[1], "also": "none"}
    portrait = asked(case, "analyze", model, lambda: sx.analyze(model, case.given(case.inputs), **asked_for))
    if portrait is None:
        plainly = asked(case, "analyze", model, lambda: sx.analyze(model, case.given(case.inputs), module=case.module, also="none"))
        assert plainly is None, "what is refused with steps is not measured in depth without them"
        return
    assert isinstance(portrait, sx.results.RecurrentPortrait), "a loop over time is not a depth"
    if case.said and re.search(case.said, portrait.verdict):
        return
    assert portrait.spectrum.dim == case.dim
    true, error = lyapunov(case, k)
    got, stderr = portrait.pooled.exponents, portrait.pooled.stderr.nan_to_num(0.0)
    allowed = 4 * (stderr**2 + error**2).sqrt() + 2 / case.steps[0]
    assert bool(((got - true).abs() <= allowed).all()), f"{got} ± {stderr}, expected {true} ± {error}"


def lyapunov(case: Looped, k: int):
    """By QR of dense Jacobians of the module's own step."""
    model = exact(case.plain or case.make)
    sequences = case.sequences(case.inputs)
    sequences = sequences.double() if sequences.is_floating_point() else sequences
    count = sequences.shape[1]
    drive = streamed(sequences, 8, sum(case.steps)) if count > 1 else sequences[: sum(case.steps)]
    start = torch.zeros(drive.shape[1], case.dim, dtype=torch.float64)
    if case.start is not None:
        start = case.start(model, drive.shape[1]).detach()
    return exponents(lambda u, x: case.step(model, u, x), drive, start, case.steps[1], k)
