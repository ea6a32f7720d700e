"""Fits of a field to observations of its solutions, by the Levenberg–Marquardt method on the solution."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from separatrix.core.checks import check_not_negative, check_positive, check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.progress import watched
from separatrix.core.result import Result, Status
from separatrix.core.tangent import pushforward
from separatrix.core.wording import counted, plain
from separatrix.flows.gradients.sensitivity import Shot
from separatrix.flows.steps.initial import Initial
from separatrix.nn.fit.least_squares import Iterate, levenberg_marquardt

Observe = Callable[[Tensor], Tensor]

FLAT = "no parameter affects the observations"
STOPPED = "stopped by max_steps with the loss still decreasing"
UNSEEN = 1e-12  # relative derivative below which an initial value does not affect the observations


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ObservationFit(Result):
    r"""The record of a `fit_observations` run; the fitted field is the module that was passed.

    Args:
        misfit: |y − ŷ| / |y| at the start and after every step, shape (steps + 1,).
        observed: y, the observations, flattened, shape (observations,).
        predicted: ŷ, their predictions by the fitted field, shape (observations,).
        initial_states: initial states with fitted values where they were unknown, shape (series, dim); `x0` has the given shape.
        verdict: reason for the end: the loss has settled, no step lowers it, it was still decreasing after `max_steps`, …
    """

    misfit: Tensor
    observed: Tensor
    predicted: Tensor
    initial_states: Tensor
    verdict: str

    drawn_by: ClassVar[str] = "separatrix.plot.observation_fit:observation_fit_figure"
    layout: ClassVar[dict[str, str]] = {
        "misfit": "step",
        "observed": "observation",
        "predicted": "observation",
        "initial_states": "series state",
    }
    units: ClassVar[dict[str, str]] = {"misfit": "1", "observed": "the observations' unit", "predicted": "the observations' unit"}

    @property
    def x0(self) -> Tensor:
        """The initial states, in the shape of the argument x0."""
        return self.initial_states.reshape(*self.settings["series"], self.initial_states.shape[-1])

    @property
    def error(self) -> float:
        """The last misfit."""
        return float(self.misfit[-1])

    def summary(self) -> str:
        by = [counted(self.settings["parameters"], "parameter")] if self.settings["parameters"] else []
        by += [counted(self.settings["unknown"], "initial value")] if self.settings["unknown"] else []
        fitted = f"{counted(len(self.observed), 'observation')} fitted by {' and '.join(by)}"
        steps = counted(len(self.misfit) - 1, "step")
        return f"{fitted}: relative misfit {plain(float(self.misfit[0]))} → {plain(self.error)} in {steps}; {self.verdict}."

    def _remedy(self, status: Status) -> str:
        steps = counted(len(self.misfit) - 1, "step")
        if status == Status.DIVERGED:
            return (
                f"The solution or its derivative is not finite after {steps} of the fit: pass a smaller dt, an earlier part of the "
                "observations, or other initial parameters."
            )
        if self.verdict == FLAT:
            return f"{FLAT} to first order: let observe keep the graph of the states, or pass other initial parameters."
        if self.verdict == STOPPED:
            return f"The loss was still decreasing after {steps}: increase max_steps."
        return self.summary()


def fit_observations(
    field: torch.nn.Module,
    observed: Tensor,
    *,
    x0: Tensor,
    times: Any,
    dt: float,
    unknown: Any = None,
    observe: Observe | None = None,
    method: str = "rk4",
    decay: float = 0.0,
    damping: float = 1e-3,
    max_steps: int = 60,
    tol: float = 1e-3,
    time_dependent: bool = False,
    progress: bool = False,
    throw: bool = False,
) -> ObservationFit:
    r"""Fit the parameters of a field, and unknown initial values, to observations of its solutions:

        min_θ  |observe(x(·; θ)) − y|² + decay |θ|²,     ẋ = f(x, t; θ),   x(times[0]) = x0

    The Levenberg–Marquardt method uses the exact derivatives of `sx.sensitivities`. Parameters that require gradients, and x0 if it
    does, are updated in place by each step that lowers the loss; an interrupted fit therefore keeps its progress.

    Args:
        field: f, an `nn.Module`, a `Field` such as `sx.nn.Universal`, or a `Flow` with a field.
        observed: y, of the shape that `observe` returns; NaN marks missing observations.
        x0: states at the first time, shape (*batch, dim). If it requires gradients (a tensor or `nn.Parameter`), it holds initial
            guesses and is fitted too: one state per series, or one state for all series, shape (dim,) or (1, dim), if `times` has
            series axes or the observations are states.
        times: increasing times, shape (times,) or (times, *batch).
        dt: maximum step size of the solver.
        unknown: mask of the entries of x0 to fit, broadcast against x0. Default: all if x0 requires gradients, else none.
        observe: differentiable function of states of shape (times, *batch, dim). Default: the states themselves.
        method: a Runge–Kutta method in `SOLVERS`.
        decay: ρ, in squared units of the observations. For noise of standard deviation s, ρ = s² corresponds to a prior of weights
            of size 1. It does not apply to x0.
        damping: initial λ, relative to JJᵀ; larger values shorten the first steps.
        max_steps: maximum number of steps that lower the loss.
        tol: relative decrease of the loss in one step below which the fit has converged; it has also converged if no step lowers
            the loss.
        time_dependent: call `field(x, t)`.
        progress: show a progress bar.
        throw: raise instead of marking items that diverged or did not converge.

    Returns:
        ObservationFit: `misfit` by step, `x0`, and `verdict`, the reason for the end. The status is `ok` if the fit has converged;
        `not_converged` if the loss was still decreasing after `max_steps` (which may be good enough), or if no parameter or not
        every unknown entry of x0 affects the observations; `diverged` if the solution is not finite.

    Raises:
        InputError: there is nothing to fit or nothing observed, an observation is infinite, an option is out of range, or x0
            requires gradients but is not a leaf tensor.
        ShapeError: `observe` returns another shape than that of `observed`.
        DivergedError, NotConvergedError: the fit failed and `throw` is set.
    Limits: the full Jacobian, observations × parameters, is stored, and each step solves a linear system of the size of the
        observations, which suits up to about 5,000 observations and 10,000 parameters. Fits of long solutions have poor local
        minima if the initial guess is far away; fit an early part first.
    Source: Marquardt 1963, J. SIAM 11, 431; for missing terms of known models, Rackauckas et al. 2020, arXiv:2001.04385.

    Example:
        >>> field = nn.Linear(1, 1, bias=False).double()  # ẋ = w x
        >>> times = torch.linspace(0, 1, 11).double()
        >>> fit = sx.nn.fit_observations(field, torch.exp(-2 * times)[:, None], x0=torch.ones(1).double(), times=times, dt=0.1)
        >>> print(f"{field.weight.item():.2f} {fit.status}")
        -2.00 ok
    """
    check_not_negative("decay", decay)
    check_positive("damping", damping)
    check_not_negative("tol", tol)
    check_whole("max_steps", max_steps, 1)
    initial = Initial(x0, unknown, _series(times, observed if observe is None else None))
    shot = Shot(field, initial, times, dt=dt, method=method, time_dependent=time_dependent)
    seen = Seen(shot, observed, observe)
    theta, unseen = shot.start, seen.balance()
    steps = levenberg_marquardt(seen, theta, decay=decay, damping=damping, max_steps=max_steps, free=initial.count)
    losses, misfits, status, verdict = [], [], Status.NOT_CONVERGED, ""
    for at in watched(steps, max_steps, "fit", progress):
        if at.lowered:
            losses.append(at.loss)
            misfits.append(at.distance / float(seen.y.norm()))
            theta = at.theta
            shot.learn(theta)
        status, verdict = _status(at, losses, tol)
        if status != Status.NOT_CONVERGED or not at.lowered:
            break
    if unseen and status == Status.OK:
        entries = "entry" if unseen == 1 else "entries"
        status, verdict = Status.NOT_CONVERGED, f"{unseen} unknown {entries} of x0 without effect on the observations"
    found = ObservationFit(
        codes=torch.tensor(int(status), dtype=torch.int8),
        misfit=torch.tensor(misfits, dtype=torch.float64),
        observed=seen.y,
        predicted=seen.residuals(theta) + seen.y,
        initial_states=initial.found(shot.unknown(theta)).reshape(-1, initial.given.shape[-1]),
        verdict=verdict,
        settings={
            "parameters": shot.parameters,
            "unknown": initial.count,
            "series": list(initial.given.shape[:-1]),
            "method": method,
            "dt": dt,
            "decay": decay,
            "damping": damping,
            "max_steps": max_steps,
            "tol": tol,
        },
    )
    return found.or_raise(throw)


def _series(times: Any, states: Any) -> tuple[int, ...]:
    """Axes of the series, from the times and from the observed states, if given."""
    found = [tuple(torch.as_tensor(part).shape[1 : end or None]) for part, end in ((times, 0), (states, -1)) if part is not None]
    try:
        return torch.broadcast_shapes(*found)
    except RuntimeError:  # a mismatch of observations and times is reported where they are compared
        return found[0]


class Seen:
    """Residuals of the observations as a function of the field's parameters and the unknown initial values.

    Args:
        shot: the solution.
        observed: y; NaN marks missing observations.
        observe: the observation function of states.
    """

    def __init__(self, shot: Shot, observed: Tensor, observe: Observe | None) -> None:
        self.shot, self.observe = shot, observe
        states = shot.states(shot.start)
        y = torch.as_tensor(observed).detach().to(states)
        shape = tuple(states.shape if observe is None else observe(states).shape)
        if shape != tuple(y.shape):
            raise ShapeError(
                f"expected observed of shape {shape}, the observation of the solution, got {tuple(y.shape)}.\n"
                "States have shape (times, *batch, dim)."
            )
        self._kept = ~y.isnan().flatten()
        self.y = y.flatten()[self._kept]
        if self.y.isinf().any():
            raise InputError(f"{int(self.y.isinf().sum())} of the observations are infinite.\nMark missing observations by NaN.")
        if not (self.y != 0).any():
            raise InputError("expected observations, got only 0 and NaN in observed.")
        self._shape = states.shape

    def residuals(self, theta: Tensor) -> Tensor:
        """ŷ − y, shape (observations,)."""
        return self._see(self.shot.states(theta).flatten()) - self.y

    def linearised(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The residuals and their Jacobian, shape (observations, parameters)."""
        states, rows = self.shot.linearised(theta)
        along = rows.movedim(-2, 0).flatten(1)  # (parameters, all numbers of all states)
        if self.observe is None:
            return self._see(states.flatten()) - self.y, along[:, self._kept].mT
        seen, pushed = pushforward(self._see, states.flatten(), along)
        return seen - self.y, pushed.mT

    def balance(self) -> int:
        """Rescale unknown initial values so that each matters as much as a parameter; returns the number without effect."""
        shot = self.shot
        if not shot.initial.count:
            return 0
        sizes = torch.linalg.vector_norm(self.linearised(shot.start)[1], dim=0)
        own, others = sizes[shot.parameters :], sizes[: shot.parameters]
        seen = own > UNSEEN * own.amax()
        typical = others.square().mean().sqrt() if others.any() else own.amax()
        if torch.isfinite(sizes).all():
            shot.initial.unit = torch.where(seen, typical / own, 1.0)
        return int((~seen).sum())

    def _see(self, states: Tensor) -> Tensor:
        states = states.reshape(self._shape)
        return (states if self.observe is None else self.observe(states)).flatten()[self._kept]


def _status(at: Iterate, losses: list[float], tol: float) -> tuple[Status, str]:
    """Status after a step, and the reason if the fit ends there."""
    if not math.isfinite(at.loss):
        return Status.DIVERGED, "the solution or its derivative is not finite there"
    if at.flat:
        return Status.NOT_CONVERGED, FLAT
    if not at.lowered:
        return Status.OK, "no step lowers the loss further"
    if len(losses) > 1 and losses[-1] > (1 - tol) * losses[-2]:
        return Status.OK, "the loss has settled"
    return Status.NOT_CONVERGED, STOPPED
