"""Values that a user passes, read or refused: NAME is VALUE; expected WHAT. A bool is never a number."""

from collections.abc import Hashable, Iterable
from math import inf
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from separatrix.core.errors import InputError, SeparatrixError

CLEAN = "Clean them first (numpy.nan_to_num, or drop the sequence): a NaN would spread over the whole run."


def check_whole(
    name: str,
    value: Any,
    least: int | None = None,
    most: int | None = None,
    *,
    way_out: str = "",
    error: type[SeparatrixError] = InputError,
) -> int:
    """A whole number within limits, as an int; `error` is raised if it is out of range."""
    fits = isinstance(value, Integral) and not isinstance(value, bool)
    if fits and (least is None or least <= value) and (most is None or value <= most):
        return int(value)
    limits = "" if least is None else f" of at least {least}" if most is None else f" from {least} to {most}"
    raise refused(name, value, f"a whole number{limits}", way_out, error if fits else InputError)


def check_number(name: str, value: Any, low: float = -inf, high: float = inf, ends: str = "()", *, way_out: str = "") -> float:
    """A finite number in an interval, as a float; `ends` are the interval's brackets, closed "[]" or open "()"."""
    is_scalar = isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex() and value.dtype != torch.bool
    if is_scalar or (isinstance(value, Real) and not isinstance(value, bool)):
        number = value.detach() if isinstance(value, Tensor) else value
        if (low <= number if ends[0] == "[" else low < number) and (number <= high if ends[1] == "]" else number < high):
            return float(number)
    if high < inf:
        expected = f"a number in {ends[0]}{low:g}, {high:g}{ends[1]}"
    else:
        expected = "a finite number" if low == -inf else "a positive number" if ends[0] == "(" else f"a number of at least {low:g}"
    raise refused(name, value, expected, way_out)


def check_positive(name: str, value: Any, *, way_out: str = "") -> float:
    """A positive finite number, as a float."""
    return check_number(name, value, 0, way_out=way_out)


def check_not_negative(name: str, value: Any, *, way_out: str = "") -> float:
    """A finite number of at least 0, as a float."""
    return check_number(name, value, 0, ends="[)", way_out=way_out)


def check_fraction(name: str, value: Any, *, way_out: str = "") -> float:
    """A number between 0 and 1, both excluded, as a float."""
    return check_number(name, value, 0, 1, way_out=way_out)


def check_flag(name: str, value: Any, *, way_out: str = "") -> bool:
    """True or False, as given."""
    if not isinstance(value, bool):
        raise refused(name, value, "True or False", way_out)
    return value


def check_choice(name: str, value: Any, choices: Iterable[Any], *, way_out: str = "") -> None:
    """Refuse a value that is not one of the choices."""
    choices = tuple(choices)
    if not isinstance(value, Hashable) or value not in choices:
        names = [repr(choice) for choice in choices]
        raise refused(name, value, " or ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:]), way_out)


def check_seed(seed: Any) -> int:
    """A seed that every generator in use accepts, as an int."""
    return check_whole("seed", seed, 0, 2**63 - 1)


def as_numbers(name: str, values: Any, dtype: torch.dtype | None = torch.float64) -> Tensor:
    """A tensor, an array or a nested list as a tensor of this dtype, which must be real; None keeps the dtype of the values."""
    if dtype is not None and isinstance(values, Tensor) and values.is_complex():
        raise InputError(
            f"{name}: expected real numbers, got {str(values.dtype).removeprefix('torch.')}.\n"
            f"Pass torch.view_as_real({name}).flatten(-2), the real and imaginary parts, if it is a state; else its real part."
        )
    if isinstance(values, bool):
        raise refused(name, values, "numbers")
    try:
        return torch.as_tensor(values, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} cannot be read as numbers: {_shown(values)} ({str(error).splitlines()[0]}).") from None


def as_inputs(name: str, values: Any) -> Tensor:
    """Real finite numbers as a floating-point tensor: what networks receive."""
    tensor = as_numbers(name, values, None)
    if tensor.is_complex():
        raise InputError(f"{name}: expected real numbers, got {str(tensor.dtype).removeprefix('torch.')}.")
    tensor = tensor if tensor.is_floating_point() else tensor.double()
    check_all_finite(name, tensor)
    return tensor


def check_all_finite(name: str, tensor: Tensor, way_out: str = CLEAN) -> None:
    """Refuse a tensor with numbers that are not finite; the message has their count and the place of the first."""
    bad = ~torch.isfinite(tensor)
    if bad.any():
        place = f", the first at {bad.nonzero()[0].tolist()}" if tensor.ndim else ""
        raise InputError(f"{int(bad.sum())} of {tensor.numel()} numbers of {name} are not finite{place}.\n{way_out}".strip())


def refused(name: str, value: Any, expected: str, way_out: str = "", error: type[SeparatrixError] = InputError) -> SeparatrixError:
    """The error that refuses a value: what was found and what was expected, then what to do."""
    return error(f"{name} is {_shown(value)}; expected {expected}." + (f"\n{way_out}" if way_out else ""))


def _shown(value: Any) -> str:
    text = str(value) if isinstance(value, Real) else repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"a {type(value).__name__}, {text.splitlines()[0][:60]}…"
