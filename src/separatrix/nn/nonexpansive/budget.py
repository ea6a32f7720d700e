"""How far a layer may expand when another contracts: the factors of both, and steps that are always inside the feasible set."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError
from separatrix.core.precision import at_least_single

Number = float | Tensor
INSIDE = 1e-5  # of the room to expand is never used, more than float32's rounding of it, so that the product never passes 1
ROUNDINGS = 4  # units in the last place that learned steps take from each decay: near a factor of 0 the room hangs on these
FIRST_CONTRACTION = 1.8  # step before training: with ReLU and h = 2 nothing is lost, with h = 1 half of all directions
FIRST_EXPANSION = 0.5  # the same of a layer that expands
FIRST_STEP, FIRST_SHARE = 0.5, 0.9  # the contraction's step before training, and the share of its room that the expansion takes


def exact_factor(h: Number, slope: float, *, s_min: float = 1.0, s_max: float = 1.0) -> Tensor:
    r"""The Lipschitz factor of  x ↦ x − h AᵀΣ(Ax + b),   max(|1 − h a s_min²|, |1 − h s_max²|).

    The Jacobian is I − h AᵀDA with slopes D between a and 1, a symmetric matrix with eigenvalues between the two; over all such
    D it is the largest norm there is.

    Args:
        h: steps, a number or a tensor.
        slope: a, the smallest slope of the activation Σ; its largest is 1.
        s_min, s_max: of A, between which all its singular values lie: ‖Ax‖ ≥ s_min ‖x‖ for every x. An A with fewer rows than
            columns has s_min = 0.
    """
    h = _tensor(h)
    return torch.maximum((1 - h * slope * s_min**2).abs(), (1 - h * s_max**2).abs())


def published_factor(h: Number, slope: float) -> Tensor:
    r"""The published bound of the same factor,  √(1 − 2 a h + h²),  for an A with AᵀA = I.

    Args:
        h: steps, a number or a tensor.
        slope: a, the smallest slope of the activation.
    Source: Celledoni et al. 2023, arXiv:2210.02373.
    """
    h = _tensor(h)
    return (1 - 2 * slope * h + h**2).sqrt()


@dataclass(frozen=True)
class Budget:
    """A bound of the contraction's factor, and what it leaves to the expansion.

    Args:
        factor: of a step h and a slope.
        reach: of a slope; the factor is below 1 for 0 < h < reach.
        decay: −ln factor of a step and a slope, accurate where the factor is near 1; less where a share is spared for rounding.
    """

    factor: Callable[[Number, float], Tensor]
    reach: Callable[[float], float]
    decay: Callable[[Tensor, float, float], Tensor]

    def room(self, h: Number, slope: float, substeps: int = 1, *, spared: float = 0.0) -> Tensor:
        """The largest h_E with  factor(h)^substeps (1 + h_E) ≤ 1;  negative where the contraction is none."""
        return torch.expm1((1 - spared) * substeps * self.decay(_tensor(h), slope, spared))


def exact_decay(h: Tensor, slope: float, spared: float = 0.0) -> Tensor:
    """The factor is 1 − min(a h, 2 − h) for h ≥ 0 and a ≤ 1."""
    return -torch.log1p(-(1 - spared) * torch.minimum(slope * h, 2 - h))


def published_decay(h: Tensor, slope: float, spared: float = 0.0) -> Tensor:
    """The factor's square is 1 − h (2a − h)."""
    return -torch.log1p(-(1 - spared) * h * ((1 - spared) * 2 * slope - h)) / 2


BUDGETS = {
    "exact": Budget(exact_factor, lambda slope: 2.0, exact_decay),
    "published": Budget(published_factor, lambda slope: 2 * slope, published_decay),
}


class ContractionStep(nn.Module):
    r"""A step 0 < h < 2 that is learned,  h = 2 σ(θ),  or one that is given.

    Args:
        given: a step 0 … 2 that is kept. Default: learn it.

    Raises:
        InputError: the step is not between 0 and 2.
    """

    def __init__(self, *, given: float | None = None) -> None:
        super().__init__()
        if given is not None and not 0 <= given <= 2:
            raise InputError(f"step_size is {given:g}; expected 0 … 2, where x − h AᵀΣ(Ax + b) is non-expansive.")
        self.given = given
        if given is None:
            self.free = nn.Parameter(logit(FIRST_CONTRACTION / 2))

    def forward(self) -> Number:
        """The step h."""
        return 2 * torch.sigmoid(at_least_single(self.free)) if self.given is None else self.given


class ExpansionStep(nn.Module):
    r"""A step h > 0 that is learned,  h = ln(1 + e^θ),  or one that is given.

    Args:
        given: a step from 0 on that is kept. Default: learn it.

    Raises:
        InputError: the step is negative.
    """

    def __init__(self, *, given: float | None = None) -> None:
        super().__init__()
        if given is not None and not 0 <= given < torch.inf:
            raise InputError(f"step_size is {given:g}; expected a finite number ≥ 0.")
        self.given = given
        if given is None:
            self.free = nn.Parameter(torch.tensor(FIRST_EXPANSION).expm1().log())

    def forward(self) -> Number:
        """The step h."""
        return nn.functional.softplus(at_least_single(self.free)) if self.given is None else self.given


class PairSteps(nn.Module):
    r"""Steps of an expansion and of the contractions that follow it, with  factor(h)^S (1 + h_E) < 1  whatever is learned:

        h = h_max σ(θ_1),     h_E = room(h) σ(θ_2),     room(h) = factor(h)^{−S} − 1.

    Every pair of steps with a product below 1 (by a hundred-thousandth of the room) is the image of one θ.

    Args:
        slope: a of the activation, above 0 and below 1.
        substeps: S, how many contractions follow an expansion.
        budget: "exact" or "published".
        given: (h, h_E), each contraction's step and the expansion's, that are kept. Default: learn them.

    Raises:
        InputError: the given steps are outside of the feasible set; a slope that leaves none.
    """

    def __init__(
        self,
        *,
        slope: float = 0.5,
        substeps: int = 1,
        budget: str = "exact",
        given: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        check_budget(slope, substeps, budget)
        self.slope, self.substeps, self.name = slope, substeps, budget
        if given is not None:
            self._check_given(given)
        self.given = given
        if given is None:
            self.free = nn.Parameter(torch.stack([logit(FIRST_STEP / self.budget.reach(slope)), logit(FIRST_SHARE)]))

    @property
    def budget(self) -> Budget:
        """The bound that is kept."""
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
        """What the steps as they are make together: the product that stays at most 1."""
        h, expansion = (float(step) for step in self())
        return min(1.0, product(h, expansion, self.slope, self.substeps, self.budget))  # above 1 it is by the last digit only

    def _check_given(self, given: tuple[float, float]) -> None:
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise InputError(f"step_sizes is {given!r}; expected two numbers, (h, h_E).")
        h, expansion = given
        reach, room = self.budget.reach(self.slope), float(self.budget.room(max(h, 0.0), self.slope, self.substeps))
        if not 0 <= h <= reach:
            raise InputError(f"the contraction's step h = {h:g} is outside of 0 … {reach:g}: its {self.name} factor is above 1.")
        if not 0 <= expansion <= room + 1e-12:
            found = product(h, expansion, self.slope, self.substeps, self.budget)
            raise InputError(
                f"the steps h = {h:g} and h_E = {expansion:g} have the {self.name} product {found:.4g}, more than 1.\n"
                f"With this h, h_E can be 0 … {room:.4g}; or leave step_sizes out to learn them."
            )


def check_budget(slope: float, substeps: int, budget: str) -> None:
    """Refuse what leaves no room to expand."""
    if budget not in BUDGETS:
        raise InputError(f"budget is {budget!r}; it is {' or '.join(repr(known) for known in BUDGETS)}.")
    if not 0 < slope < 1:
        raise InputError(
            f"slope = {slope:g}: only with slopes above 0 are all directions contracted, and with 1 the layer is linear.\n"
            "Pass a slope such as 0.5; a network of slope 0 (ReLU) takes sx.nn.NonExpansive layers alone."
        )
    if check_whole("substeps", substeps) < 1:
        raise InputError(f"substeps = {substeps}; at least 1 contraction follows an expansion.")


def logit(share: float) -> Tensor:
    """The θ with σ(θ) = share."""
    return torch.logit(torch.tensor(share))


def product(h: float, expansion: float, slope: float, substeps: int, budget: Budget) -> float:
    """The product factor(h)^S (1 + h_E)."""
    return float(budget.factor(h, slope)) ** substeps * (1 + expansion)


def _tensor(h: Number) -> Tensor:
    return h if isinstance(h, Tensor) else torch.tensor(h, dtype=torch.float64)
