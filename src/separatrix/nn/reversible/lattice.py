"""Numbers on a lattice of whole multiples of 2⁻ᵏ: sums, and products with a fraction, that are undone without an error."""

from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Real

import torch
from torch import Tensor

from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError

BITS, BITS_OF_FLOAT64 = 40, 48  # behind the point: the spacings 9e-13 and 4e-15, in reach of 4e6 and 16,000
FEWEST_BITS, MOST_BITS = 8, 56
REACH = 2**62  # whole numbers below it add up within int64
LARGEST_DENOMINATOR = 1000
WORD = 2**63  # a store of digits stays below it

# Note [Digits that a product leaves over]
# Floats lose a digit in each sum, and v ↦ γv loses log2(1/γ) bits of v for good: it contracts. On whole numbers sums lose
# nothing, and v ↦ (n/d) v is undone where what it leaves over is kept. It is pushed onto a store, a whole number with digits of
# changing base: the remainder of v by d goes in (base d), and a digit of base n comes out to be the last one of the product.
# So the store grows by the factor d/n in each product, log2(1/γ) bits, and nothing else is remembered.


@dataclass(frozen=True)
class Lattice:
    """Whole multiples of 2⁻ᵇ as int64, beside floats of one type.

    Args:
        dtype: of the floats.
        bits: b.
    """

    dtype: torch.dtype
    bits: int

    @classmethod
    def of(cls, x: Tensor, bits: int | None) -> "Lattice":
        """That for numbers like x, with as many bits behind the point as asked or as fit."""
        default = BITS_OF_FLOAT64 if x.dtype == torch.float64 else BITS
        return cls(x.dtype, default if bits is None else bits)

    def nearest(self, x: Tensor) -> Tensor:
        """The multiples nearest to x; 0 for NaN."""
        wide = x.to(self._wide) * 2.0**self.bits
        return wide.nan_to_num(0.0, REACH, -REACH).clamp(-REACH, REACH).round().to(torch.int64)

    def floats(self, whole: Tensor) -> Tensor:
        """The multiples as floats, rounded once."""
        return (whole.to(self._wide) * 2.0**-self.bits).to(self.dtype)

    def misses(self, x: Tensor) -> Tensor:
        """Where x is not finite, or beyond the lattice."""
        return ~(x.abs() < REACH / 2.0**self.bits)

    @property
    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)


@dataclass
class Digits:
    """What products with the fraction n/d leave over; see Note [Digits that a product leaves over].

    Args:
        fraction: n/d, above 0 and at most 1.
        stores: whole numbers of the state's shape, one for as many products as fit.
        products: how many are in each.
    """

    fraction: Fraction
    stores: list[Tensor] = field(default_factory=list)
    products: list[int] = field(default_factory=list)
    _bound: int = WORD  # the last store stays below it

    def shrink(self, v: Tensor) -> Tensor:
        """(n/d) v, to a unit of the last n."""
        if self.fraction == 1:
            return v
        n, d = self.fraction.as_integer_ratio()
        if self._bound * d > WORD:
            self._open(v)
        v, left = divided(v, d)
        self.stores[-1], last = divided(self.stores[-1] * d + left, n)
        self.products[-1] += 1
        self._bound = (self._bound * d - 1) // n + 1
        return v * n + last

    def grow(self, v: Tensor) -> Tensor:
        """What `shrink` last took to v."""
        if self.fraction == 1:
            return v
        n, d = self.fraction.as_integer_ratio()
        if not self.products[-1]:
            self.stores.pop()
            self.products.pop()
        v, last = divided(v, n)
        self.stores[-1], left = divided(self.stores[-1] * n + last, d)
        self.products[-1] -= 1
        return v * d + left

    def _open(self, v: Tensor) -> None:
        self.stores.append(torch.zeros_like(v))
        self.products.append(0)
        self._bound = 1


def divided(whole: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder, which is from 0 to by − 1."""
    quotient = torch.div(whole, by, rounding_mode="floor")
    return quotient, whole - quotient * by


def as_fraction(gamma: float) -> Fraction:
    """The fraction nearest to γ with a denominator of at most 1,000, which 0.9 and 0.995 are."""
    known = isinstance(gamma, Real) and 0 < gamma <= 1
    fraction = Fraction(float(gamma)).limit_denominator(LARGEST_DENOMINATOR) if known else Fraction(0)
    if not fraction:
        raise InputError(f"gamma is {gamma!r}; it is above 0 and at most 1, such as 0.9.\nAt 0 nothing is left of a velocity.")
    return fraction


def check_bits(bits: int | None) -> int | None:
    """Refuse a lattice that is coarse, or without room before the point."""
    if bits is not None and not FEWEST_BITS <= check_whole("bits", bits) <= MOST_BITS:
        raise InputError(
            f"bits is {bits}; it is from {FEWEST_BITS} to {MOST_BITS}.\nLeave it out for {BITS}, or {BITS_OF_FLOAT64} in float64."
        )
    return bits
