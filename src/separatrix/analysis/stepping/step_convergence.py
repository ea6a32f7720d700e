"""How the end of a run nears its limit as its steps become shorter: the order of a method, by regression."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from separatrix.analysis.run.steps import default_steps
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import InputError
from separatrix.core.evolve import begin, check_steps
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, measured, plain
from separatrix.flows.flow import Flow, check_flow
from separatrix.flows.methods import SOLVERS

REFERENCE = "dopri5"  # of the highest order there is, on any field
ROUNDINGS = 1e3  # of the state, above which a difference is one of the method
CLEAR = 10  # times the reference's own error: what is smaller is not fitted
FITTED, FEWEST = 4, 3  # levels, the finest that are clear; fewer than three have no slope with an error bar
SHORT = 0.5  # of an order, by which the slope may fall short of the method's


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StepConvergence(Result):
    r"""The distance of a run's end from its limit,  e_j = ‖x_{dt_j}(T) − x(T)‖₂,  over steps dt_j, each half of the one before.

    Args:
        steps: (level), in the time T.
        dt: (level), T / steps.
        errors: (level, *batch); NaN where that run diverged.
        doubt: (*batch), how far the limit itself is known.
        fitted: (level, *batch), the levels to which the order is fitted: the four finest whose error is well above the doubt.
        order, order_stderr: (*batch), slope of ln e over ln dt, and its standard error; NaN with fewer than three levels.
        method, nominal: the method and the order that it has on smooth fields.
    """

    steps: Tensor
    dt: Tensor
    errors: Tensor
    doubt: Tensor
    fitted: Tensor
    order: Tensor
    order_stderr: Tensor
    method: str
    nominal: int

    drawn_by: ClassVar[str] = "separatrix.plot.step_convergence:step_convergence_figure"
    layout: ClassVar[dict[str, str]] = {
        "steps": "level",
        "dt": "level",
        "errors": "level batch",
        "doubt": "batch",
        "fitted": "level batch",
        "order": "batch",
        "order_stderr": "batch",
    }
    units: ClassVar[dict[str, str]] = {
        "steps": "steps",
        "dt": "units of time",
        "errors": "the state's unit",
        "doubt": "the state's unit",
    }

    @property
    def time(self) -> float:
        """T."""
        return float(self.steps[0] * self.dt[0])

    @property
    def slopes(self) -> Tensor:
        """The order between each level and the next,  log₂(e_j / e_{j+1}),  shape (level − 1, *batch)."""
        return (self.errors[:-1] / self.errors[1:]).log2()

    def summary(self) -> str:
        """The order beside the method's own, and the errors from which it is read."""
        method, states = self.method.replace("_", " "), counted(self.codes.numel(), "state")
        told = f"{method}, of order {self.nominal}, over a time {plain(self.time)} from {states}"
        known = self.order.isfinite()
        if not known.any():
            return (
                f"{told}: no order, as fewer than {FEWEST} of {len(self.steps)} levels are clear of rounding and of the reference"
            )
        first, last = (plain(float(self.errors[i].nanmedian())) for i in (0, -1))
        middle = float(self.order[known].median())
        slope = measured(middle, float(self.order_stderr)) if not self.batch else f"{plain(middle)} (median)"
        ended = "" if bool((self.codes == Status.OK).all()) else f"; {self.ended()}"
        return (
            f"{told}: the error falls as the power {slope} of the step, "
            f"{first} at {counted(int(self.steps[0]), 'step')} and {last} at {int(self.steps[-1]):,}{ended}"
        )


@torch.no_grad()
def step_convergence(
    flow: System,
    x0: Tensor | None = None,
    *,
    steps: int | None = None,
    halvings: int = 5,
    seed: int = 0,
    progress: bool = False,
) -> StepConvergence:
    r"""How far the end of a run is from its limit of ever shorter steps, and with which power of the step that falls.

        e(dt) = ‖x_dt(T) − x(T)‖₂ ≈ C dt^p,        p = slope of ln e over ln dt

    The field is the same and the same time T is followed in `steps`, 2 · `steps`, 4 · `steps`, … steps. The limit is that of the
    fifth-order method dopri5 in twice as many steps as the finest run takes; its doubt is what changes when it takes half of them.

    Args:
        flow: a `Flow`, such as `sx.nn.ContinuousDepth`, whose layers are the first level.
        x0: initial states, shape (*batch, dim). Default: `flow.initial_state()`.
        steps: at the first level. Default: the network's depth, or 10 units of time.
        halvings: of the step, one level after the other, at least 2.
        seed: of the initial state.
        progress: show a progress bar.

    Returns:
        StepConvergence: `errors` (level, *batch) and the fitted `order` (*batch) with its standard error. Status: diverged where
        the limit is not finite; not converged where the order is not known, or falls short of the method's by more than a half.

    Raises:
        UnsupportedModuleError: the system is no `Flow`.
        InputError: fewer than two halvings.
        HorizonError: more steps than the network has layers.
    Limits: the method's order is that on smooth fields: where a field has kinks, as ReLU's has, or steps are not yet short, the
        slope is another. In float32 few levels are clear of rounding: pass x0 in float64.
    Source: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, II.3; of networks, Queiruga et al. 2020,
        arXiv:2008.02389, and Ott et al. 2021, arXiv:2007.15386.
    """
    flow = check_flow(flow)
    steps = default_steps(flow, 0) if steps is None else steps
    check_steps(flow, steps=steps)
    for name, value, least in (("steps", steps, 1), ("halvings", halvings, 2)):
        if check_whole(name, value) < least:
            raise InputError(f"{name} is {value}; it is at least {least}.")
    check_seed(seed)
    x0 = begin(flow, x0, seed=seed).x
    factors = [2**j for j in range(halvings + 1)]
    ends = [_end(flow, x0, steps, factors[tick.index]) for tick in watched_count(len(factors), "Halving steps", progress)]
    limit, rougher = (_end(flow, x0, steps, factor, REFERENCE) for factor in (2 * factors[-1], factors[-1]))
    errors = (torch.stack(ends) - limit).norm(dim=-1)
    doubt = (rougher - limit).norm(dim=-1)
    dt = flow.dt / torch.tensor(factors, dtype=torch.float64)
    rounding = ROUNDINGS * torch.finfo(x0.dtype).eps * torch.maximum(limit.norm(dim=-1), x0.norm(dim=-1))
    fitted = _finest(errors > torch.maximum(CLEAR * doubt, rounding))
    order, stderr = _slope(dt.log().to(errors), errors.log(), fitted)
    nominal = SOLVERS[flow.method].order
    reached = order >= nominal - SHORT
    codes = torch.where(reached, Status.OK, Status.NOT_CONVERGED)
    return StepConvergence(
        codes=torch.where(limit.isfinite().all(-1), codes, int(Status.DIVERGED)).to(torch.int8),
        steps=steps * torch.tensor(factors),
        dt=dt,
        errors=errors,
        doubt=doubt,
        fitted=fitted,
        order=order,
        order_stderr=stderr,
        method=flow.method,
        nominal=nominal,
        settings={"steps": steps, "halvings": halvings, "seed": seed},
    )


def _end(flow: Flow, x0: Tensor, steps: int, factor: int, method: str | None = None) -> Tensor:
    """The state after the time of so many steps, each taken in `factor` parts."""
    return begin(flow.refined(factor, method=method), x0).advance(factor * steps).x


def _finest(clear: Tensor) -> Tensor:
    """Of the levels that are clear of noise the last four, shape of `clear`, (level, *batch)."""
    after = clear.flip(0).cumsum(0).flip(0)  # how many from this one on
    return clear & (after <= FITTED)


def _slope(x: Tensor, y: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The slope of y over x along the first axis by least squares over what is kept, and its standard error; NaN of few points."""
    w = kept.to(y)
    x, y = x.reshape(-1, *[1] * (y.ndim - 1)), y.where(kept, 0.0)
    n = w.sum(0)
    x = x - (w * x).sum(0) / n
    y = y - (w * y).sum(0) / n
    spread = (w * x.square()).sum(0)
    slope = (w * x * y).sum(0) / spread
    left = (w * (y - slope * x).square()).sum(0)
    stderr = (left / (n - 2) / spread).sqrt()
    return slope.where(n >= FEWEST, math.nan), stderr.where(n >= FEWEST, math.nan)
