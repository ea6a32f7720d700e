"""Cells of other people: one step and its tangents, and the exponents along a drive; or a refusal by name."""

import pytest
import torch

import separatrix as sx
from foreign import networks_cells
from foreign.networks_idioms import numbers
from foreign.oracle import Celled, asked, assert_close, built, differences, exact, exponents, marked

CASES: list[Celled] = [*networks_cells.CASES]
STEPS, SETTLE = 40, 10


@pytest.mark.parametrize("case", marked(CASES, "recurrent"))
def test_a_cell_steps_as_it_is_called_and_its_tangents_are_finite_differences(case):
    """The path along a drive, the tangents at a random state, and the leading exponents, against the module itself."""
    model, reference = built(case.make), exact(case.make)
    drive = numbers(STEPS + SETTLE, 2, case.width, seed=8).double()
    asked_for = {} if case.state is None else {"state": case.state}
    system = asked(case, "recurrent", model, lambda: sx.Recurrent(model, drive.float(), **asked_for))
    if system is None:
        return
    assert system.dim == case.dim
    x = 0.4 * numbers(2, case.dim, seed=9).double()
    path = asked(case, "recurrent", model, lambda: sx.trajectory(system, x, 5))
    if path is None:
        return
    y = x
    with torch.no_grad():
        for n in range(5):
            y = case.step(reference, drive[n].float().double(), y)
            assert_close(path[n + 1].detach(), y)
    v = torch.randn(2, 3, case.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    pushed = asked(case, "recurrent", model, lambda: system.pushforward(x, v, 1))

    def one(s):
        return case.step(reference, drive[1].float().double().repeat_interleave(len(s) // 2, 0), s)

    assert_close(pushed[1].detach(), v @ differences(one, x).mT)
    k = min(2, case.dim)
    spectrum = asked(case, "recurrent", model, lambda: sx.lyapunov_spectrum(system, x, k=k, steps=STEPS, settle=SETTLE))
    true, _ = exponents(lambda u, s: case.step(reference, u, s), drive.float().double(), x, SETTLE, k)
    allowed = 4 * spectrum.stderr.nan_to_num(0.0).mean(0) + 2 / STEPS
    assert bool(((spectrum.exponents.mean(0) - true).abs() <= allowed).all())
