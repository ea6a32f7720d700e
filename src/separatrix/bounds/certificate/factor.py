"""A proven factor of one operator, and its rule: which arguments may depend on the input, and how they combine.

Note [Rules]
A function that gives the factor of a call becomes the rule of operators by `@rule("names of operators", …)`, in the file of their
family. `refuse("names", reason)` says why operators have none. `rules` lists the families; a new file must be added there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.bounds.certificate.call import Call, NoBoundError
from separatrix.bounds.certificate.rounding import plus, root, root_of_squares, times

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
        why: why there is no bound if other arguments depend on the input; None for a sentence that names them.
    """

    factor: Callable[[Call], Factor]
    active: str = ""
    joined: str = ALONE
    is_complex: bool = False
    why: str | None = None

    def check(self, call: Call) -> None:
        """Refuse what depends on the input in another place than the rule is proven for.

        Raises:
            NoBoundError: it does.
        """
        names = set(call.active_names)
        groups = [set(group.split()) for group in self.active.split("|")] if self.active else [{next(iter(call.values))}]
        strange = sorted(name for name in names if not any(name in group for group in groups))
        if strange:
            raise NoBoundError(self.why or f"no bound is known for {call.name} if its {_words(strange)} depends on the input")
        if not any(names <= group for group in groups) or (self.joined == ALONE and len(call.active) > 1):
            raise NoBoundError(self.why or "it multiplies two values that both depend on the input")
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


RULES: dict[str, Rule] = {}
"""By operator; filled where the families are imported. See Note [Rules]."""
REASONS: dict[str, str] = {}
"""Why an operator has no rule, where that is known."""


def rule(
    names: str, active: str = "", joined: str = ALONE, *, is_complex: bool = False, why: str | None = None
) -> Callable[[Callable[[Call], Factor]], Callable[[Call], Factor]]:
    """A decorator that makes a function the rule of operators.

    Args:
        names: their names, without namespace and overload, with blanks between them.
        active, joined, is_complex, why: as in `Rule`.
    """

    def keep(factor: Callable[[Call], Factor]) -> Callable[[Call], Factor]:
        for name in names.split():
            _refuse_second(name)
            RULES[name] = Rule(factor, active, joined, is_complex, why)
        return factor

    return keep


def refuse(names: str, why: str) -> None:
    """Operators without a rule, and the reason."""
    for name in names.split():
        _refuse_second(name)
        REASONS[name] = why


def _refuse_second(name: str) -> None:
    if name in RULES or name in REASONS:
        raise ValueError(f"expected one rule or reason for {name}, got two.\nRemove one of them.")


def broadcast(call: Call) -> float:
    """√ of how often each number of the active argument is used where it is broadcast."""
    shape = call.active[0].shape
    if shape == call.shape:
        return 1.0
    ones = torch.ones(1, dtype=torch.float64).expand(call.shape)
    return root(float(ones.sum_to_size(shape).max())) if ones.numel() else 0.0


def magnitudes(value: object, call: Call, *, signed: bool = False) -> Tensor:
    """|c| of what is held, in float64; c itself where it is asked for, and real."""
    dtype = None if isinstance(value, Tensor | complex) else torch.float64
    numbers = torch.as_tensor(value, dtype=dtype, device=call.device).detach()
    numbers = numbers.to(torch.complex128 if numbers.is_complex() else torch.float64)
    return numbers if signed else numbers.abs()


def _total(terms: list[float]) -> float:
    total = terms[0]
    for term in terms[1:]:
        total = plus(total, term)
    return total


def _words(names: list[str]) -> str:
    return " and ".join(name.replace("_", " ") for name in names)
