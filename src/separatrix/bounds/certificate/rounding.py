"""Products, sums and roots that never fall below the true value: each is rounded upwards."""

import math
from fractions import Fraction

ROUNDING = 1e-12  # relative; above what float64 loses in a decomposition or a sum of some thousand numbers


def times(a: float, b: float) -> float:
    """a · b for numbers from 0 on, where 0 · ∞ = 0: what is constant stays so, whatever follows."""
    if 0 in (a, b):
        return 0.0
    found = a * b
    return _upwards(found, lambda: Fraction(found) >= Fraction(a) * Fraction(b))


def plus(a: float, b: float) -> float:
    """a + b."""
    found = a + b
    return _upwards(found, lambda: Fraction(found) >= Fraction(a) + Fraction(b))


def root(a: float) -> float:
    """√a."""
    found = math.sqrt(a)
    return _upwards(found, lambda: Fraction(found) ** 2 >= Fraction(a))


def root_of_squares(values: list[float]) -> float:
    """√(Σ a²)."""
    total = 0.0
    for value in values:
        total = plus(total, times(value, value))
    return values[0] if len(values) == 1 else root(total)


def computed(value: float) -> float:
    """A value that was computed in float64, with what its rounding may have taken."""
    return value * (1 + ROUNDING)


def _upwards(found: float, is_enough: object) -> float:
    return found if not math.isfinite(found) or is_enough() else math.nextafter(found, math.inf)
