"""A proven factor of one operator, and what every rule begins with."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from separatrix.nn.lipschitz.call import Active, Call, NoBoundError
from separatrix.nn.lipschitz.rounding import computed, root, times


@dataclass(frozen=True)
class Factor:
    """‖f(x) − f(y)‖ ≤ value ‖x − y‖, proven by a method.

    Args:
        value: the factor.
        method: in a few words.
        lower: that no factor can be below; NaN where that is not known.
    """

    value: float
    method: str
    lower: float = math.nan


def attained(value: float, method: str) -> Factor:
    """A factor that some x and y attain, or come as near to as one likes: no smaller one is true."""
    return Factor(value, method, value)


Rule = Callable[[Call], Factor]


def only_first(call: Call) -> None:
    """Refuse an operator whose first argument is a constant."""
    if not isinstance(call.first, Active):
        raise NoBoundError(f"what depends on the input is not what {call.name} acts on")


def schur(call: Call, method: str) -> Factor:
    r"""√(‖A‖₁ ‖A‖_∞) ≥ ‖A‖₂ for a matrix without negative entries, by A 1 and Aᵀ 1; exact where each output is one number.

    Source: Schur 1911, J. reine angew. Math. 140, 1.
    """
    only_first(call)
    ones = torch.ones(call.active[0].shape, dtype=torch.float64, device=call.device, requires_grad=True)
    with torch.enable_grad():
        outputs = [part for part in call.run(ones) if part.is_floating_point()]
        (columns,) = torch.autograd.grad(sum(part.sum() for part in outputs), ones)
    constant = call.run(torch.zeros_like(ones))
    sums = [(part.detach() - zero).abs() for part, zero in zip(outputs, constant, strict=True) if part.numel()]
    rows = max((float(part.max()) for part in sums), default=0.0)  # a cut may be of nothing
    value = root(times(rows, float(columns.max())))
    whole = rows.is_integer() and float(columns.max()).is_integer()
    value = value if whole else computed(value)
    return Factor(value, method) if call.name == "cumsum" else attained(value, method)
