"""Zeros in brackets, many at once."""

import math

import pytest
import torch

from separatrix.flows.events.root import crosses, root

DOUBLE = {"dtype": torch.float64}


def found(f, a, b, near=0.0):
    """The zeros of f in [a, b], and the number of evaluations of f."""
    a, b = (torch.as_tensor(end, **DOUBLE) for end in (a, b))
    asked = []

    def value(x):
        asked.append(x)
        return f(x)

    ends = (f(a), f(b))
    return root(value, (a, b), ends, torch.full_like(a, max(near, 4 * torch.finfo(a.dtype).eps))), len(asked)


def test_zeros_of_one_batch_are_found_to_rounding():
    """x³ = c, from brackets of different lengths."""
    c = torch.tensor([0.001, 1.0, 2.0, 27.0], **DOUBLE)
    zero, asked = found(lambda x: x**3 - c, [0.0, 0.5, 0.0, 1.0], [1.0, 1.5, 3.0, 10.0])
    torch.testing.assert_close(zero, c ** (1 / 3), rtol=1e-15, atol=1e-15)
    assert asked <= 20  # bisection takes 50


@pytest.mark.parametrize("power", [1, 9, 0.2])
def test_flat_and_steep_zeros_take_no_more_than_a_few_bisections(power):
    """sgn(x − c) |x − c|^p: interpolation overshoots the flat ones and the steep ones."""
    c = 1 / math.pi
    zero, asked = found(lambda x: (x - c).sign() * (x - c).abs() ** power, [0.0], [1.0], near=1e-12)
    assert float((zero - c).abs()) <= 1e-12 if power < 9 else float((zero - c).abs()) < 1e-6
    assert asked <= 100


def test_an_item_with_no_bracket_and_one_that_ends_on_its_zero_keep_their_place():
    zero, _ = found(lambda x: x - torch.tensor([5.0, 1.0, 0.25], **DOUBLE), [2.0, 0.0, 0.0], [2.0, 1.0, 1.0])
    assert zero.tolist() == [2.0, 1.0, 0.25]


@pytest.mark.parametrize(("direction", "wanted"), [(0, [1, 1, 1, 0, 0, 0]), (1, [1, 0, 1, 0, 0, 0]), (-1, [0, 1, 0, 0, 0, 0])])
def test_a_sign_crosses_the_asked_way_and_onto_zero_but_not_from_it(direction, wanted):
    side = torch.tensor([-1.0, 1.0, -1.0, 0.0, 1.0, -1.0])
    now = torch.tensor([1.0, -1.0, 0.0, 1.0, 1.0, math.nan])
    assert crosses(side, now, direction).int().tolist() == wanted
