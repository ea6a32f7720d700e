"""The plan of a report: what fits is measured, and the plan follows from sizes alone."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.portrait import effort
from separatrix.portrait.effort import REPORT, Cost, cost_of, plan_effort

PLAN = {"runs": [16, 8, 4], "k": None, "steps": 2_000, "settle": 400, "may_shorten": True}


def test_the_operations_of_a_step_are_those_of_its_products():
    """tanh(W h + U u) with W 20 × 20 and one input: 2 · 20 · (20 + 1) operations, and 30 for each number."""
    cost = cost_of(sx.Recurrent(nn.RNN(1, 20, bias=False)), 0)
    assert 2 * 20 * 20 <= cost.tangent - 600 <= cost.state - 600 <= 2 * 20 * 21 + 20
    kernel = torch.ones(1, 1, 3).double()
    convolved = sx.Map(lambda x: nn.functional.conv1d(x.reshape(-1, 1, 50), kernel, padding=1).reshape(x.shape).tanh(), 50)
    cost = cost_of(convolved, 0)
    assert cost.tangent == pytest.approx(2 * 3 * 50 + 30 * 50)
    assert 2 * 3 * 50 <= cost.state - 30 * 50 <= 2 * 2 * 3 * 50  # forward AD carries one more tangent as a check


def test_a_small_network_gets_everything():
    plan = plan_effort(cost_of(sx.Recurrent(nn.GRU(28, 64)), 0), **PLAN)
    assert (plan.runs, plan.k, plan.steps, plan.settle) == (16, 64, 2_000, 400)


def test_exponents_go_first_then_runs_then_steps():
    sizes = (64, 256, 1_024, 4_096, 2**14)  # of an LSTM with as many numbers in its state, which contracts at each step
    plans = [plan_effort(Cost(dim, 2.0 * dim**2, 1.5 * dim**2), **PLAN) for dim in sizes]
    for plan in plans[:-1]:
        assert plan.work(plan.k) <= REPORT
    for before, after in pairwise(plans):
        assert after.k <= before.k and after.runs <= before.runs and after.steps <= before.steps
        assert after.runs == 16 or after.k < after.cost.dim
        assert after.steps == 2_000 or after.runs == 4
    assert plans[0].k == 64 and plans[-1].k >= 1


def test_what_was_asked_for_is_kept():
    large = Cost(4_096, 4e7, 3e7)
    assert plan_effort(large, **PLAN | {"k": 4_096}).k == 4_096
    assert plan_effort(large, **PLAN | {"runs": [64]}).runs == 64
    assert plan_effort(large, **PLAN | {"may_shorten": False}).steps == 2_000


def test_a_large_network_is_measured_in_part_and_full_measures_all(monkeypatch):
    monkeypatch.setattr(effort, "WHOLE", 8)
    torch.manual_seed(0)
    network, brief = nn.RNN(1, 12), {"copies": 1, "steps": 100, "settle": 20, "also": "none"}
    part, whole = sx.analyze(network, **brief), sx.analyze(network, full=True, **brief)
    assert part.pooled.exponents.shape[-1] == 8 and "leading 8 of 12" in part.summary()
    assert whole.pooled.exponents.shape[-1] == 12 and "All 12" in whole.summary()
