"""Conserved quantities: linear ones are detected from the residual; they select one fixed point from a line of them."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from separatrix.core.errors import InputError, SeparatrixError
from separatrix.core.randomness import torch_generator

SMALL = 1e-8  # least over greatest singular value of a balanced Jacobian below which a quantity may be conserved
ROUNDED = 1e-11  # a sum below this fraction of its terms is rounding error
SPREAD = 0.5  # standard deviation of the trial states: of their logarithm, and relative to their size
COMBINATIONS = 20_000  # maximum number of sets of components tried in the search for weights of one sign
DENOMINATORS = 12  # weights within rounding of a fraction are replaced by it, up to this denominator
NEAR, LARGEST = 1e-7, 1_000

# Note [Totals]
# If w·f(x) = 0 for all x, as for the atoms of a closed reaction network, w·x is constant, every Jacobian has w as a left null
# vector, and fixed points form lines. Such a w is found as the solution of w·f = 0 over random states at several values of the
# parameter. The equations W x = c, with the weights as the rows of W, are then added to G(x) = 0. They replace equations that have
# become redundant, so the system is overdetermined but consistent, and least squares solves it exactly. On W's null space, where
# the totals are constant, the Jacobian is what elimination by hand would leave: all test functions of a branch are evaluated there.


@dataclass(frozen=True)
class Totals:
    """Conserved quantities:  w·x for each row w of weights, preceded by at most one function of x.

    Args:
        weights: (total, dim), float64.
        function: state ↦ number.
    """

    weights: Tensor
    function: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.weights) + (self.function is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """The quantities in words: "x[0] + 2 x[3]"."""
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
    """A sum in words: "x[0] + 2 x[3]"."""
    terms = [(float(w), i) for i, w in enumerate(weights.tolist()) if w]
    text = " + ".join((f"x[{i}]" if w == 1 else f"{w:.6g} x[{i}]") for w, i in terms)
    return text.replace("+ -1 x", "− x").replace("+ -", "− ")


def may_conserve(jacobian: Tensor) -> bool:
    """Whether a Jacobian is singular, or nearly so, after balancing its rows and columns."""
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
    """Weights w with w·r(x) = 0 for all x and every residual r, sparse and simple where possible, (total, dim).

    Args:
        residuals: of the system at several values of the parameter, each (*batch, dim) to (*batch, dim).
        x: a state, (dim).
        size: size of each component, (dim).
    """
    trials = torch.cat([_finite_rows(residual, _states(x, size)) for residual in residuals])
    column = trials.abs().amax(0)
    scaled = trials / torch.where(column > 0, column, 1.0)
    scaled = scaled / scaled.abs().amax(1, keepdim=True).clamp(min=torch.finfo(scaled.dtype).tiny)
    if len(scaled) < 2 * x.shape[-1]:
        return x.new_zeros(0, x.shape[-1])
    _, values, right = torch.linalg.svd(scaled, full_matrices=False)
    null = right[values <= ROUNDED * values[0].clamp(min=torch.finfo(values.dtype).tiny)]
    basis = _sparse_basis(null)  # for components in units of their rates, so that a weight near 0 is rounding error
    basis = torch.where(basis.abs() <= NEAR * basis.abs().amax(1, keepdim=True), 0.0, basis) if len(basis) else basis
    basis = basis / torch.where(column > 0, column, 1.0)
    basis = torch.stack([_simple_numbers(row) for row in basis]) if len(basis) else basis
    return basis[[is_conserved(row, trials) for row in basis]] if len(basis) else basis


def is_conserved(weights: Tensor, trials: Tensor) -> bool:
    """Whether a weighted sum of the residual's components is zero at all trial states."""
    return bool(((trials @ weights).abs() <= 10 * ROUNDED * (trials.abs() @ weights.abs())).all())


def trial_residuals(residuals: Sequence[Callable[[Tensor], Tensor]], x: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Random states around x and the residuals there, (trial, dim) each; only those with finite residuals."""
    states = [_states(x, size) for _ in residuals]
    values = [residual(each) for residual, each in zip(residuals, states, strict=True)]
    finite = [torch.isfinite(value).all(-1) for value in values]
    return (
        torch.cat([each[kept] for each, kept in zip(states, finite, strict=True)]),
        torch.cat([each[kept] for each, kept in zip(values, finite, strict=True)]),
    )


def _states(x: Tensor, size: Tensor) -> Tensor:
    """Random states around x; half of them keep the sign of each component, as concentrations must."""
    count = 2 * x.shape[-1] + 16
    generator = torch_generator(0, "states at which a sum is tried")
    noise = torch.randn(2, count, x.shape[-1], dtype=torch.float64, generator=generator).to(x)
    scaled = torch.where(x == 0, size, x) * (SPREAD * noise[0]).exp()
    return torch.cat([scaled, x + SPREAD * size * noise[1]])


def _finite_rows(residual: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
    values = residual(states)
    return values[torch.isfinite(values).all(-1)]


def _sparse_basis(null: Tensor) -> Tensor:
    """A basis of sums with weights of one sign and fewest terms if there is one; otherwise an echelon form."""
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


def _simple_numbers(weights: Tensor) -> Tensor:
    """Weights scaled to a least weight of 1, rounded to simple fractions where they are within rounding of them."""
    weights = weights / weights[weights != 0].abs().amin() * (1 if weights.sum() >= 0 else -1)
    for denominator in range(1, DENOMINATORS + 1):
        whole = (denominator * weights).round()
        is_near = (denominator * weights - whole).abs() <= NEAR * denominator * weights.abs()
        if bool((is_near & (whole.abs() <= LARGEST)).all()):
            return whole / denominator
    return weights


def with_given(found: Tensor, given: Tensor | Callable[[Tensor], Tensor], states: Tensor, residuals: Tensor) -> Totals:
    """The totals, those given by the user first; refuses one that is not conserved.

    Args:
        found: detected weights, (total, dim).
        given: weights, (dim) or (total, dim), or a function of the state.
        states, residuals: trial states and the residuals there, (trial, dim).
    """
    if not isinstance(given, Tensor):
        slopes = _gradients(given, states, residuals)
        is_linear = torch.linalg.matrix_rank(torch.cat([found, slopes]), rtol=NEAR) == len(found)
        return Totals(_independent([slopes[0]], found)[1:] if is_linear else found, given)
    rows = given.to(found).reshape(-1, found.shape[-1])
    for row in rows:
        if not is_conserved(row, residuals):
            worst = float((residuals @ row).abs().amax())
            raise InputError(
                f"the total {in_words(row)} is not conserved: near x0 it changes by up to {worst:.3g} per unit time or step.\n"
                f"{known_words(found)}"
            )
    return Totals(_independent(list(rows), found))


def _independent(first: list[Tensor], more: Sequence[Tensor] | Tensor) -> Tensor:
    """The first rows, followed by those of the others that are linearly independent of the rows before."""
    kept = list(first)
    for row in more:
        trial = torch.stack([*kept, row])
        if torch.linalg.svdvals(trial / trial.norm(dim=1, keepdim=True))[-1] > NEAR:
            kept.append(row)
    return torch.stack(kept)


def _gradients(given: Callable[[Tensor], Tensor], states: Tensor, residuals: Tensor) -> Tensor:
    """Gradients of the function at each state, (trial, dim); refuses a function that is not conserved."""
    try:
        slopes = torch.stack([torch.func.grad(lambda y: given(y).reshape(()))(x) for x in states])
    except (RuntimeError, TypeError, AttributeError, SeparatrixError) as error:
        raise InputError(
            f"total cannot be differentiated: {str(error).strip().splitlines()[0]}.\n"
            "Pass a function of one state, shape (dim), that returns a tensor of one number."
        ) from None
    change, terms = (slopes * residuals).sum(-1).abs(), (slopes * residuals).abs().sum(-1)
    if bool((change > 1e-9 * terms).any()):
        raise InputError(
            f"total is not conserved: near x0 it changes by up to {float(change.amax()):.3g} per unit time or step, in terms of up "
            f"to {float(terms.amax()):.3g}.\nPass a function whose gradient is orthogonal to the field everywhere."
        )
    return slopes


def known_words(found: Tensor) -> str:
    """The conserved sums, in a sentence."""
    if not len(found):
        return "This system conserves no linear sum of its state."
    return f"This system conserves {', '.join(in_words(row) for row in found)}, and linear combinations of these."
