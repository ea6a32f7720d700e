"""Statements that hold or raise an AssertionError which shows what was found and what was expected."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ROUNDING = 1e-10  # difference allowed between two orders of summation in float64, relative to the largest number


def require(holds: Any, broken: str) -> None:
    """Raise an AssertionError with the message `broken` unless the condition holds."""
    if not bool(holds):
        raise AssertionError(broken)


def agree(claim: str, got: Tensor, wanted: Tensor, tolerance: float = ROUNDING) -> None:
    """Require two tensors to be equal up to a tolerance relative to the largest expected number; NaN equals NaN."""
    require(got.shape == wanted.shape, f"{claim}: shape {tuple(got.shape)} against {tuple(wanted.shape)}.")
    parts = (torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor for tensor in (got, wanted))
    got, wanted = (tensor.detach().reshape(-1).double() for tensor in parts)
    same = (got == wanted) | (got.isnan() & wanted.isnan())
    gap = (got - wanted).abs().masked_fill(same, 0.0).nan_to_num(torch.inf)
    allowed = tolerance * max(1.0, float(wanted.abs().nan_to_num(0.0, posinf=0.0).amax())) if len(wanted) else 0.0
    worst = int(gap.argmax()) if len(gap) else 0
    if len(gap) and gap[worst] > allowed:
        apart = f"{gap[worst]:.2g} apart where {allowed:.2g} is allowed"
        raise AssertionError(f"{claim}: {got[worst]:.12g} against {wanted[worst]:.12g}, {apart}.")


def same_bits(claim: str, got: Tensor, wanted: Tensor) -> None:
    """Require two tensors of one dtype to be equal to the bit."""
    require(got.dtype == wanted.dtype, f"{claim}: {got.dtype} against {wanted.dtype}.")
    agree(claim, got, wanted, 0.0)


def attempt(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The value of a function; any exception becomes an AssertionError that says what failed."""
    try:
        return function(*arguments)
    except AssertionError:
        raise
    except Exception as error:
        told = str(error).strip().split("\n")[0]
        raise AssertionError(f"{what} failed with {type(error).__name__}: {told}") from error


def words(check: Callable[..., None]) -> str:
    """The name of a check as words."""
    return check.__name__.strip("_").replace("_", " ")
