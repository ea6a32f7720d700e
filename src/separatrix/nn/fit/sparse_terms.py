"""Sparse symbolic form of a learned function: its dominant monomials, by sequentially thresholded least squares."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import ClassVar

import torch
from torch import Tensor

from separatrix.core.checks import check_number, check_whole
from separatrix.core.errors import ShapeError
from separatrix.core.result import Result, Status
from separatrix.core.wording import counted, measured, plain

SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
ALIKE = 1e-10  # relative singular value below which terms are indistinguishable on the states
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SparseTerms(Result):
    r"""A function as a sparse sum of monomials,  f_i(x) ≈ Σ_j ξ_ij θ_j(x).

    Args:
        coefficients: ξ, shape (*batch, outputs, terms); 0 for dropped terms.
        error: ‖f_i − Σ_j ξ_ij θ_j‖ / ‖f_i‖ over the states, shape (*batch, outputs).
        terms: names of θ: "1", "x", "x y", "y²", …
    """

    coefficients: Tensor
    error: Tensor
    terms: tuple[str, ...]

    drawn_by: ClassVar[str] = "separatrix.plot.sparse_terms:sparse_terms_figure"
    layout: ClassVar[dict[str, str]] = {"coefficients": "batch output term", "error": "batch output"}
    units: ClassVar[dict[str, str]] = {"coefficients": "the function's unit over the term's", "error": "1"}

    def formula(self, i: int = 0) -> str:
        """Output i of the function in symbols; for a batch, with mean and standard deviation of each coefficient."""
        rows = self.coefficients[self.codes != Status.DIVERGED][:, i]
        if not len(rows):
            return "unknown"
        kept = (rows != 0).any(0).nonzero().flatten().tolist()
        shown = [_term(rows[:, j], self.terms[j]) for j in kept]
        return " + ".join(shown).replace("+ −", "− ") or "0"

    def summary(self) -> str:
        outputs = self.coefficients.shape[-2]
        formulas = "; ".join(f"f{str(i + 1).translate(SUBSCRIPTS)} = {self.formula(i)}" for i in range(outputs))
        count = int((self.codes != Status.DIVERGED).sum())
        over = f" (mean ± standard deviation of {counted(count, 'function')})" if count > 1 else ""
        known = self.error[self.codes != Status.DIVERGED]
        off = f"error up to {plain(100 * float(known.max()))} %" if known.numel() else "no finite values"
        alike = "; some terms are indistinguishable on these states, so their coefficients are unknown" if self._alike() else ""
        return f"{formulas}{over}; {off}{alike}."

    def _alike(self) -> bool:
        return bool((self.codes == Status.NOT_CONVERGED).any())


def sparse_terms(
    values: Tensor, states: Tensor, *, degree: int = 2, threshold: float = 0.1, names: Sequence[str] | None = None
) -> SparseTerms:
    r"""The dominant monomials of a function, from its values at some states:

        min_ξ ‖f_i − Θ ξ_i‖,   repeated without terms for which ‖ξ_ij θ_j‖ < threshold ‖f_i‖,   until no term is dropped

    Args:
        values: f at the states, shape (*batch, states, outputs); each batch item is a separate function, such as that of a seed.
        states: shape (*batch, states, dim) or (states, dim).
        degree: maximum degree of the monomials, which include the constant 1.
        threshold: minimum size of a term relative to the function, as root mean square over the states, 0 ≤ threshold < 1.
        names: names of the entries of a state. Default: x, y, z for up to three, else x₁, x₂, …

    Returns:
        SparseTerms in float64: `coefficients` (*batch, outputs, terms), `formula(i)`, `error`. The status is `not_converged` if the
        remaining terms are indistinguishable on these states (such as 1 and y if y is constant), so that only a combination of
        their coefficients is determined, and `diverged` if a value or state is not finite.

    Raises:
        ShapeError: values and states have different numbers of states, there are fewer states than terms, or names do not match.
        InputError: degree or threshold is out of range.
    Limits: states on one short orbit may not distinguish all terms; use all available orbits. Unlike in the source, the threshold
        refers to the sizes of terms and not to their coefficients, so the result does not depend on units.
    Source: Brunton, Proctor & Kutz 2016, PNAS 113, 3932.

    Example:
        >>> x = torch.linspace(-1, 1, 20)[:, None]
        >>> sx.sparse_terms(2 - 3 * x**2, x).formula()
        '2 − 3 x²'
    """
    values, states = (torch.as_tensor(given).detach().double() for given in (values, states))
    _check(values, states, degree, threshold)
    powers = _powers(states.shape[-1], degree)
    names = _default_names(states.shape[-1]) if names is None else tuple(names)
    library = torch.stack([states.pow(states.new_tensor(power)).prod(-1) for power in powers], dim=-1)
    if len(names) != states.shape[-1]:
        raise ShapeError(f"expected {states.shape[-1]} names, one per entry of the state, got {len(names)}.")
    if library.shape[-2] < len(powers):
        raise ShapeError(f"{len(powers)} terms need as many states, got {library.shape[-2]}.\nPass more states or a lower degree.")
    finite = torch.isfinite(values).flatten(-2).all(-1) & torch.isfinite(states).flatten(-2).all(-1)
    coefficients, apart = _thresholded(library.nan_to_num(), values.nan_to_num().mT, threshold)
    code = torch.where(apart.all(-1), int(Status.OK), int(Status.NOT_CONVERGED))
    misfit = values - library @ coefficients.mT
    size = values.norm(dim=-2).clamp(min=torch.finfo(values.dtype).tiny)
    return SparseTerms(
        codes=code.where(finite, int(Status.DIVERGED)).to(torch.int8),
        coefficients=coefficients.where(finite[..., None, None], torch.nan),
        error=misfit.norm(dim=-2) / size,
        terms=tuple(_in_words(power, names) for power in powers),
        settings={"degree": degree, "threshold": threshold},
    )


def _thresholded(library: Tensor, rows: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """ξ (*batch, outputs, terms) of functions (*batch, outputs, states), and whether it is determined by the states."""
    sizes = library.norm(dim=-2)[..., None, :]  # sizes of the terms
    unit = (library / library.norm(dim=-2, keepdim=True).clamp(min=torch.finfo(library.dtype).tiny))[..., None, :, :]
    kept = torch.ones(*rows.shape[:-1], library.shape[-1], dtype=torch.bool, device=rows.device)
    while True:
        shares = torch.linalg.lstsq(unit * kept[..., None, :], rows[..., None], driver="gelsd").solution[..., 0] * kept
        dropped = kept & (shares.abs() < threshold * rows.norm(dim=-1, keepdim=True))
        if not dropped.any():
            left = unit * (shares != 0)[..., None, :]
            apart = torch.linalg.matrix_rank(left, rtol=ALIKE) == (shares != 0).sum(-1)
            return shares / sizes.clamp(min=torch.finfo(library.dtype).tiny), apart
        kept = kept & ~dropped


def _powers(dim: int, degree: int) -> list[list[int]]:
    """Exponents of all monomials up to a degree, in increasing order."""
    chosen = [pick for total in range(degree + 1) for pick in combinations_with_replacement(range(dim), total)]
    return [[pick.count(i) for i in range(dim)] for pick in chosen]


def _default_names(dim: int) -> tuple[str, ...]:
    return ("x", "y", "z")[:dim] if dim <= 3 else tuple(f"x{str(i + 1).translate(SUBSCRIPTS)}" for i in range(dim))


def _in_words(power: list[int], names: Sequence[str]) -> str:
    parts = [name + ("" if p == 1 else str(p).translate(SUPERSCRIPTS)) for name, p in zip(names, power, strict=True) if p]
    return " ".join(parts) or "1"


def _term(values: Tensor, term: str) -> str:
    """A coefficient, or the mean and spread over a batch, and its monomial."""
    name = "" if term == "1" else f" {term}"
    if len(values) == 1:
        return f"{plain(float(values[0]))}{name}"
    shown = measured(float(values.mean()), float(values.std()))
    kept = int((values != 0).sum())
    return f"({shown}){name}" + ("" if kept == len(values) else f" [{kept} of {len(values)}]")


def _check(values: Tensor, states: Tensor, degree: int, threshold: float) -> None:
    if values.ndim < 2 or states.ndim < 2 or values.shape[-2] != states.shape[-2]:
        raise ShapeError(
            f"expected equal numbers of values and states, got shapes {tuple(values.shape)} and {tuple(states.shape)}.\n"
            "Pass values (*batch, states, outputs) and states (*batch, states, dim) or (states, dim)."
        )
    check_whole("degree", degree, 0)
    check_number("threshold", threshold, 0, 1, "[)")
