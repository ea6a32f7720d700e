"""A straight sequence of scalar operations, and its translation into one Python function, with the tangents by the chain rule."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MOST_LINES = 4_000  # of a program
MIXED = -1  # the owner of a number that depends on several items, or on none


class NotStraight(Exception):
    """The step is no straight sequence of known operators."""


class Symbol:
    """A number that depends on the input: its place in the program."""

    __slots__ = ("place",)

    def __init__(self, place: int) -> None:
        self.place = place


Scalar = Symbol | float


@dataclass
class Program:
    """Scalar operations in order; each is a name and the scalars that it takes."""

    lines: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    known: dict[tuple[Any, ...], Symbol] = field(default_factory=dict)

    def add_line(self, name: str, *taken: Any) -> Symbol:
        key = (name, *(one.place if isinstance(one, Symbol) else (one,) for one in taken))
        if key not in self.known:
            if len(self.lines) >= MOST_LINES:
                raise NotStraight
            self.lines.append((name, taken))
            self.known[key] = Symbol(len(self.lines) - 1)
        return self.known[key]

    def add(self, a: Scalar, b: Scalar) -> Scalar:
        return a + b if _numbers(a, b) else self.add_line("+", a, b)

    def subtract(self, a: Scalar, b: Scalar) -> Scalar:
        return a - b if _numbers(a, b) else self.add_line("-", a, b)

    def multiply(self, a: Scalar, b: Scalar) -> Scalar:
        if _numbers(a, b):
            return a * b
        for one, other in ((a, b), (b, a)):
            if one == 1.0 and not isinstance(one, Symbol):
                return other
        return self.add_line("*", a, b)

    def divide(self, a: Scalar, b: Scalar) -> Scalar:
        return a / b if _numbers(a, b) else self.add_line("/", a, b)

    def apply(self, name: str, a: Scalar) -> Scalar:
        return self.add_line(name, float(a) if not isinstance(a, Symbol) else a)

    def power(self, a: Scalar, exponent: float) -> Scalar:
        """As PyTorch does: whole powers to 3 by products, roots by `sqrt`."""
        if exponent in (2.0, 3.0):
            square = self.multiply(a, a)
            return square if exponent == 2.0 else self.multiply(square, a)
        if exponent == 0.5:
            return self.apply("sqrt", a)
        if exponent in (-1.0, -2.0):
            return self.divide(1.0, a if exponent == -1.0 else self.multiply(a, a))
        return a if exponent == 1.0 else self.add_line("pow", a, float(exponent))


def _numbers(a: Scalar, b: Scalar) -> bool:
    return not (isinstance(a, Symbol) or isinstance(b, Symbol))


SLOPES = {  # of z = f(a), in terms of both
    "neg": "-1.0",
    "sin": "cos({a})",
    "cos": "-sin({a})",
    "tan": "1.0 + {z} * {z}",
    "tanh": "1.0 - {z} * {z}",
    "sinh": "cosh({a})",
    "cosh": "sinh({a})",
    "atan": "1.0 / (1.0 + {a} * {a})",
    "exp": "{z}",
    "expm1": "{z} + 1.0",
    "log": "1.0 / {a}",
    "log1p": "1.0 / (1.0 + {a})",
    "sqrt": "0.5 / {z}",
    "sigmoid": "{z} * (1.0 - {z})",
}
VALUES = {"neg": "-{a}", "sigmoid": "1.0 / (1.0 + exp(-{a}))"}
FUNCTIONS = {name: getattr(math, name) for name in ("sin", "cos", "tan", "tanh", "sinh", "cosh", "atan", "exp", "expm1", "log")}
FUNCTIONS |= {name: getattr(math, name) for name in ("log1p", "sqrt", "pow")}
FUNCTIONS |= {"inf": math.inf, "nan": math.nan}  # as constants are written

Run = Callable[..., tuple[float, ...]]


def compiled(program: Program, results: list[Scalar], items: int, k: int) -> tuple[Run, int]:
    """The program as a function of the number of steps, the numbers of the states and, with k > 0, of their tangents; its lines.

    Args:
        program: from `recorded`.
        results: from `recorded`.
        items: number of states in the batch.
        k: number of tangents of each.

    Raises:
        NotStraight: a number of one item depends on another item.
    """
    dim = len(results) // items
    _check_items(program, results, dim)
    text = _Text(program, k)
    for place in _needed(program, results):
        text.write(place)
    before = [f"x{i}" for i in range(len(results))] + [f"v{i}_{j}" for i in range(len(results)) for j in range(k)]
    after = [text.of(one) for one in results] + [slope for one in results for slope in text.tangents(one) or ["0.0"] * k]
    body = [*text.lines, f"{', '.join(before)}, = {', '.join(after)},"]
    head, foot = [f"def run(steps, {', '.join(before)}):", "  for _ in range(steps):"], f"  return {', '.join(before)},"
    made: dict[str, Any] = {}
    source = "\n".join([*head, *(f"    {line}" for line in body), foot])
    exec(compile(source, "<scalar program>", "exec"), dict(FUNCTIONS), made)
    return made["run"], len(text.lines)


class _Text:
    """The lines of Python for the operations of a program.

    Args:
        program: the program.
        k: number of tangents.
    """

    def __init__(self, program: Program, k: int) -> None:
        self.program = program
        self.k = k
        self.lines: list[str] = []

    def of(self, one: Scalar) -> str:
        """A scalar as it is written."""
        if not isinstance(one, Symbol):
            return repr(float(one))
        name, taken = self.program.lines[one.place]
        return f"x{taken[0]}" if name == "input" else f"z{one.place}"

    def tangents(self, one: Scalar) -> list[str]:
        """The names of its tangents; none for a constant."""
        if not isinstance(one, Symbol):
            return []
        name, taken = self.program.lines[one.place]
        return [f"v{taken[0]}_{i}" if name == "input" else f"d{one.place}_{i}" for i in range(self.k)]

    def write(self, place: int) -> None:
        """Add the lines of an operation and of its tangents."""
        name, taken = self.program.lines[place]
        if name == "input":
            return
        own = Symbol(place)
        self.lines.append(f"{self.of(own)} = {self._value(name, taken)}")
        if self.k:
            slopes = self._slopes(own, name, taken)
            self.lines.extend(f"{d} = {slope}" for d, slope in zip(self.tangents(own), slopes, strict=True))
        if len(self.lines) > MOST_LINES:
            raise NotStraight

    def _value(self, name: str, taken: tuple[Any, ...]) -> str:
        a = self.of(taken[0])
        if name in "+-*/%":
            return f"{a} {name} {self.of(taken[1])}"
        return f"pow({a}, {taken[1]!r})" if name == "pow" else VALUES.get(name, name + "({a})").format(a=a)

    def _slopes(self, own: Symbol, name: str, taken: tuple[Any, ...]) -> list[str]:
        a, z, da = self.of(taken[0]), self.of(own), self.tangents(taken[0])
        if name not in "+-*/%":
            slope = f"{taken[1]!r} * pow({a}, {taken[1] - 1.0!r})" if name == "pow" else SLOPES[name].format(a=a, z=z)
            self.lines.append(f"f{own.place} = {slope}")
            return [f"f{own.place} * {d}" for d in da]
        b, db = self.of(taken[1]), self.tangents(taken[1]) if name != "%" else []
        weights = {"+": ("{}", "+ {}"), "-": ("{}", "- {}"), "%": ("{}", ""), "*": (f"{{}} * {b}", f"+ {{}} * {a}")}
        of_a, of_b = weights.get(name, ("{}", f"- {z} * {{}}"))
        sums = [f"{of_a.format(da[i]) if da else ''} {of_b.format(db[i]) if db else ''}".strip() for i in range(self.k)]
        return [f"({total}) / {b}" for total in sums] if name == "/" else sums


def _check_items(program: Program, results: list[Scalar], dim: int) -> None:
    """Refuse a program in which a number of one item depends on another item."""
    owner: list[int] = []
    for name, taken in program.lines:
        owners = {taken[0] // dim} if name == "input" else {owner[one.place] for one in taken if isinstance(one, Symbol)}
        owner.append(owners.pop() if len(owners) == 1 else MIXED)
    for place, one in enumerate(results):
        if isinstance(one, Symbol) and owner[one.place] != place // dim:
            raise NotStraight


def _needed(program: Program, results: list[Scalar]) -> list[int]:
    """The lines that the results depend on, in order."""
    found, todo = set(), [one.place for one in results if isinstance(one, Symbol)]
    while todo:
        place = todo.pop()
        if place not in found:
            found.add(place)
            todo += [one.place for one in program.lines[place][1] if isinstance(one, Symbol)]
    return sorted(found)
