"""Sums and products on a lattice of whole numbers that are undone without an error."""

import math
from fractions import Fraction

import pytest
import torch

import separatrix as sx
from separatrix.nn.reversible.lattice import REACH, Digits, Lattice, as_fraction, divided


@pytest.mark.parametrize("gamma", ["9/10", "1/2", "1/3", "199/200", "997/1000", "1/1000"])
def test_a_thousand_products_are_undone_bit_by_bit(gamma):
    """And each is within a unit of n of (n/d) v, by exact arithmetic in Python."""
    fraction, random = Fraction(gamma), torch.Generator().manual_seed(0)
    digits, v = Digits(fraction), torch.randint(-(2**61), 2**61, (64,), generator=random)
    pushes = torch.randint(-(2**55), 2**55, (1000, 64), generator=random)
    went = [v]
    for push in pushes:
        smaller = digits.shrink(v)
        exact = [fraction * number for number in v.tolist()]
        assert all(abs(x - y) < fraction.numerator for x, y in zip(smaller.tolist(), exact, strict=True))
        went.append(v := smaller + push)
    for push, before in zip(reversed(pushes), reversed(went[:-1]), strict=True):
        v = digits.grow(v - push)
        assert torch.equal(v, before)
    assert not any(store.any() for store in digits.stores)


@pytest.mark.parametrize("gamma", [0.5, 0.9, 0.99])
def test_a_product_leaves_log2_of_1_over_gamma_bits_over(gamma):
    """Words of 63 bits, of which the last digit's may be left empty, and the remainder that opens one."""
    digits, v = Digits(as_fraction(gamma)), torch.zeros(1, dtype=torch.int64)
    products = 5000
    for _ in range(products):
        v = digits.shrink(v)
    bits = -math.log2(gamma)
    room = 63 - 2 * math.log2(digits.fraction.denominator)
    assert products * bits / 63 <= len(digits.stores) <= products * bits / room + 1
    assert sum(digits.products) == products


def test_floats_of_few_digits_go_to_the_lattice_and_back_unchanged():
    for dtype, most in ((torch.float32, 2.0**21), (torch.float64, 2.0**13), (torch.bfloat16, 2.0**21)):
        x = torch.tensor([0.0, 0.5, -0.75, 1 + 2**-7, most], dtype=dtype)
        lattice = Lattice.of(x, None)
        assert torch.equal(lattice.floats(lattice.nearest(x)), x)
        assert not lattice.misses(x).any()
        assert lattice.misses(torch.tensor([4 * most, torch.inf, torch.nan], dtype=dtype)).all()


def test_what_is_beyond_the_lattice_does_not_wrap_around():
    lattice = Lattice.of(torch.zeros(1), None)
    assert lattice.nearest(torch.tensor([1e30, -torch.inf, torch.nan])).tolist() == [REACH, -REACH, 0]


def test_a_remainder_is_never_negative():
    quotient, left = divided(torch.tensor([-7, 7, -10]), 10)
    assert quotient.tolist() == [-1, 0, -1] and left.tolist() == [3, 7, 0]


def test_a_decimal_fraction_is_meant_as_written():
    assert as_fraction(0.9) == Fraction(9, 10) and as_fraction(0.995) == Fraction(199, 200) and as_fraction(1) == 1
    for gamma in (0.0, -0.1, 1.1, float("nan"), 1e-5, "0.9", None):
        with pytest.raises(sx.errors.InputError, match="gamma"):
            as_fraction(gamma)
