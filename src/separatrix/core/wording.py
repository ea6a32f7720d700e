"""Numbers as text: a value and its error with the same digits, powers of ten, counts."""

import math

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
ROUNDING = 1e-14  # relative errors below this are rounding errors


def measured(value: float, error: float = math.nan) -> str:
    """A value with its error, rounded to the error's leading digit: −0.4305 ± 0.0002; without an error, four digits."""
    if not math.isfinite(value):
        return plain(value)
    if not (math.isfinite(error) and error >= ROUNDING * max(1, abs(value))):
        return plain(value)
    if error < 1e-6 * abs(value):
        return f"{plain(value)} ± {plain(error)}"
    size = max(abs(value), error)
    power = 0 if 1e-3 <= size < 1e6 else math.floor(math.log10(size))
    value, error = value / 10**power, error / 10**power
    digits = min(max(_decimals(error), 0), 12)
    text = f"{round(value, digits) + 0.0:.{digits}f} ± {error:.{digits}f}".replace("-", "−")
    return text if power == 0 else f"({text}) × 10{superscript(power)}"


def plain(value: float) -> str:
    """A number to four digits: −0.4305, 3.1 × 10⁻⁹, −∞, or "unknown" for NaN."""
    if math.isnan(value):
        return "unknown"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.4g}".replace("-", "−")
    digits, power = f"{value:.1e}".split("e")  # rounded first: 9.996e-4 is 1 × 10⁻³
    return f"{float(digits):g} × 10{superscript(int(power))}".replace("-", "−")


def counted(number: int, noun: str) -> str:
    """1 run, 2 runs, 3,000 runs."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def superscript(number: int) -> str:
    """An integer in superscript digits."""
    return str(number).translate(SUPERSCRIPTS)


def power_of_ten(exponent: float) -> str:
    """10⁻³; 1 for 10⁰."""
    return "1" if exponent == 0 else f"10{superscript(round(exponent))}"


def _decimals(error: float) -> int:
    """Number of decimals that show the leading digit of an error, or two digits if the first is a 1."""
    leading = math.floor(math.log10(error))
    return -leading + (1 if error / 10**leading < 1.95 else 0)
