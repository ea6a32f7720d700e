"""A learned function in symbols: the few monomials that make most of it, by sequentially thresholded least squares."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import ClassVar

import torch
from torch import Tensor

from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.result import Result, Status
from separatrix.core.wording import counted, measured, plain

SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
ALIKE = 1e-10  # least singular value, of the greatest, of terms that states tell apart
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SparseTerms(Result):
    r"""A function as a sum of few monomials,  f_i(x) ≈ Σ_j ξ_ij θ_j(x).

    Args:
        coefficients: ξ, shape (*batch, outputs, terms); 0 for a term that was dropped.
        error: ‖f_i − Σ_j ξ_ij θ_j‖ / ‖f_i‖ over the states, shape (*batch, outputs).
        terms: θ, in words: "1", "x", "x y", "y²", …
    """

    coefficients: Tensor
    error: Tensor
    terms: tuple[str, ...]

    layout: ClassVar[dict[str, str]] = {"coefficients": "batch output term", "error": "batch output"}
    units: ClassVar[dict[str, str]] = {"coefficients": "the function's unit over the term's", "error": "1"}

    def formula(self, i: int = 0) -> str:
        """The i-th number of the function in symbols; of a batch, the mean and standard deviation of each coefficient."""
        rows = self.coefficients[self.codes != Status.DIVERGED][:, i]
        if not len(rows):
            return "unknown"
        kept = (rows != 0).any(0).nonzero().flatten().tolist()
        told = [_term(rows[:, j], self.terms[j]) for j in kept]
        return " + ".join(told).replace("+ −", "− ") or "0"

    def summary(self) -> str:
        """The formulas, and how far off they are."""
        outputs = self.coefficients.shape[-2]
        told = "; ".join(f"f{str(i + 1).translate(SUBSCRIPTS)} = {self.formula(i)}" for i in range(outputs))
        count = int((self.codes != Status.DIVERGED).sum())
        over = f" (mean ± standard deviation of {counted(count, 'function')})" if count > 1 else ""
        known = self.error[self.codes != Status.DIVERGED]
        off = f"off by up to {plain(100 * float(known.max()))} %" if known.numel() else "none is finite"
        alike = "; some terms are alike on these states, so their coefficients are not known" if self._alike() else ""
        return f"{told}{over}; {off}{alike}."

    def _alike(self) -> bool:
        return bool((self.codes == Status.NOT_CONVERGED).any())


def sparse_terms(
    values: Tensor, states: Tensor, *, degree: int = 2, threshold: float = 0.1, names: Sequence[str] | None = None
) -> SparseTerms:
    r"""The few monomials that make most of a function, from its values at some states:

        min_ξ ‖f_i − Θ ξ_i‖,   then again without the terms of which ‖ξ_ij θ_j‖ < threshold ‖f_i‖,   until none is left out

    Args:
        values: f at the states, shape (*batch, states, outputs); each batch item is a function of its own, such as a seed's.
        states: where, shape (*batch, states, dim) or (states, dim).
        degree: of the library of monomials, from "1" on.
        threshold: what share of the function a term must make, root mean square over the states.
        names: of the numbers in a state. Default: x, y, z for up to three; else x₁, x₂, …

    Returns:
        SparseTerms, in float64: `coefficients` (*batch, outputs, terms), `formula(i)` in symbols, `error`; status `not_converged`
        where the terms that are left are alike on these states, such as 1 and y where y never changes, so that of their
        coefficients only the sum is known; `diverged` where a value or a state is not finite.

    Raises:
        ShapeError: values and states do not belong together, or there are fewer states than terms.
        InputError: a number out of range.
    Limits: states on one short orbit cannot tell all terms apart; take as many orbits as there are. The threshold is of the
        terms' sizes, not of their coefficients as in the source, so that it does not depend on units.
    Source: Brunton, Proctor & Kutz 2016, PNAS 113, 3932.
    """
    values, states = (torch.as_tensor(given).detach().double() for given in (values, states))
    _check(values, states, degree, threshold)
    powers = _powers(states.shape[-1], degree)
    names = _default_names(states.shape[-1]) if names is None else tuple(names)
    library = torch.stack([states.pow(states.new_tensor(power)).prod(-1) for power in powers], dim=-1)
    if len(names) != states.shape[-1]:
        raise ShapeError(f"a state has {states.shape[-1]} numbers, but there are {len(names)} names.")
    if library.shape[-2] < len(powers):
        raise ShapeError(f"{library.shape[-2]} states cannot tell {len(powers)} terms apart.\nGive more states, or a lower degree.")
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
    """ξ, (*batch, outputs, terms), of functions, (*batch, outputs, states), and whether the states tell its terms apart."""
    sizes = library.norm(dim=-2)[..., None, :]  # of the terms
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
    """Exponents of all monomials up to a degree, the lower ones first."""
    chosen = [pick for total in range(degree + 1) for pick in combinations_with_replacement(range(dim), total)]
    return [[pick.count(i) for i in range(dim)] for pick in chosen]


def _default_names(dim: int) -> tuple[str, ...]:
    return ("x", "y", "z")[:dim] if dim <= 3 else tuple(f"x{str(i + 1).translate(SUBSCRIPTS)}" for i in range(dim))


def _in_words(power: list[int], names: Sequence[str]) -> str:
    parts = [name + ("" if p == 1 else str(p).translate(SUPERSCRIPTS)) for name, p in zip(names, power, strict=True) if p]
    return " ".join(parts) or "1"


def _term(values: Tensor, term: str) -> str:
    """A coefficient, or their mean and spread, and what it multiplies."""
    name = "" if term == "1" else f" {term}"
    if len(values) == 1:
        return f"{plain(float(values[0]))}{name}"
    told = measured(float(values.mean()), float(values.std()))
    kept = int((values != 0).sum())
    return f"({told}){name}" + ("" if kept == len(values) else f" [{kept} of {len(values)}]")


def _check(values: Tensor, states: Tensor, degree: int, threshold: float) -> None:
    if values.ndim < 2 or states.ndim < 2 or values.shape[-2] != states.shape[-2]:
        raise ShapeError(
            f"values of shape {tuple(values.shape)} do not belong to states of shape {tuple(states.shape)}.\n"
            "Give (*batch, states, outputs) and (*batch, states, dim), or (states, dim) for all."
        )
    if check_whole("degree", degree) < 0:
        raise InputError(f"degree is {degree}; it is 0 or more.")
    if not 0 <= threshold < 1:
        raise InputError(f"threshold is {threshold:g}; it is a share of the function's size, from 0 up to 1.")
