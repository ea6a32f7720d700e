"""Convergence of the end of a run as its steps become smaller: the order of a method, by regression."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from separatrix.analysis.run.steps import default_steps
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.evolve import begin, check_steps
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, measured, plain
from separatrix.flows.flow import Flow, check_flow
from separatrix.flows.methods import SOLVERS

REFERENCE = "dopri5"  # the method of highest order that works for every field
ROUNDINGS = 1e3  # rounding errors of the state above which a difference is fitted
CLEAR = 10  # times the error of the reference above which a difference is fitted
FITTED, FEWEST = 4, 3  # maximum number of levels fitted, and minimum for a slope with an error bar
SHORT = 0.5  # tolerated shortfall of the slope from the order of the method


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StepConvergence(Result):
    r"""Errors at the end of a run,  e_j = ‖x_{dt_j}(T) − x(T)‖₂,  for step sizes dt_j that are halved from level to level.

    Args:
        steps: (level), number of steps in the time T.
        dt: (level), T / steps.
        errors: (level, *batch), e_j; NaN where the run diverged.
        doubt: (*batch), uncertainty of the reference x(T).
        fitted: (level, *batch), the levels used in the fit: the four finest whose error is well above `doubt` and rounding.
        order, order_stderr: (*batch), slope of ln e over ln dt, and its standard error; NaN with fewer than three levels.
        method, nominal: the method, and its order on smooth fields.
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
        """The order between successive levels,  log₂(e_j / e_{j+1}),  shape (level − 1, *batch)."""
        return (self.errors[:-1] / self.errors[1:]).log2()

    def summary(self) -> str:
        """The measured order, the order of the method, and the first and last error."""
        method, states = self.method.replace("_", " "), counted(self.codes.numel(), "state")
        run = f"{method} (order {self.nominal}) over a time of {plain(self.time)} from {states}"
        fitted = self.order.isfinite()
        if not fitted.any():
            return (
                f"{run}: no order, because fewer than {FEWEST} of {len(self.steps)} levels have errors well above rounding "
                "and the uncertainty of the reference"
            )
        first, last = (plain(float(self.errors[i].nanmedian())) for i in (0, -1))
        middle = float(self.order[fitted].median())
        slope = measured(middle, float(self.order_stderr)) if not self.batch else f"{plain(middle)} (median)"
        ended = "" if bool((self.codes == Status.OK).all()) else f"; {self.ended()}"
        return (
            f"{run}: the error falls as the power {slope} of the step, "
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
    throw: bool = False,
) -> StepConvergence:
    r"""The order of convergence of a flow's method: the error at the end of a run against the step size.

        e(dt) = ‖x_dt(T) − x(T)‖₂ ≈ C dt^p,        p = slope of ln e over ln dt

    The same field is integrated over the same time T in `steps`, 2 · `steps`, 4 · `steps`, … steps. The reference x(T) is
    computed by the fifth-order method dopri5 with twice as many steps as the finest run. Its uncertainty is the change when it
    takes half as many.

    Args:
        flow: a `Flow`, such as `sx.nn.ContinuousDepth`, whose layers are the first level.
        x0: initial states, shape (*batch, dim). Default: `flow.initial_state()`.
        steps: number of steps at the first level. Default: the depth of the network, or 10 units of time.
        halvings: number of times the step size is halved, at least 2.
        seed: seed of the initial state.
        progress: show a progress bar.
        throw: raise instead of marking items that diverged or did not converge.

    Returns:
        StepConvergence: `errors` (level, *batch) and the fitted `order` (*batch) with its standard error. An item is `diverged` if
        the reference is not finite, and `not_converged` if the order is unknown or more than 0.5 below that of the method.

    Raises:
        UnsupportedModuleError: the system is not a `Flow`.
        InputError: there are fewer than two halvings.
        HorizonError: there are more steps than the network has layers.
        DivergedError, NotConvergedError: with `throw=True`.

    Limits: the order of a method holds for smooth fields. If the field has kinks (ReLU), or steps are not yet small enough, the
        slope differs. In float32 few levels are well above rounding; pass x0 in float64.
    Source: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, II.3; for networks, Queiruga et al. 2020,
        arXiv:2008.02389, and Ott et al. 2021, arXiv:2007.15386.

    Example:
        >>> flow = sx.Flow(lambda x: -x, dim=1, dt=0.1, method="euler")
        >>> found = sx.step_convergence(flow, torch.ones(1, dtype=torch.float64), steps=10)
        >>> round(float(found.order), 1)
        1.0
        >>> found.steps.tolist()
        [10, 20, 40, 80, 160, 320]
    """
    flow = check_flow(flow)
    steps = default_steps(flow, 0) if steps is None else steps
    check_steps(flow, steps=steps)
    check_whole("steps", steps, 1)
    check_whole("halvings", halvings, 2)
    check_seed(seed)
    x0 = begin(flow, x0, seed=seed).x
    factors = [2**j for j in range(halvings + 1)]
    ends = [_end(flow, x0, steps, factors[tick.index]) for tick in watched_count(len(factors), "Halving steps", progress)]
    reference, coarser = (_end(flow, x0, steps, factor, REFERENCE) for factor in (2 * factors[-1], factors[-1]))
    errors = (torch.stack(ends) - reference).norm(dim=-1)
    doubt = (coarser - reference).norm(dim=-1)
    dt = flow.dt / torch.tensor(factors, dtype=torch.float64)
    rounding = ROUNDINGS * torch.finfo(x0.dtype).eps * torch.maximum(reference.norm(dim=-1), x0.norm(dim=-1))
    fitted = _finest(errors > torch.maximum(CLEAR * doubt, rounding))
    order, stderr = _slope(dt.log().to(errors), errors.log(), fitted)
    nominal = SOLVERS[flow.method].order
    reached = order >= nominal - SHORT
    codes = torch.where(reached, Status.OK, Status.NOT_CONVERGED)
    found = StepConvergence(
        codes=torch.where(reference.isfinite().all(-1), codes, int(Status.DIVERGED)).to(torch.int8),
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
    return found.or_raise(throw)


def _end(flow: Flow, x0: Tensor, steps: int, factor: int, method: str | None = None) -> Tensor:
    """The state after `steps` steps, each divided into `factor` parts."""
    return begin(flow.refined(factor, method=method), x0).advance(factor * steps).x


def _finest(clear: Tensor) -> Tensor:
    """The last four of the clear levels, shape of `clear`, (level, *batch)."""
    after = clear.flip(0).cumsum(0).flip(0)  # number of clear levels from this one on
    return clear & (after <= FITTED)


def _slope(x: Tensor, y: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares slope of y over x along axis 0 over the kept points, and its standard error; NaN with too few points."""
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
