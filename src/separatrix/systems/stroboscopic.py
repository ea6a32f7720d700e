"""Stroboscopic maps: a periodically forced flow, sampled once per period."""

import math

import torch
from torch import Tensor

from separatrix.core.checks import check_positive
from separatrix.core.components import along_tangents
from separatrix.core.derived import Derived
from separatrix.core.errors import InputError
from separatrix.core.parametric import Number
from separatrix.core.system import System
from separatrix.flows.events.crossing import check_flow, shown
from separatrix.flows.flow import Flow
from separatrix.flows.methods import SOLVERS, Solver

PHASES = (0.1, 0.37, 0.83)  # fractions of a period at which the field is compared with itself one period later
PERIODIC = {torch.float64: 1e-6, torch.float32: 1e-3}  # relative difference above which the field is not periodic


class Stroboscopic(Derived):
    r"""Stroboscopic map of a periodically forced flow, sampled once per period T:  x_{n+1} = Φ_T(x_n)  from t = 0.

    One iteration takes p = ⌈T / dt⌉ equal steps of the flow's method and starts at t = 0 exactly, so that the map does not depend
    on n. Its fixed points are the cycles of the forced flow, and their multipliers are the Floquet multipliers.

    Args:
        system: a `Flow`; an autonomous flow is sampled at the same times.
        period: T, in the flow's unit of time.
        frequency: instead of the period, the name of the parameter that is the angular frequency ω of the force: T = 2π/ω, which
            then follows `at(omega=…)`, including a batch of frequencies. If ω is a tensor, the field receives its time as one.

    Raises:
        InputError: neither or both of `period` and `frequency` are given; the period is not a positive number; there is no
            parameter of that name; at a step, the field is not periodic with this period.
        UnsupportedModuleError: the system is not a Flow.
    Source: Guckenheimer & Holmes 1983, Nonlinear Oscillations, 1.5.

    Example:
        >>> decay = sx.Flow(lambda x: -x, dim=1, dt=0.1)
        >>> strobed = sx.Stroboscopic(decay, period=1.0)
        >>> print(f"{strobed.step(torch.ones(1)).item():.3f}", strobed.dt)  # e⁻¹
        0.368 1.0
    """

    def __init__(self, system: Flow, period: float | None = None, *, frequency: str | None = None) -> None:
        check_flow(system, "a stroboscopic map")
        if (period is None) == (frequency is None):
            raise InputError(f"expected either period or frequency, got {'neither' if period is None else 'both'}.")
        if frequency is not None and frequency not in system.parameter_names:
            known = ", ".join(system.parameter_names) or "none"
            raise InputError(
                f"the flow has no parameter {frequency!r}; its parameters are: {known}.\nPass period as a number instead."
            )
        if period is not None:
            check_positive("period", period)
        super().__init__(system)
        self.given: float | None = period
        self.frequency = frequency
        omega = torch.as_tensor(self._omega)
        if not bool(((omega > 0) & torch.isfinite(omega)).all()):
            raise InputError(f"{frequency} is {shown(self._omega)}; the frequency of a force must be positive.")
        self.dt = float(torch.as_tensor(self.period, dtype=torch.float64).max())
        self.p = max(1, math.ceil(self.dt / system.dt * (1 - 1e-12)))

    @property
    def period(self) -> Number:
        """T, a number or one per item."""
        return 2 * math.pi / self._omega if self.given is None else self.given

    @property
    def _omega(self) -> Number:
        if self.frequency is None:
            return 2 * math.pi / self.period
        holder = next(part for part in self.system.modules() if self.frequency in getattr(part, "_ranks", ()))
        return getattr(holder, self.frequency)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The state one period later."""
        period, field = self._checked_period(x), self.system.field
        for i in range(self.p):
            x = self._solver.step(lambda y, s: along_tangents(period) * field(y, s * period), x, i / self.p, 1 / self.p)
        return x

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The state and the tangents one period later."""
        period, field = self._checked_period(x), self.system.field
        each = along_tangents(period)

        def scaled(y: Tensor, w: Tensor, s: float) -> tuple[Tensor, Tensor]:
            velocity, pushed = field.pushforward(y, w, s * period)
            return each * velocity, along_tangents(each) * pushed

        for i in range(self.p):
            x, v = self._solver.pushforward(scaled, x, v, i / self.p, 1 / self.p)
        return x, v

    # a map: the zeros of its residual are the flow's cycles
    continuous = False  # pyright: ignore[reportAssignmentType]
    noise_of_step = System.noise_of_step

    def elapsed(self, x: Tensor, n: int = 0) -> float | Tensor:
        """The period."""
        period = self.period
        return period.to(x).expand(x.shape[:-1]) if isinstance(period, Tensor) else period

    def extra_repr(self) -> str:
        """The text between the parentheses of `repr`."""
        return f"dim={self.dim}, period={shown(self.period)}, steps={self.p}"

    @property
    def _solver(self) -> Solver:
        return SOLVERS[self.system.method]

    def _checked_period(self, x: Tensor) -> Number:
        """The period, checked against the field at every step, because `at` may have changed the field."""
        period, field = self.period, self.system.field
        with torch.no_grad():
            for phase in PHASES:
                now, later = field(x.detach(), phase * period), field(x.detach(), (phase + 1) * period)
                apart = _apart(now, later)
                if apart > PERIODIC[x.dtype]:
                    raise InputError(
                        f"the field is not periodic with the period {shown(period)}: at t = {shown(phase * period)} it changes by "
                        f"{apart:.2g} of its size over one period.\n"
                        "Pass 2π divided by the force's angular frequency, or its name: sx.Stroboscopic(flow, frequency=…)."
                    )
        return period


def _apart(now: Tensor, later: Tensor) -> float:
    """The largest difference between velocities, relative to the largest value of each component."""
    size = torch.maximum(now.abs(), later.abs()).nan_to_num(0.0).reshape(-1, now.shape[-1])
    apart = (later - now).abs().nan_to_num(0.0).reshape(-1, now.shape[-1])
    if not len(size):
        return 0.0
    largest = size.amax(0)
    return float((apart.amax(0) / largest.where(largest > 0, 1.0)).amax())
