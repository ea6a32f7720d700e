"""One Lyapunov spectrum for many runs: their mean, and the variance within and between them."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from separatrix.core.errors import DivergedError
from separatrix.core.result import Result, Status
from separatrix.core.wording import counted, measured, plain


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PooledSpectrum(Result):
    r"""The mean Lyapunov spectrum of many runs, with its standard error:  √(variance of the estimates / runs).

    Args:
        exponents: (k), the mean over the runs that did not diverge, nats per unit time.
        stderr: (k), standard error of that mean over the population of runs.
        within: (k), mean variance of one run's estimate about its own long-time value.
        between: (k), variance of the long-time values over the runs: the variance of the estimates less `within`, at least 0.
        runs: number of runs averaged.
        diverged: number of runs left out because they diverged.
    """

    exponents: Tensor
    stderr: Tensor
    within: Tensor
    between: Tensor
    runs: int
    diverged: int

    drawn_by: ClassVar[str] = "separatrix.plot.spectrum:pooled_figure"
    layout: ClassVar[dict[str, str]] = {"exponents": "k", "stderr": "k", "within": "k", "between": "k"}
    units: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("exponents", "stderr"), "nats per unit time"),
        **dict.fromkeys(("within", "between"), "(nats per unit time)²"),
    }

    def summary(self) -> str:
        """λ₁ over the runs, in words."""
        left_out = f"; {self.diverged} diverged" if self.diverged else ""
        return (
            f"λ₁ = {measured(float(self.exponents[0]), float(self.stderr[0]))} nats per {self.clock} "
            f"over {counted(self.runs, 'run')} (spread between runs {plain(float(self.between[0].sqrt()))}, "
            f"error within one {plain(float(self.within[0].sqrt()))}{left_out})"
        )


def pool(exponents: Tensor, stderr: Tensor, codes: Tensor, items: Tensor, settings: dict[str, Any]) -> PooledSpectrum:
    """The mean over the selected runs, with the variance within and between them.

    Args:
        exponents, stderr: (*batch, k), of each run.
        codes: (*batch), `Status` of each run.
        items: (*batch), bool, the selected runs; diverged ones are left out.
        settings: settings of the runs.

    Raises:
        DivergedError: all selected runs diverged.
    """
    k = exponents.shape[-1]
    kept = ((codes != Status.DIVERGED) & items).reshape(-1)
    values, errors = exponents.reshape(-1, k)[kept], stderr.reshape(-1, k)[kept]
    runs = len(values)
    if runs == 0:
        raise DivergedError(f"cannot pool: all {int(items.sum())} runs diverged.")
    spread = values.var(0) if runs > 1 else torch.full((k,), math.nan, dtype=values.dtype)
    spread = spread.masked_fill((values == -math.inf).all(0), 0.0)
    within = errors.square().mean(0)
    return PooledSpectrum(
        codes=torch.tensor(int(codes.reshape(-1)[kept].max()), dtype=torch.int8),
        exponents=values.mean(0),
        stderr=(spread / runs).sqrt() if runs > 1 else errors[0],
        within=within,
        between=(spread - within.nan_to_num()).clamp(min=0),
        runs=runs,
        diverged=int(((codes == Status.DIVERGED) & items).sum()),
        settings=settings,
    )
