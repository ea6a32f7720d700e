"""Growth and decay of perturbations and gradients: singular values of the Jacobian over lags, in logarithms."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from separatrix.analysis.run.leading import TOL, WHOLE, Orbit, leading_values, suits_sweeps
from separatrix.analysis.run.product import Product, Scaled
from separatrix.analysis.run.statistics import drifts, standard_error
from separatrix.analysis.run.tangent_run import check_k
from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import InputError
from separatrix.core.evolve import Front, begin, check_steps, check_system_type, in_one_width
from separatrix.core.memory import check_whole_jacobian
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, measured

LEADING = 4  # singular values of a default run
Width = Callable[[int], int]  # of the state before a step, without padding
SURE = 2  # standard errors beyond which the sign of a rate is known


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Propagation(Result):
    r"""Singular values of J_l = ∂x_{n+l}/∂x_n over lags l, as natural logarithms so that long lags do not underflow.

    Args:
        lags: (lag), steps.
        log_singular_values: (lag, *batch, k), ln σ_i, descending; −∞ for a direction that is mapped to 0.
        log_gain: (lag, *batch), ln(‖J_l‖_F/√dim), the growth of a typical perturbation.
        log_gain_stderr: (lag, *batch), its standard error over random tangents; 0 if the whole Jacobian was carried.
        time: (lag), elapsed time.
        rates, rates_stderr: (*batch, k), slope of ln σ_i from a fifth of the longest lag (or from the last lag before that) to the
            longest lag, and its standard error from the scatter of the slopes between lags (NaN with fewer than 8);
            nats per unit time. The rates tend to the Lyapunov exponents λ_i.
    """

    lags: Tensor
    log_singular_values: Tensor
    log_gain: Tensor
    log_gain_stderr: Tensor
    time: Tensor
    rates: Tensor
    rates_stderr: Tensor

    drawn_by: ClassVar[str] = "separatrix.plot.propagation:propagation_figure"
    layout: ClassVar[dict[str, str]] = {
        "lags": "lag",
        "time": "lag",
        "log_singular_values": "lag batch k",
        "log_gain": "lag batch",
        "log_gain_stderr": "lag batch",
        "rates": "batch k",
        "rates_stderr": "batch k",
    }
    units: ClassVar[dict[str, str]] = {
        "lags": "steps",
        "time": "units of time",
        "log_singular_values": "nats",
        "log_gain": "nats",
        "log_gain_stderr": "nats",
        "rates": "nats per unit time",
        "rates_stderr": "nats per unit time",
    }

    @property
    def log_norm(self) -> Tensor:
        """ln σ₁, (lag, *batch): the largest growth of any perturbation and of any backpropagated gradient."""
        return self.log_singular_values[..., 0]

    @property
    def time_constants(self) -> Tensor:
        """τ_i = 1/|rate|, (*batch, k), units of time in which gradients change by a factor of e.

        They vanish where the rate is negative and explode where it is positive. τ_i is not how long an input is remembered, which
        `memory_capacity` measures.
        """
        return 1 / self.rates.abs()

    @property
    def time_constants_stderr(self) -> Tensor:
        """Standard error of τ_i to first order: standard error of the rate over its square."""
        return self.rates_stderr / self.rates.square()

    def summary(self) -> str:
        """Growth over the longest lag and the leading time constant, in words."""
        known = self.codes != Status.DIVERGED
        if not bool(known.any()):
            return "gradient propagation: diverged"
        largest, typical = (float(values[-1][known].mean()) for values in (self.log_norm, self.log_gain))
        growth = (
            f"over {int(self.lags[-1])} steps the largest gradient changes by e^{largest:.3g}, a typical one by e^{typical:.3g}"
        )
        if not self.batch:
            return f"{growth}; {self._time_constant()}" if int(self.lags[-1]) else growth
        diverged = int((~known).sum())
        return f"{growth}, averaged over {counted(int(known.sum()), 'run')}{f'; {diverged} diverged' if diverged else ''}"

    def _remedy(self, status: Status) -> str:
        if status is Status.DIVERGED:
            return "Remove the states that diverge from x0."
        return "The rates differ between the halves of the lags: settle longer, or pass longer lags."

    def _time_constant(self) -> str:
        rate, error = float(self.rates[0]), float(self.rates_stderr[0])
        slope = f"rate of σ₁ {measured(rate, error)} nats per {self.clock}"
        if not abs(rate) > SURE * error or rate in (0.0, -torch.inf):
            return slope
        tau = measured(float(self.time_constants[0]), float(self.time_constants_stderr[0]))
        return f"{slope}: it {'explodes' if rate > 0 else 'vanishes'} e-fold in {tau} (not a memory time)"


@torch.no_grad()
def gradient_propagation(
    system: System,
    x0: Tensor | None = None,
    *,
    lags: Iterable[int] | None = None,
    k: int | None = None,
    settle: int = 0,
    seed: int = 0,
    progress: bool = False,
    throw: bool = False,
) -> Propagation:
    r"""Growth of perturbations and gradients over lags along an orbit: the singular values of  J_l = ∂x_{n+l}/∂x_n.

    Returns  ln σ_i(J_l)  and  ln(‖J_l‖_F/√dim),  with `dim` the width after the lag, and the rates of ln σ_i. Backpropagation over
    l steps multiplies a gradient by J_lᵀ, which has the same singular values.

    Args:
        system: any System.
        x0: initial states, shape (*batch, dim). Default: `system.initial_state()`.
        lags: increasing numbers of steps. Default: 0, 1, 2, 3, 5, …, each about 1.3 times the one before but at most 10 steps
            more, up to 200 or the horizon; for more than 512 numbers, each is twice the one before, up to 64.
        k: number of leading singular values, 1 … dim. Default: 4, or dim if it is smaller. k = 1 is faster: it needs no
            factorisation.
        settle: steps before lag 0.
        seed: seed of the initial state and of a random frame, which affects the result only by rounding.
        progress: show a progress bar.
        throw: raise instead of marking items `diverged` or `not_converged`.

    Returns:
        Propagation: `log_singular_values` (lag, *batch, k) and `log_gain` (lag, *batch), nats; `rates` and `time_constants`.
        An item is `not_converged` if one of its rates differs significantly between the two halves of the lags, or if the error of
        one of its logarithms exceeds 0.01.

    Raises:
        InputError: lags do not increase, or k is not in 1 … dim.
        HorizonError: `settle` plus the last lag exceeds the steps the system can take.
        DivergedError, NotConvergedError: with `throw=True`.
    Limits: up to 512 numbers in the state, and for more than a quarter of the singular values, the whole Jacobian is carried,
        (*batch, dim, dim) numbers; so it is if gradients are not the transpose of the tangents. Beyond that, k + 1 directions are
        swept forwards with J and backwards with Jᵀ until the residuals bound the errors of the logarithms by 0.01 (mostly they are
        1e-4), and the gain comes from these and 16 random tangents. A time constant is a rate of decay, not a memory time.
    Source: Bengio, Simard & Frasconi 1994, IEEE Trans. Neural Netw. 5, 157 (vanishing); singular values of long products by QR as
        Geist, Parlitz & Lauterborn 1990, Prog. Theor. Phys. 83, 875.

    Example:
        >>> scale = torch.tensor([0.5, 0.25])
        >>> found = sx.gradient_propagation(sx.Map(lambda x: scale * x, dim=2), lags=(0, 1, 10))
        >>> print(found.log_norm.exp().round(decimals=4).tolist())  # 0.5 ** lag
        [1.0, 0.5, 0.001]
        >>> print(f"{found.time_constants[0]:.3f}")  # 1 / ln 2 steps
        1.443
    """
    check_system_type(system)
    check_seed(seed)
    check_whole("settle", settle)
    lags = default_lags(system, settle, is_large=system.width(settle) > WHOLE) if lags is None else _checked_lags(lags)
    check_steps(system, settle=settle, lag=lags[-1])
    most = min(system.width(n) for n in range(settle, settle + lags[-1] + 1))
    k = min(LEADING, most) if k is None else check_k(k, most)
    front = in_one_width(begin(system, x0, seed=seed, one_width=False)).advance(settle)
    found = (_of_directions if suits_sweeps(front, k) else _of_whole)(front, system.width, lags, k, seed, progress)
    logs, time = found.logs, found.time
    rates, error, drift = _rates(logs, time.to(logs))
    unsure = drift.any(-1) | (found.error > TOL).any(-1).any(0)
    codes = torch.where(unsure, Status.NOT_CONVERGED, Status.OK).masked_fill(found.end.failed_at >= 0, Status.DIVERGED)
    propagation = Propagation(
        codes=codes.to(torch.int8),
        lags=torch.tensor(lags),
        log_singular_values=logs,
        log_gain=found.gains,
        log_gain_stderr=found.gains_stderr,
        time=time,
        rates=rates,
        rates_stderr=error,
        settings={"k": k, "settle": settle, "seed": seed, "clock": system.clock},
    )
    return propagation.or_raise(throw)


@dataclass(frozen=True)
class _Growth:
    """ln σ_i and ln gain with their errors, (lag, *batch, k) and (lag, *batch); times, (lag); and the end of the orbit."""

    logs: Tensor
    error: Tensor
    gains: Tensor
    gains_stderr: Tensor
    time: Tensor
    end: Front


def _of_whole(front: Front, width: Width, lags: tuple[int, ...], k: int, seed: int, progress: bool) -> _Growth:
    """From the whole Jacobian, carried along the orbit."""
    dim = front.x.shape[-1]
    check_whole_jacobian(front.x, 4, f"Pass a smaller k, at most {dim // 4}.")
    product = Scaled.of(front.x) if k == 1 else Product.of(front.x, seed)
    values, gains, times = [], [], []
    begun, reached = front.time, set(lags)
    for tick in watched_count(lags[-1] + 1, "Gradient propagation", progress):
        if tick.index > 0:
            front = front.with_tangents(product.frame).advance(1)
            product = product.times(front.v)
        if tick.index in reached:
            values.append(product.log_singular_values(k))
            rows = front.x.shape[-1] if tick.index == 0 else width(front.n)
            gains.append(product.log_frobenius() - 0.5 * math.log(rows))
            times.append(_since(begun, front))
    logs, gains = torch.stack(values), torch.stack(gains)
    return _Growth(logs, torch.zeros_like(logs), gains, torch.zeros_like(gains), torch.stack(times), front)


def _of_directions(front: Front, width: Width, lags: tuple[int, ...], k: int, seed: int, progress: bool) -> _Growth:
    """From sweeps of a few directions. See Note [Leading values]."""
    orbit = Orbit(front, lags[-1], "Gradient propagation", progress)
    later = tuple(lag for lag in lags if lag > 0)
    times = torch.stack([_since(front.time, orbit.fronts[lag]) for lag in lags])
    if not later:
        ones = torch.zeros(1, *front.x.shape[:-1], k, dtype=front.x.dtype, device=front.x.device)
        return _Growth(ones, ones, ones[..., 0], ones[..., 0], times, orbit.fronts[-1])
    found = leading_values(orbit, later, k, seed)
    rows = torch.tensor([width(front.n + lag) for lag in later]).to(found.logs).log().reshape(-1, *[1] * (front.x.ndim - 1))
    parts = (found.logs, found.error, found.log_frobenius - 0.5 * rows, found.log_frobenius_stderr)
    if lags[0] == 0:  # there the Jacobian is 1
        parts = tuple(torch.cat([torch.zeros_like(part[:1]), part]) for part in parts)
    return _Growth(*parts, times, orbit.fronts[-1])


def _since(begun: float | Tensor, front: Front) -> Tensor:
    return torch.as_tensor(front.time - begun, dtype=torch.float64).mean()


def _checked_lags(lags: Any) -> tuple[int, ...]:
    if not isinstance(lags, Iterable):
        raise InputError(f"expected a sequence of lags, got {lags!r}.\nFor a single lag, pass lags=({lags!r},).")
    steps = tuple(check_whole("lag", lag.item() if isinstance(lag, Tensor) and lag.ndim == 0 else lag) for lag in lags)
    if not steps or steps[0] < 0 or any(b <= a for a, b in pairwise(steps)):
        raise InputError(f"lags must be increasing numbers of steps, at least 0, got {steps}.")
    return steps


def _rates(logs: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes of the logarithms over the last four fifths of the lags, their errors, and whether they drift, (*batch, k)."""
    if time[0] > 0:  # at lag 0 the Jacobian is 1
        logs, time = torch.cat([torch.zeros_like(logs[:1]), logs]), torch.cat([torch.zeros_like(time[:1]), time])
    if len(time) < 2:
        unknown = torch.full_like(logs[0], torch.nan)
        return unknown, unknown, torch.zeros_like(unknown, dtype=torch.bool)
    first = min(int((time < time[-1] / 5).sum()), len(time) - 2)
    logs, time = logs[first:], time[first:]
    span = time.diff().reshape(-1, *[1] * (logs.ndim - 1))
    infinite = logs[-1] == -torch.inf
    steps = logs.diff(dim=0).masked_fill(infinite, 0.0)
    rates = (steps.sum(0) / span.sum()).masked_fill(infinite, -torch.inf)
    return rates, standard_error(steps / span, span), drifts(steps / span, span, comparisons=logs.shape[-1])


def default_lags(system: System, settle: int = 0, *, is_large: bool = False) -> tuple[int, ...]:
    """0, 1, 2, 3, 5, …: each about 1.3 times the one before but at most 10 more, up to 200 steps or the horizon.

    For a large state, each is twice the one before, up to 64.
    """
    most = 64 if is_large else 200
    last = most if system.horizon is None else min(most, system.horizon - settle)
    lags, lag = [0], 1
    while lag < last:
        lags.append(lag)
        lag = 2 * lag if is_large else max(lag + 1, min(round(1.3 * lag), lag + 10))
    return (*lags, last) if last > 0 else (0,)
