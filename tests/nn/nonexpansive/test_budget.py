"""Factors against dense Jacobians and published numbers; learned steps never leave the feasible set."""

import math

import pytest
import torch

import separatrix as sx
from separatrix.nn.nonexpansive.budget import BUDGETS, ContractionStep, ExpansionStep, PairSteps


@pytest.mark.parametrize(("h", "exact", "published"), [(0.5, 0.75, 0.866), (1.0, 0.5, 1.0), (4 / 3, 1 / 3, 1.20)])
def test_the_factors_at_slope_one_half_are_the_published_and_the_derived_ones(h, exact, published):
    assert float(sx.nn.parts.exact_factor(h, 0.5)) == pytest.approx(exact, abs=1e-15)
    assert float(sx.nn.parts.published_factor(h, 0.5)) == pytest.approx(published, abs=5e-3)


def test_the_published_budget_leaves_at_most_0_1547_and_with_two_substeps_0_0548_at_a_total_of_0_11():
    h = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    room = BUDGETS["published"].room(h, 0.5)
    assert float(room.max()) == pytest.approx(2 / math.sqrt(3) - 1, abs=1e-12)
    assert float(h[room.argmax()]) == 0.5
    assert float(BUDGETS["published"].room(0.055, 0.5, substeps=2)) == pytest.approx(0.0548, abs=1e-4)


def test_the_exact_budget_leaves_2_at_its_best_step():
    assert float(BUDGETS["exact"].room(1.0, 0.5)) == pytest.approx(1.0, abs=1e-15)
    assert float(BUDGETS["exact"].room(4 / 3, 0.5)) == pytest.approx(2.0, abs=1e-14)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("slope", [0.1, 0.5, 0.9])
def test_the_room_is_what_the_factor_leaves(budget, slope):
    """Two formulas, one through the logarithm: factor(h)^S (1 + room) = 1, outside of the reach too."""
    h = torch.linspace(0.01, 2.5, 400, dtype=torch.float64)
    for substeps in (1, 3):
        total = BUDGETS[budget].factor(h, slope) ** substeps * (1 + BUDGETS[budget].room(h, slope, substeps))
        torch.testing.assert_close(total, torch.ones_like(h), rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(4, 4), (7, 4), (3, 4)])
def test_the_exact_factor_is_the_largest_norm_over_all_slopes(shape):
    """Reached where all slopes are a or all are 1; no D between does more. With fewer rows than columns s_min is 0."""
    random = torch.Generator().manual_seed(0)
    a = torch.randn(*shape, generator=random, dtype=torch.float64)
    values = torch.linalg.svdvals(a)
    s_min = float(values[-1]) if shape[0] >= shape[1] else 0.0
    eye = torch.eye(shape[1], dtype=torch.float64)
    for slope in (0.0, 0.3, 1.0):
        for h in (0.05, 0.2, 0.5):
            slopes = slope + (1 - slope) * torch.rand(300, shape[0], generator=random, dtype=torch.float64)
            ends = torch.where(slopes > (1 + slope) / 2, 1.0, slope)
            slopes = torch.cat([slopes, ends, torch.full((1, shape[0]), slope), torch.ones(1, shape[0])])
            norms = torch.linalg.matrix_norm(eye - h * a.mT @ (slopes[..., None] * a), 2)
            bound = float(sx.nn.parts.exact_factor(h, slope, s_min=s_min, s_max=float(values[0])))
            assert norms.max() <= bound + 1e-12
            assert float(norms[-2:].max()) == pytest.approx(bound, abs=1e-7)  # the slope is a float32 in the list


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("substeps", [1, 2, 5])
@pytest.mark.parametrize("slope", [0.1, 0.5, 0.999])
def test_learned_steps_never_leave_the_feasible_set(budget, substeps, dtype, slope):
    """Not by rounding either, which is worst at the best step of a slope near 1, where the factor is near 0."""
    steps = PairSteps(slope=slope, substeps=substeps, budget=budget).to(dtype)
    reach = BUDGETS[budget].reach(slope)
    best = slope if budget == "published" else 2 / (1 + slope)
    steps.requires_grad_(False)
    near = (math.log(best / (reach - best)) + torch.linspace(-1e-4, 1e-4, 41)).tolist()
    for first in (-1e3, -90.0, -30.0, -5.0, 0.0, 1.3, 5.0, 30.0, 90.0, 1e3, *near):
        for second in (-1e3, -5.0, 0.0, 5.0, 1e3):
            steps.free.copy_(torch.tensor([first, second]))
            h, expansion = (float(step) for step in steps())
            assert 0 <= h <= reach and expansion >= 0 and math.isfinite(expansion)
            assert float(BUDGETS[budget].factor(h, slope)) ** substeps * (1 + expansion) <= 1 + 1e-15
            assert steps.factor() <= 1


def test_every_pair_of_steps_of_the_feasible_set_is_reached():
    steps = PairSteps(budget="exact").double().requires_grad_(False)
    for h, share in ((0.01, 0.01), (0.5, 0.999), (4 / 3, 0.5), (1.99, 0.9)):
        steps.free.copy_(torch.logit(torch.tensor([h / 2, share], dtype=torch.float64)))
        room = 1 / max(1 - h / 2, abs(1 - h)) - 1
        assert [float(step) for step in steps()] == pytest.approx([h, share * room], rel=2e-5)  # all but 1e-5 of the room is used


def test_single_steps_stay_inside_too_and_given_ones_are_kept():
    for free in (-1e3, 0.0, 1e3):
        contraction, expansion = ContractionStep(), ExpansionStep()
        with torch.no_grad():
            contraction.free.fill_(free)
            expansion.free.fill_(free)
        assert 0 <= contraction() <= 2 and 0 <= expansion() <= max(1.0, free)
    assert ContractionStep(given=0.3)() == 0.3 and not list(ContractionStep(given=0.3).parameters())


def test_steps_outside_of_the_feasible_set_are_refused_with_both_numbers():
    with pytest.raises(sx.errors.InputError, match=r"h = 0.5 and h_E = 0.2 have the published product 1.039, more than 1"):
        sx.nn.parts.Alternating(4, budget="published", step_sizes=(0.5, 0.2))
    assert sx.nn.parts.Alternating(4, step_sizes=(0.5, 0.2)).guarantee.lipschitz == pytest.approx(0.75 * 1.2)
    with pytest.raises(sx.errors.InputError, match=r"h = 2.5.*0 … 2"):
        sx.nn.parts.Alternating(4, step_sizes=(2.5, 0.0))
    with pytest.raises(sx.errors.InputError, match=r"step_size is 2.1.*\[0, 2\]"):
        sx.nn.NonExpansive(4, step_size=2.1)
    with pytest.raises(sx.errors.InputError, match=r"step_size is -0.1"):
        sx.nn.parts.Expansive(4, step_size=-0.1)
    with pytest.raises(sx.errors.InputError, match="slope is 0"):
        sx.nn.parts.Alternating(4, slope=0.0)
    with pytest.raises(sx.errors.InputError, match=r"budget is 'loose'.*'exact' or 'published'"):
        sx.nn.parts.Alternating(4, budget="loose")
    with pytest.raises(sx.errors.InputError, match="substeps is 0"):
        sx.nn.parts.Alternating(4, substeps=0)
    with pytest.raises(sx.errors.InputError, match=r"substeps is 1.5"):
        sx.nn.parts.Alternating(4, substeps=1.5)
    with pytest.raises(sx.errors.InputError, match=r"step_sizes is 0.5"):
        sx.nn.parts.Alternating(4, step_sizes=0.5)
