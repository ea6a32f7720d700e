"""The equations of a fixed point: a system frozen in time, its residual and its derivatives, in suitable units."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from separatrix.analysis.fixed.krylov import leading_eigenvalues
from separatrix.core.derived import Frozen, Iterate
from separatrix.core.errors import InputError
from separatrix.core.system import System

MOST_NUMBERS = 2_000  # maximum dimension for dense Jacobians; above it, only Jacobian–vector products are used
SMALLEST = 1e-3  # size below which, and above the inverse of which, states and times get units of their own
PACERS = 64  # number of guesses at which rates are measured
LEADING = 6  # number of eigenvalues computed without dense Jacobians


class Problem(NamedTuple):
    """A system frozen in time whose zeros are sought: of F^p(x) − x, or of the field of a flow.

    The field is multiplied by the time `pace`, so that residuals are measured in units of the state.
    """

    step: System
    system: System
    period: int
    is_flow: bool
    pace: float = 1.0

    @classmethod
    def of(cls, system: System, n: int, period: int) -> "Problem":
        frozen = Frozen(system, n)
        if system.continuous:
            if period != 1:
                raise InputError(
                    f"period is {period}, but equilibria of a flow have no period.\n"
                    "For cycles of its time-dt map, pass sx.Iterate(system, 1)."
                )
            return cls(frozen, frozen, 1, True)
        return cls(frozen, Iterate(frozen, period), period, False)

    def at_pace_of(self, states: Tensor) -> "Problem":
        """The same problem, with a unit of time for flows whose typical rate is below 1e-3 or above 1e3."""
        if not self.is_flow:
            return self
        some = states[torch.isfinite(states).all(-1)][:PACERS]
        along = torch.randn(some.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(some)
        rates = self.pushed(some, along).norm(dim=-1) / along.norm(dim=-1)
        rates = rates[torch.isfinite(rates) & (rates > 0)]
        rate = float(rates.median()) if len(rates) else 1.0
        return self if SMALLEST <= rate <= 1 / SMALLEST else self._replace(pace=2.0 ** -round(math.log2(rate)))

    def residual(self, x: Tensor) -> Tensor:
        value = self.system.residual(x)
        return value if self.pace == 1 else self.pace * value

    def linearised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The residual and its Jacobian, (items, dim) and (items, dim, dim)."""
        identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        value, rows = self.system.residual_pushforward(x, identity.expand(len(x), -1, -1))
        return (value, rows.mT) if self.pace == 1 else (self.pace * value, self.pace * rows.mT)

    def pushed(self, x: Tensor, v: Tensor) -> Tensor:
        """Jacobian–vector products of the residual, one per item, (items, dim)."""
        return self.pace * self.system.residual_pushforward(x, v[:, None])[1][:, 0]

    def leading(self, points: Tensor) -> Tensor:
        """The leading eigenvalues at each point: those of largest real part for a flow, the largest multipliers for a map."""
        shift, which = (0.0, "LR") if self.is_flow else (1.0, "LM")
        products = [lambda v, x=x[None]: self.pushed(x, v[None])[0] + shift * v for x in points]
        return torch.stack([leading_eigenvalues(product, points[0], LEADING, which, seed=0) for product in products])

    def of_period(self, period: int) -> "Problem":
        """The problem of a map's cycles with another period."""
        return self._replace(system=Iterate(self.step, period), period=period)

    @property
    def is_wide(self) -> bool:
        """Whether the state is too large for dense Jacobians."""
        return self.step.dim > MOST_NUMBERS

    def time(self, x: Tensor) -> Tensor:
        """The time that F^p takes from each state, shape (items), float64."""
        return torch.as_tensor(self.system.elapsed(x), dtype=torch.float64, device=x.device).expand(len(x))


def unit_of(guesses: Tensor, after: Tensor) -> float:
    """The unit of states, a power of 2: 1, unless most guesses and their images are below 1e-3 or above 1e3."""
    before, after = (sizes[(sizes > 0) & sizes.isfinite()] for sizes in (guesses.abs().amax(-1), after.abs().amax(-1).flatten()))
    if not len(before) or not len(after):
        return 1.0
    sizes = float(before.median()), float(after.median())
    size = max(sizes) if max(sizes) < SMALLEST else min(sizes) if min(sizes) > 1 / SMALLEST else 1.0
    return 2.0 ** round(math.log2(size))
