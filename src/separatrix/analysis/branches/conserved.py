"""Conserved quantities: linear ones are found from the residual alone; they single out one fixed point from a line of them."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.core.errors import InputError, SeparatrixError
from separatrix.core.randomness import torch_generator

SMALL = 1e-8  # least singular value, of the greatest, of a balanced Jacobian that may belong to a conserved quantity
ROUNDED = 1e-11  # share of a sum's terms below which it is rounding
SPREAD = 0.5  # of the logarithm of states at which a sum is tried, and of their size
COMBINATIONS = 20_000  # sets of components that are tried for weights without a sign
DENOMINATORS = 12  # weights are taken for fractions as simple as this where they are within rounding of one
NEAR, LARGEST = 1e-7, 1_000

# Note [Totals]
# If w·f(x) = 0 for all x, as for the atoms of a closed reaction network, w·x stays as it is, every Jacobian has w as a left null
# vector, and fixed points come in lines. A total is a linear sum that is found by asking for just that: w·f = 0 over states at
# random, at several values of the parameter. To the equations G(x) = 0 are then added W x = c, W the weights as rows: one more
# for each that the others make needless, so that they are solved as least squares whose least is 0. Along W's null space, where
# the totals stay, the Jacobian is what it would be after eliminating some numbers of the state by hand: all test functions of a
# branch are taken there.


@dataclass(frozen=True)
class Totals:
    """What is conserved:  w·x of each row of weights, and one function of x at most, which is the first.

    Args:
        weights: (total, dim), float64.
        function: x ↦ a number.
    """

    weights: Tensor
    function: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.weights) + (self.function is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """Each in words: "x[0] + 2 x[3]"."""
        own = () if self.function is None else (getattr(self.function, "__name__", type(self.function).__name__),)
        return own + tuple(in_words(row) for row in self.weights)

    def of(self, x: Tensor) -> Tensor:
        """Their values at a state, (total)."""
        sums = self.weights @ x
        return sums if self.function is None else torch.cat([self.function(x).reshape(1), sums])

    def rows(self, x: Tensor) -> Tensor:
        """Their gradients at a state, (total, dim)."""
        function = self.function
        if function is None:
            return self.weights
        return torch.cat([torch.func.grad(lambda y: function(y).reshape(()))(x)[None], self.weights])


def in_words(weights: Tensor) -> str:
    """A sum as one would write it."""
    terms = [(float(w), i) for i, w in enumerate(weights.tolist()) if w]
    text = " + ".join((f"x[{i}]" if w == 1 else f"{w:.6g} x[{i}]") for w, i in terms)
    return text.replace("+ -1 x", "− x").replace("+ -", "− ")


def may_conserve(jacobian: Tensor) -> bool:
    """Whether a Jacobian is singular, or nearly so, once its rows and columns are of one size."""
    matrix = jacobian.abs()
    rows, columns = torch.ones_like(matrix[:, 0]), torch.ones_like(matrix[0])
    for _ in range(10):
        rows = _inverse_root(rows, (matrix * columns).amax(1) * rows)
        columns = _inverse_root(columns, (matrix.mT * rows).amax(1) * columns)
    values = torch.linalg.svdvals(rows[:, None] * jacobian * columns)
    return bool(values[-1] <= SMALL * values[0])


def _inverse_root(scale: Tensor, size: Tensor) -> Tensor:
    return torch.where(size > 0, scale / size.clamp(min=torch.finfo(size.dtype).tiny).sqrt(), scale)


def conserved_sums(residuals: Sequence[Callable[[Tensor], Tensor]], x: Tensor, size: Tensor) -> Tensor:
    """Weights w with w·r(x) = 0 for all x and every residual, as few and as plain as can be, (total, dim).

    Args:
        residuals: of the system at several values of what is varied, each (*batch, dim) to (*batch, dim).
        x: a state, (dim).
        size: of each number of it, (dim).
    """
    trials = torch.cat([_finite_rows(residual, _states(x, size)) for residual in residuals])
    column = trials.abs().amax(0)
    scaled = trials / torch.where(column > 0, column, 1.0)
    scaled = scaled / scaled.abs().amax(1, keepdim=True).clamp(min=torch.finfo(scaled.dtype).tiny)
    if len(scaled) < 2 * x.shape[-1]:
        return x.new_zeros(0, x.shape[-1])
    _, values, right = torch.linalg.svd(scaled, full_matrices=False)
    null = right[values <= ROUNDED * values[0].clamp(min=torch.finfo(values.dtype).tiny)]
    basis = _plain_basis(null)  # of numbers in units of their own rates, so that a weight near 0 is rounding
    basis = torch.where(basis.abs() <= NEAR * basis.abs().amax(1, keepdim=True), 0.0, basis) if len(basis) else basis
    basis = basis / torch.where(column > 0, column, 1.0)
    basis = torch.stack([_plain_numbers(row) for row in basis]) if len(basis) else basis
    return basis[[is_conserved(row, trials) for row in basis]] if len(basis) else basis


def is_conserved(weights: Tensor, trials: Tensor) -> bool:
    """Whether a sum of the residual's numbers is zero wherever it was tried."""
    return bool(((trials @ weights).abs() <= 10 * ROUNDED * (trials.abs() @ weights.abs())).all())


def trial_residuals(residuals: Sequence[Callable[[Tensor], Tensor]], x: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """States about x at random, and the residuals there, (trial, dim) each; finite ones only."""
    states = [_states(x, size) for _ in residuals]
    values = [residual(each) for residual, each in zip(residuals, states, strict=True)]
    finite = [torch.isfinite(value).all(-1) for value in values]
    return (
        torch.cat([each[kept] for each, kept in zip(states, finite, strict=True)]),
        torch.cat([each[kept] for each, kept in zip(values, finite, strict=True)]),
    )


def _states(x: Tensor, size: Tensor) -> Tensor:
    """States about x: half of them with each number's sign kept, as concentrations need it."""
    count = 2 * x.shape[-1] + 16
    generator = torch_generator(0, "states at which a sum is tried")
    noise = torch.randn(2, count, x.shape[-1], dtype=torch.float64, generator=generator).to(x)
    scaled = torch.where(x == 0, size, x) * (SPREAD * noise[0]).exp()
    return torch.cat([scaled, x + SPREAD * size * noise[1]])


def _finite_rows(residual: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
    values = residual(states)
    return values[torch.isfinite(values).all(-1)]


def _plain_basis(null: Tensor) -> Tensor:
    """Sums of one sign where the space has such, those of the fewest numbers; else an echelon form."""
    count, dim = null.shape
    if count < 2:
        return null
    found: list[Tensor] = []
    if math.comb(dim, count - 1) <= COMBINATIONS:
        for zeros in itertools.combinations(range(dim), count - 1):
            values = torch.linalg.svd(null[:, zeros].mT)
            ray = values[2][-1] @ null
            ray = torch.where(ray.abs() <= NEAR * ray.abs().amax(), 0.0, ray)
            if bool((ray >= 0).all()) or bool((ray <= 0).all()):
                found.append(ray / ray[ray.abs().argmax()])
    if not found:
        return _echelon(null)
    simplest, *others = sorted(found, key=lambda one: int((one != 0).sum()))
    chosen = _independent([simplest], others)
    return chosen if len(chosen) == count else _echelon(null)


def _echelon(rows: Tensor) -> Tensor:
    rows = rows.clone()
    for i in range(len(rows)):
        pivot = int(rows[i:].abs().amax(0).argmax())
        best = i + int(rows[i:, pivot].abs().argmax())
        rows[[i, best]] = rows[[best, i]]
        rows[i] = rows[i] / rows[i, pivot]
        others = torch.arange(len(rows)) != i
        rows[others] = rows[others] - rows[others, pivot, None] * rows[i]
    return rows


def _plain_numbers(weights: Tensor) -> Tensor:
    """The least weight 1, and simple fractions where rounding allows them."""
    weights = weights / weights[weights != 0].abs().amin() * (1 if weights.sum() >= 0 else -1)
    for denominator in range(1, DENOMINATORS + 1):
        whole = (denominator * weights).round()
        is_near = (denominator * weights - whole).abs() <= NEAR * denominator * weights.abs()
        if bool((is_near & (whole.abs() <= LARGEST)).all()):
            return whole / denominator
    return weights


def with_asked(found: Tensor, asked: Tensor | Callable[[Tensor], Tensor], states: Tensor, residuals: Tensor) -> Totals:
    """The totals with that or those which were asked for first; refuses what is not conserved.

    Args:
        found: (total, dim).
        asked: weights, (dim) or (total, dim), or a function of the state.
        states, residuals: at which it is tried, (trial, dim).
    """
    if not isinstance(asked, Tensor):
        slopes = _gradients(asked, states, residuals)
        known = torch.linalg.matrix_rank(torch.cat([found, slopes]), rtol=NEAR) == len(found)  # a function, but a linear one
        return Totals(_independent([slopes[0]], found)[1:] if known else found, asked)
    rows = asked.to(found).reshape(-1, found.shape[-1])
    for row in rows:
        if not is_conserved(row, residuals):
            worst = float((residuals @ row).abs().amax())
            raise InputError(
                f"the total {in_words(row)} is not conserved: at states near x0 it changes by up to {worst:.3g} per unit time "
                f"or step.\n{known_words(found)}"
            )
    return Totals(_independent(list(rows), found))


def _independent(first: list[Tensor], more: Sequence[Tensor] | Tensor) -> Tensor:
    """The first rows, and of the others those that no sum of rows before is."""
    kept = list(first)
    for row in more:
        trial = torch.stack([*kept, row])
        if torch.linalg.svdvals(trial / trial.norm(dim=1, keepdim=True))[-1] > NEAR:
            kept.append(row)
    return torch.stack(kept)


def _gradients(asked: Callable[[Tensor], Tensor], states: Tensor, residuals: Tensor) -> Tensor:
    """Of the function at each state, (trial, dim); refuses one that the field does not conserve."""
    try:
        slopes = torch.stack([torch.func.grad(lambda y: asked(y).reshape(()))(x) for x in states])
    except (RuntimeError, TypeError, AttributeError, SeparatrixError) as error:
        raise InputError(
            f"total cannot be differentiated: {str(error).strip().splitlines()[0]}.\n"
            "It is a function of one state, shape (dim), that returns a tensor of one number."
        ) from None
    change, terms = (slopes * residuals).sum(-1).abs(), (slopes * residuals).abs().sum(-1)
    if bool((change > 1e-9 * terms).any()):
        raise InputError(
            f"total is not conserved: at a state near x0 it changes by {float(change.amax()):.3g} per unit time or step, in "
            f"terms of {float(terms.amax()):.3g}.\nPass a function whose gradient is across the field everywhere."
        )
    return slopes


def known_words(found: Tensor) -> str:
    """What is conserved, in a sentence."""
    if not len(found):
        return "No linear sum of this system's numbers is."
    return "What is conserved is " + ", and ".join(in_words(row) for row in found) + ", and sums of multiples of these."
