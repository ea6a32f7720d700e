"""Contraction budgets: Lipschitz factors of contractions, and step sizes that stay in the feasible set while they are learned."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_choice, check_fraction, check_not_negative, check_number, check_whole
from separatrix.core.errors import InputError
from separatrix.core.precision import at_least_single
from separatrix.nn.factory import Factory

Number = float | Tensor
INSIDE = 1e-5  # unused fraction of the room to expand, larger than its rounding in float32, so the product never exceeds 1
ROUNDINGS = 4  # units in the last place subtracted from each decay: near a factor of 0 the room depends on them
FIRST_CONTRACTION = 1.8  # initial step size: with ReLU, h = 2 loses no direction and h = 1 loses half of them
FIRST_EXPANSION = 0.5  # initial step size of an expansion
FIRST_STEP, FIRST_SHARE = 0.5, 0.9  # of a pair: the initial step size of the contraction, the fraction of its room that is used


def exact_factor(h: Number, slope: float, *, s_min: float = 1.0, s_max: float = 1.0) -> Tensor:
    r"""The Lipschitz factor of  x ↦ x − h AᵀΣ(Ax + b),   max(|1 − h a s_min²|, |1 − h s_max²|).

    The Jacobian I − h AᵀDA, with slopes D between a and 1, is symmetric with eigenvalues between 1 − h s_max² and 1 − h a s_min².
    The factor is the largest norm over all such D, so it is attained.

    Args:
        h: step sizes, a number or a tensor.
        slope: a, the smallest slope of the activation Σ; the largest is 1.
        s_min, s_max: bounds on the singular values of A,  s_min ‖x‖ ≤ ‖Ax‖ ≤ s_max ‖x‖.  An A with fewer rows than columns has
            s_min = 0.

    Returns:
        The factors, shape of h.

    Example:
        >>> sx.nn.parts.exact_factor(1.0, slope=0.5).item()  # max(1 − 0.5, 1 − 1)
        0.5
    """
    h = _tensor(h)
    return torch.maximum((1 - h * slope * s_min**2).abs(), (1 - h * s_max**2).abs())


def published_factor(h: Number, slope: float) -> Tensor:
    r"""The published bound  √(1 − 2 a h + h²)  on the Lipschitz factor of  x ↦ x − h AᵀΣ(Ax + b)  with AᵀA = I.

    For h ≥ 0 it is never below `exact_factor`.

    Args:
        h: step sizes, a number or a tensor.
        slope: a, the smallest slope of the activation Σ.

    Returns:
        The bounds, shape of h.
    Source: Celledoni et al. 2023, arXiv:2210.02373.

    Example:
        >>> sx.nn.parts.published_factor(0.5, slope=0.5).item()  # √(1 − 0.5 + 0.25)
        0.8660254037844386
    """
    h = _tensor(h)
    return (1 - 2 * slope * h + h**2).sqrt()


@dataclass(frozen=True)
class Budget:
    """A bound on the factor of a contraction, and the expansion that it permits.

    Args:
        factor: (h, slope) ↦ the bound.
        reach: slope ↦ the step size below which the bound is less than 1.
        decay: (h, slope, spared) ↦ −ln factor, accurate for factors near 1 and reduced by a fraction `spared` for rounding.
    """

    factor: Callable[[Number, float], Tensor]
    reach: Callable[[float], float]
    decay: Callable[[Tensor, float, float], Tensor]

    def room(self, h: Number, slope: float, substeps: int = 1, *, spared: float = 0.0) -> Tensor:
        """The largest h_E with  factor(h)^substeps (1 + h_E) ≤ 1;  negative if the factor exceeds 1."""
        return torch.expm1((1 - spared) * substeps * self.decay(_tensor(h), slope, spared))


def exact_decay(h: Tensor, slope: float, spared: float = 0.0) -> Tensor:
    """−ln factor, where the factor is 1 − min(a h, 2 − h) for h ≥ 0 and a ≤ 1."""
    return -torch.log1p(-(1 - spared) * torch.minimum(slope * h, 2 - h))


def published_decay(h: Tensor, slope: float, spared: float = 0.0) -> Tensor:
    """−ln factor, where the square of the factor is 1 − h (2a − h)."""
    return -torch.log1p(-(1 - spared) * h * ((1 - spared) * 2 * slope - h)) / 2


BUDGETS = {
    "exact": Budget(exact_factor, lambda slope: 2.0, exact_decay),
    "published": Budget(published_factor, lambda slope: 2 * slope, published_decay),
}


class ContractionStep(nn.Module):
    r"""A step size 0 < h < 2, learned as  h = 2 σ(θ)  or fixed.

    Args:
        given: a fixed step size in [0, 2]. Default: learned.
        factory: device and dtype of the parameter.

    Raises:
        InputError: given is outside of [0, 2].
    """

    def __init__(self, *, given: float | None = None, **factory: Unpack[Factory]) -> None:
        super().__init__()
        if given is not None:
            check_number("step_size", given, 0, 2, "[]", way_out="Outside, x − h AᵀΣ(Ax + b) is not non-expansive.")
        self.given = given
        if given is None:
            self.free = nn.Parameter(logit(FIRST_CONTRACTION / 2, **factory))

    def forward(self) -> Number:
        """The step h."""
        return 2 * torch.sigmoid(at_least_single(self.free)) if self.given is None else self.given


class ExpansionStep(nn.Module):
    r"""A step size h > 0, learned as  h = ln(1 + e^θ)  or fixed.

    Args:
        given: a fixed step size ≥ 0. Default: learned.
        factory: device and dtype of the parameter.

    Raises:
        InputError: given is negative or not finite.
    """

    def __init__(self, *, given: float | None = None, **factory: Unpack[Factory]) -> None:
        super().__init__()
        if given is not None:
            check_not_negative("step_size", given)
        self.given = given
        if given is None:
            self.free = nn.Parameter(torch.tensor(FIRST_EXPANSION, **factory).expm1().log())

    def forward(self) -> Number:
        """The step h."""
        return nn.functional.softplus(at_least_single(self.free)) if self.given is None else self.given


class PairSteps(nn.Module):
    r"""Step sizes (h, h_E) of S contractions and one expansion with  factor(h)^S (1 + h_E) < 1  for all parameters:

        h = h_max σ(θ_1),     h_E = room(h) σ(θ_2),     room(h) = factor(h)^{−S} − 1.

    The map from θ is onto: every pair in the feasible set, up to a fraction 1e-5 of the room, is the image of one θ.

    Args:
        slope: a, the smallest slope of the activation, 0 < a < 1.
        substeps: S, number of contractions after the expansion.
        budget: "exact" or "published", the bound on the factor.
        given: fixed (h, h_E). Default: learned.
        factory: device and dtype of the parameters.

    Raises:
        InputError: given is outside of the feasible set, the budget is unknown, or slope or substeps is out of range.
    """

    def __init__(
        self,
        *,
        slope: float = 0.5,
        substeps: int = 1,
        budget: str = "exact",
        given: tuple[float, float] | None = None,
        **factory: Unpack[Factory],
    ) -> None:
        super().__init__()
        check_budget(slope, substeps, budget)
        self.slope, self.substeps, self.name = slope, substeps, budget
        if given is not None:
            self._check_given(given)
        self.given = given
        if given is None:
            first = FIRST_STEP / self.budget.reach(slope), FIRST_SHARE
            self.free = nn.Parameter(torch.stack([logit(share, **factory) for share in first]))

    @property
    def budget(self) -> Budget:
        """The bound on the factor."""
        return BUDGETS[self.name]

    def forward(self) -> tuple[Number, Number]:
        """(h, h_E)."""
        if self.given is not None:
            return self.given
        where, share = torch.sigmoid(at_least_single(self.free)).unbind()
        spared = ROUNDINGS * torch.finfo(where.dtype).eps
        h = (1 - 2 * spared) * self.budget.reach(self.slope) * where
        return h, (1 - INSIDE) * share * self.budget.room(h, self.slope, self.substeps, spared=spared)

    @torch.no_grad()
    def factor(self) -> float:
        """The Lipschitz factor of the pair at the present step sizes, at most 1."""
        h, expansion = (float(step) for step in self())
        return min(1.0, product(h, expansion, self.slope, self.substeps, self.budget))  # it exceeds 1 by rounding only

    def _check_given(self, given: tuple[float, float]) -> None:
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise InputError(f"step_sizes is {given!r}; expected two numbers, (h, h_E).")
        h, expansion = given
        reach, room = self.budget.reach(self.slope), float(self.budget.room(max(h, 0.0), self.slope, self.substeps))
        if not 0 <= h <= reach:
            raise InputError(
                f"the step size h = {h:g} of the contraction is outside of 0 … {reach:g}: the {self.name} factor is above 1."
            )
        if not 0 <= expansion <= room + 1e-12:
            found = product(h, expansion, self.slope, self.substeps, self.budget)
            raise InputError(
                f"the step sizes h = {h:g} and h_E = {expansion:g} have the {self.name} product {found:.4g}, more than 1.\n"
                f"With this h, pass h_E in 0 … {room:.4g}; or leave step_sizes out to learn them."
            )


def check_budget(slope: float, substeps: int, budget: str) -> None:
    """Refuse options that leave no room to expand."""
    check_choice("budget", budget, BUDGETS)
    ends = (
        "At 0 some directions are not contracted, at 1 the layer is linear; for ReLU (slope 0) use sx.nn.NonExpansive layers only."
    )
    check_fraction("slope", slope, way_out=ends)
    check_whole("substeps", substeps, 1)


def logit(share: float, **factory: Unpack[Factory]) -> Tensor:
    """The θ with σ(θ) = share."""
    return torch.logit(torch.tensor(share, **factory))


def product(h: float, expansion: float, slope: float, substeps: int, budget: Budget) -> float:
    """The product factor(h)^S (1 + h_E)."""
    return float(budget.factor(h, slope)) ** substeps * (1 + expansion)


def _tensor(h: Number) -> Tensor:
    return h if isinstance(h, Tensor) else torch.tensor(h, dtype=torch.float64)
