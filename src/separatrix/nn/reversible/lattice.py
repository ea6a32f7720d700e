"""Fixed-point numbers, multiples of 2⁻ᵏ: sums, and products with a fraction, that can be undone exactly."""

from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from separatrix.core.checks import check_number, check_positive, check_whole

BITS, BITS_OF_FLOAT64 = 40, 48  # fractional bits: spacings 9e-13 and 4e-15, numbers up to 4e6 and 16,000
FEWEST_BITS, MOST_BITS = 8, 56
REACH = 2**62  # integers below it add up within int64
LARGEST_DENOMINATOR = 1000
WORD = 2**63  # bound on a store of digits

# Note [Digits that a product leaves over]
# Sums of floats are rounded, and v ↦ γv loses log2(1/γ) bits of v because it contracts. Sums of integers are exact, and
# v ↦ (n/d) v can be undone if its remainder is kept. The remainder is pushed onto a store, an integer whose digits have varying
# bases: the remainder of v modulo d goes in (base d), and a digit of base n comes out as the last digit of the product. The store
# therefore grows by the factor d/n per product, log2(1/γ) bits, and nothing else is stored.


@dataclass(frozen=True)
class Lattice:
    """The multiples of 2⁻ᵇ as int64, and their conversion from and to floats.

    Args:
        dtype: dtype of the floats.
        bits: b, the number of fractional bits.
    """

    dtype: torch.dtype
    bits: int

    @classmethod
    def of(cls, x: Tensor, bits: int | None) -> "Lattice":
        """The lattice for numbers like x, with the given or the default number of bits."""
        default = BITS_OF_FLOAT64 if x.dtype == torch.float64 else BITS
        return cls(x.dtype, default if bits is None else bits)

    def nearest(self, x: Tensor) -> Tensor:
        """The nearest multiples; 0 for NaN."""
        wide = x.to(self._wide) * 2.0**self.bits
        return wide.nan_to_num(0.0, REACH, -REACH).clamp(-REACH, REACH).round().to(torch.int64)

    def floats(self, whole: Tensor) -> Tensor:
        """The multiples as floats, rounded once."""
        return (whole.to(self._wide) * 2.0**-self.bits).to(self.dtype)

    def misses(self, x: Tensor) -> Tensor:
        """Mask of entries that are not finite or out of range."""
        return ~(x.abs() < REACH / 2.0**self.bits)

    @property
    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.dtype, torch.float32)


@dataclass
class Digits:
    """Remainders of products with the fraction n/d; see Note [Digits that a product leaves over].

    Args:
        fraction: n/d, 0 < n/d ≤ 1.
        stores: integers of the state's shape, each holding as many products as fit.
        products: number of products in each store.
    """

    fraction: Fraction
    stores: list[Tensor] = field(default_factory=list)
    products: list[int] = field(default_factory=list)
    _bound: int = WORD  # bound on the last store

    def shrink(self, v: Tensor) -> Tensor:
        """(n/d) v, to within n units."""
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
        """The inverse of the last `shrink`."""
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
    """Quotient and remainder, the remainder from 0 to by − 1."""
    quotient = torch.div(whole, by, rounding_mode="floor")
    return quotient, whole - quotient * by


def as_fraction(gamma: float) -> Fraction:
    """The fraction nearest to γ with a denominator of at most 1,000; exact for 0.9 and 0.995."""
    fraction = Fraction(check_number("gamma", gamma, 0, 1, "(]")).limit_denominator(LARGEST_DENOMINATOR)
    check_positive(f"gamma, rounded to a denominator of {LARGEST_DENOMINATOR},", fraction)
    return fraction


def check_bits(bits: int | None) -> int | None:
    """Refuse a lattice that is too coarse or has too small a range."""
    if bits is not None:
        way_out = f"Leave it out for {BITS}, or {BITS_OF_FLOAT64} in float64."
        check_whole("bits", bits, FEWEST_BITS, MOST_BITS, way_out=way_out)
    return bits
