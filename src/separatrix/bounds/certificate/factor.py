"""A proven factor of one operator, and its rule: which arguments may depend on the input, and how they combine."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from separatrix.bounds.certificate.call import Call, NoBoundError
from separatrix.bounds.certificate.rounding import computed, plus, root, root_of_squares, times

ALONE, SUM, SQUARES = "alone", "sum of both", "root of the sum of squares"


@dataclass(frozen=True)
class Factor:
    """‖f(x) − f(y)‖ ≤ value ‖x − y‖, proven by a method.

    Args:
        value: the factor.
        method: method of the proof, in a few words.
        lower: lower bound of every valid factor; NaN if unknown.
    """

    value: float
    method: str
    lower: float = math.nan


def attained(value: float, method: str) -> Factor:
    """A factor that some x and y attain, or come as near to as one likes: no smaller one is true."""
    return Factor(value, method, value)


@dataclass(frozen=True)
class Rule:
    """The factor of an operator in one of its arguments, whatever the others that may be active beside it are.

    Args:
        factor: of a call of which one argument depends on the input.
        active: the arguments that may: groups of names that may do so together, "input bias | weight bias"; "" is the first.
        joined: how what several arguments contribute is put together: SUM; SQUARES where it moves different outputs, or where
            the slopes in them have squares that add up to 1 at most; ALONE where one at a time is all that is proven.
        is_complex: whether it holds of complex numbers, as pairs of real ones.
    """

    factor: Callable[[Call], Factor]
    active: str = ""
    joined: str = ALONE
    is_complex: bool = False

    def check(self, call: Call, why: str | None) -> None:
        """Refuse what depends on the input in another place than the rule is proven for.

        Raises:
            NoBoundError: it does; `why` is the reason of this operator, where there is one.
        """
        names = set(call.active_names)
        groups = [set(group.split()) for group in self.active.split("|")] if self.active else [{next(iter(call.values))}]
        strange = sorted(name for name in names if not any(name in group for group in groups))
        if strange:
            raise NoBoundError(why or f"no bound is known for {call.name} if its {_words(strange)} depends on the input")
        if not any(names <= group for group in groups) or (self.joined == ALONE and len(call.active) > 1):
            raise NoBoundError(why or "it multiplies two values that both depend on the input")
        if call.is_complex and not self.is_complex:
            raise NoBoundError(f"no bound is known for {call.name} of complex numbers")

    def behind(self, call: Call) -> tuple[float, Factor]:
        """The bound from the network's input to behind the operator, and the factor that it has of the largest before it."""
        active = call.active
        if len(active) == 1:
            factor = self.factor(call)
            return times(factor.value, active[0].bound), factor
        factors = [self.factor(call.alone(n)).value for n in range(len(active))]
        terms = [times(factor, part.bound) for factor, part in zip(factors, active, strict=True)]
        several = 1.0 if self.joined == SQUARES else root(float(len(active)))
        apart = root_of_squares(terms) if self.joined == SQUARES else _total(terms)
        reach = min(apart, times(several, times(max(factors), call.jointly)))
        largest = max(part.bound for part in active)
        return reach, Factor(reach / largest if 0 < largest < math.inf else math.nan, self.joined)


def by_argument(**factors: Callable[[Call], Factor]) -> Callable[[Call], Factor]:
    """The factor by the name of the argument that depends on the input."""
    return lambda call: factors[call.active_names[0]](call)


def schur(call: Call, method: str) -> Factor:
    r"""√(‖A‖₁ ‖A‖_∞) ≥ ‖A‖₂ for a matrix without negative entries, by A 1 and Aᵀ 1; exact where each output is one number.

    Source: Schur 1911, J. reine angew. Math. 140, 1.
    """
    call = call.in_double()
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


def broadcast(call: Call) -> float:
    """√ of how often each number of the active argument is used where it is broadcast."""
    shape = call.active[0].shape
    if shape == call.shape:
        return 1.0
    ones = torch.ones(1, dtype=torch.float64).expand(call.shape)
    return root(float(ones.sum_to_size(shape).max())) if ones.numel() else 0.0


def _total(terms: list[float]) -> float:
    total = terms[0]
    for term in terms[1:]:
        total = plus(total, term)
    return total


def _words(names: list[str]) -> str:
    return " and ".join(name.replace("_", " ") for name in names)
