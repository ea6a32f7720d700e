"""Fitting a field to what was seen of its solutions, by Levenberg and Marquardt's method on the solution itself."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from separatrix.core.checks import check_whole
from separatrix.core.errors import DivergedError, InputError, NotConvergedError, ShapeError
from separatrix.core.progress import watched
from separatrix.core.result import Result, Status
from separatrix.core.tangent import pushforward
from separatrix.core.wording import counted, plain
from separatrix.flows.gradients.sensitivity import Shot
from separatrix.flows.steps.initial import Initial
from separatrix.nn.fit.least_squares import Iterate, levenberg_marquardt

Observe = Callable[[Tensor], Tensor]

FLAT = "no parameter changes what is seen"
UNSEEN = 1e-12  # of the largest derivative by an initial number, relative: one below it changes nothing that is seen


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ObservationFit(Result):
    r"""How a field came to fit what was seen.

    Args:
        misfit: |y − ŷ| / |y| at the start and after every step, shape (steps + 1).
        observed: y, what was fitted, flattened, shape (observations).
        predicted: ŷ, what the fitted field gives in its place, shape (observations).
        initial_states: shape (series, dim), the fitted ones with their fitted values; `x0` has them in the shape given.
        end: why it ended: the loss has settled, no step lowers it, it was still falling after `max_steps`, …
    """

    misfit: Tensor
    observed: Tensor
    predicted: Tensor
    initial_states: Tensor
    end: str

    layout: ClassVar[dict[str, str]] = {
        "misfit": "step",
        "observed": "observation",
        "predicted": "observation",
        "initial_states": "series state",
    }
    units: ClassVar[dict[str, str]] = {"misfit": "1", "observed": "the observations' unit", "predicted": "the observations' unit"}

    @property
    def x0(self) -> Tensor:
        """The initial states, in the shape in which they were given."""
        return self.initial_states.reshape(*self.settings["series"], self.initial_states.shape[-1])

    @property
    def error(self) -> float:
        """The last misfit."""
        return float(self.misfit[-1])

    def summary(self) -> str:
        """The answer in words."""
        by = [counted(self.settings["parameters"], "parameter")] if self.settings["parameters"] else []
        by += [counted(self.settings["unknown"], "initial number")] if self.settings["unknown"] else []
        fitted = f"{counted(len(self.observed), 'observation')} fitted by {' and '.join(by)}"
        steps = counted(len(self.misfit) - 1, "step")
        return f"{fitted}: relative misfit {plain(float(self.misfit[0]))} → {plain(self.error)} in {steps}; {self.end}."


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
    r"""Fit a field's parameters to what was seen of its solutions:

        min_θ  |observe(x(·; θ)) − y|² + decay |θ|²,     ẋ = f(x, t; θ),   x(times[0]) = x0

    and, where asked, what is not known of x0, by Levenberg and Marquardt's method with exact derivatives, `sx.sensitivities`. The
    parameters that require gradients are changed, in place, by each step that lowers the loss, and so is an x0 that does; so a fit
    that is interrupted has kept what it had reached.

    Args:
        field: f, an `nn.Module`, a `Field` such as `sx.nn.Universal`, or a `Flow` that has one.
        observed: y, of the shape that `observe` gives; NaN where nothing was seen.
        x0: states at the first time, shape (*batch, dim). Those of a tensor or `nn.Parameter` that requires a gradient are first
            guesses, and fitted too: one state for each series; or one for all of them, of shape (dim) or (1, dim), where `times`
            has axes of the series or the observations are states.
        times: increasing, shape (times), or (times, *batch).
        dt: the longest step of the method.
        unknown: which numbers of x0 are fitted, a mask that broadcasts against it. Default: all, if x0 requires a gradient;
            else none.
        observe: what is seen of states of shape (times, *batch, dim), differentiable. Default: the states themselves.
        method: a Runge–Kutta method in `SOLVERS`.
        decay: ρ, in units of the observations squared. For noise of standard deviation s, s² is the prior of weights of size 1.
            It leaves x0 alone.
        damping: λ to begin with, relative to JJᵀ; more of it makes first steps shorter.
        max_steps: steps that lower the loss.
        tol: it has converged when a step lowers the loss by less than this part of it, or when no step lowers it.
        time_dependent: call `field(x, t)`.
        progress: draw a bar.
        throw: raise where the fit does not converge, or cannot begin.

    Returns:
        ObservationFit: `misfit` by step; status `ok` where it has converged; `not_converged` where the loss was still falling after
        `max_steps`, which may be good enough, or where no parameter, or not every unknown number of x0, changes what is seen;
        `diverged` where the solution is not finite. `end` says which in words. `x0` are the initial states.

    Raises:
        InputError: nothing to fit, nothing observed, an infinite observation, a number out of range, an x0 that was computed from a
            tensor with a gradient.
        ShapeError: `observe` gives another shape than y.
        DivergedError, NotConvergedError: with `throw`.
    Limits: J is held whole, observations × parameters, and a linear system of all observations is solved at every step: for up to
        some 5,000 of them, and 10,000 parameters. A fit of long solutions has poor minima where the first guess is far away: fit an
        early part first.
    Source: Marquardt 1963, J. SIAM 11, 431; for missing terms of known models, Rackauckas et al. 2020, arXiv:2001.04385.
    """
    _check_numbers(decay=decay, damping=damping, tol=tol)
    if check_whole("max_steps", max_steps) < 1:
        raise InputError(f"max_steps is {max_steps}; it is at least 1.")
    initial = Initial(x0, unknown, _series(times, observed if observe is None else None))
    shot = Shot(field, initial, times, dt=dt, method=method, time_dependent=time_dependent)
    seen = Seen(shot, observed, observe)
    theta, unseen = shot.start, seen.balance()
    steps = levenberg_marquardt(seen, theta, decay=decay, damping=damping, max_steps=max_steps, free=initial.count)
    losses, misfits, status, end = [], [], Status.NOT_CONVERGED, ""
    for at in watched(steps, max_steps, "fit", progress):
        if at.lowered:
            losses.append(at.loss)
            misfits.append(at.distance / float(seen.y.norm()))
            theta = at.theta
            shot.learn(theta)
        status, end = _status(at, losses, tol)
        if status != Status.NOT_CONVERGED or not at.lowered:
            break
    if unseen and status == Status.OK:
        status, end = Status.NOT_CONVERGED, f"{unseen} of the unknown numbers of x0 change nothing that is seen"
    found = ObservationFit(
        codes=torch.tensor(int(status), dtype=torch.int8),
        misfit=torch.tensor(misfits, dtype=torch.float64),
        observed=seen.y,
        predicted=seen.residuals(theta) + seen.y,
        initial_states=initial.found(shot.unknown(theta)).reshape(-1, initial.given.shape[-1]),
        end=end,
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
    return _thrown(found) if throw else found


def _series(times: Any, states: Any) -> tuple[int, ...]:
    """Axes of the series, so far as the times and the observed states, if such they are, tell."""
    found = [tuple(torch.as_tensor(part).shape[1 : end or None]) for part, end in ((times, 0), (states, -1)) if part is not None]
    try:
        return torch.broadcast_shapes(*found)
    except RuntimeError:  # the observations do not go with the times, which is told where they are compared
        return found[0]


class Seen:
    """Residuals of what is seen of a solution, as a function of the field's parameters and the unknown initial numbers.

    Args:
        shot: the solution.
        observed: y; NaN where nothing was seen.
        observe: what is seen of states.
    """

    def __init__(self, shot: Shot, observed: Tensor, observe: Observe | None) -> None:
        self.shot, self.observe = shot, observe
        states = shot.states(shot.start)
        y = torch.as_tensor(observed).detach().to(states)
        shape = tuple(states.shape if observe is None else observe(states).shape)
        if shape != tuple(y.shape):
            raise ShapeError(
                f"observed has shape {tuple(y.shape)}, but the solution is seen in shape {shape}.\n"
                "Observations go with states of shape (times, *batch, dim)."
            )
        self._kept = ~y.isnan().flatten()
        self.y = y.flatten()[self._kept]
        if self.y.isinf().any():
            raise InputError(f"{int(self.y.isinf().sum())} of the observations are infinite.\nMark what was not seen by NaN.")
        if not (self.y != 0).any():
            raise InputError("nothing was observed: y holds no number that is not 0 or NaN.")
        self._shape = states.shape

    def residuals(self, theta: Tensor) -> Tensor:
        """ŷ − y, shape (observations)."""
        return self._see(self.shot.states(theta).flatten()) - self.y

    def linearised(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and their Jacobian, shape (observations, parameters)."""
        states, rows = self.shot.linearised(theta)
        along = rows.movedim(-2, 0).flatten(1)  # (parameters, all numbers of all states)
        if self.observe is None:
            return self._see(states.flatten()) - self.y, along[:, self._kept].mT
        seen, pushed = pushforward(self._see, states.flatten(), along)
        return seen - self.y, pushed.mT

    def balance(self) -> int:
        """Measure unknown initial numbers in units in which each matters as much as a parameter; how many do not matter at all."""
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
        whole = states.reshape(self._shape)
        return (whole if self.observe is None else self.observe(whole)).flatten()[self._kept]


def _status(at: Iterate, losses: list[float], tol: float) -> tuple[Status, str]:
    """How it stands after a step, and what it is to be told if it ends there."""
    if not math.isfinite(at.loss):
        return Status.DIVERGED, "the solution or its derivative is not finite there"
    if at.flat:
        return Status.NOT_CONVERGED, FLAT
    if not at.lowered:
        return Status.OK, "no step lowers the loss further"
    if len(losses) > 1 and losses[-1] > (1 - tol) * losses[-2]:
        return Status.OK, "the loss has settled"
    return Status.NOT_CONVERGED, "stopped by max_steps, the loss still falling"


def _check_numbers(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 <= value < float("inf") or (name == "damping" and value == 0):
            raise InputError(f"{name} is {value:g}; it is a finite number {'above' if name == 'damping' else 'of at least'} 0.")


def _thrown(found: ObservationFit) -> ObservationFit:
    steps = counted(len(found.misfit) - 1, "step")
    if found.codes == Status.DIVERGED:
        raise DivergedError(
            f"the solution or its derivative is not finite where the fit stands after {steps}.\n"
            "Take shorter steps (dt), an earlier part of the observations, or begin from other parameters."
        )
    if found.codes == Status.NOT_CONVERGED and found.end == FLAT:
        raise NotConvergedError(
            f"{FLAT} to first order.\nLet observe keep the graph of the states, or begin from other parameters."
        )
    if found.codes == Status.NOT_CONVERGED:
        raise NotConvergedError(f"the loss was still falling after {steps}.\nAsk for more: max_steps.")
    return found
