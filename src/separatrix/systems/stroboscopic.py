"""The map that a flow under a periodic force makes of its states: from one period to the next."""

import math
from numbers import Real

import torch
from torch import Tensor

from separatrix.core.components import along_tangents
from separatrix.core.derived import Derived
from separatrix.core.errors import InputError
from separatrix.core.parametric import Number
from separatrix.core.system import System
from separatrix.flows.events.crossing import check_flow, shown
from separatrix.flows.flow import Flow
from separatrix.flows.methods import SOLVERS, Solver

PHASES = (0.1, 0.37, 0.83)  # of a period, at which a field is compared with itself one period later
PERIODIC = {torch.float64: 1e-6, torch.float32: 1e-3}  # relative difference beyond which it is not periodic


class Stroboscopic(Derived):
    r"""A flow under a periodic force, seen once a period T:  x_{n+1} = Φ_T(x_n)  from t = 0.

    Each round is p = ⌈T / dt⌉ equal steps of the flow's method and begins at t = 0 exactly, so that the map does not depend on n:
    its fixed points are the cycles of the forced flow, and their multipliers its Floquet multipliers.

    Args:
        system: a `Flow`; an autonomous one is seen at these times all the same.
        period: T, in the flow's unit of time.
        frequency: instead of the period, the name of the parameter that is the force's angular frequency ω: T = 2π/ω, which then
            follows `at(omega=…)`, for a batch of frequencies too. The field is given its time as a tensor where ω is one.

    Raises:
        InputError: neither or both of period and frequency; a period that is no positive number; no parameter of that name; at a
            step, a field that is not the same a period later.
        UnsupportedModuleError: the system is no Flow.
    Source: Guckenheimer & Holmes 1983, Nonlinear Oscillations, 1.5.
    """

    def __init__(self, system: Flow, period: float | None = None, *, frequency: str | None = None) -> None:
        check_flow(system, "a stroboscopic map")
        if (period is None) == (frequency is None):
            raise InputError(f"the period or the frequency is given, and {'neither' if period is None else 'both'} was.")
        if frequency is not None and frequency not in system.parameter_names:
            known = ", ".join(system.parameter_names) or "none"
            raise InputError(f"the flow has no parameter {frequency!r}; it has: {known}.\nGive the period as a number.")
        if period is not None and not (isinstance(period, Real) and 0 < period < math.inf):
            raise InputError(f"the period is {period!r}; it is a positive number, in the flow's unit of time.")
        super().__init__(system)
        self.given: float | None = period
        self.frequency = frequency
        omega = torch.as_tensor(self._omega)
        if not bool(((omega > 0) & torch.isfinite(omega)).all()):
            raise InputError(f"{frequency} is {shown(self._omega)}; a force's frequency is a positive number.")
        self.dt = float(torch.as_tensor(self.period, dtype=torch.float64).max())
        self.p = max(1, math.ceil(self.dt / system.dt * (1 - 1e-12)))

    @property
    def period(self) -> Number:
        """T, a number or one for each item."""
        return 2 * math.pi / self._omega if self.given is None else self.given

    @property
    def _omega(self) -> Number:
        if self.frequency is None:
            return 2 * math.pi / self.period
        holder = next(part for part in self.system.modules() if self.frequency in getattr(part, "_ranks", ()))
        return getattr(holder, self.frequency)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The state a period later."""
        period, field = self._checked_period(x), self.system.field
        for i in range(self.p):
            x = self._solver.step(lambda y, s: along_tangents(period) * field(y, s * period), x, i / self.p, 1 / self.p)
        return x

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The state and the tangents a period later."""
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
        """What `print` shows between the parentheses."""
        return f"dim={self.dim}, period={shown(self.period)}, steps={self.p}"

    @property
    def _solver(self) -> Solver:
        return SOLVERS[self.system.method]

    def _checked_period(self, x: Tensor) -> Number:
        """The period; refused at every step where it is not the field's, because `at` may have changed that."""
        period, field = self.period, self.system.field
        with torch.no_grad():
            for phase in PHASES:
                now, later = field(x.detach(), phase * period), field(x.detach(), (phase + 1) * period)
                apart = _apart(now, later)
                if apart > PERIODIC[x.dtype]:
                    raise InputError(
                        f"the field changes by {apart:.2g} of its size over the period of {shown(period)}, at t = "
                        f"{shown(phase * period)}: that is not the force's.\n"
                        "Give 2π over the force's angular frequency, or its name: sx.Stroboscopic(flow, frequency=…)."
                    )
        return period


def _apart(now: Tensor, later: Tensor) -> float:
    """The largest difference of velocities, relative to the largest of its component."""
    size = torch.maximum(now.abs(), later.abs()).nan_to_num(0.0).reshape(-1, now.shape[-1])
    apart = (later - now).abs().nan_to_num(0.0).reshape(-1, now.shape[-1])
    if not len(size):
        return 0.0
    largest = size.amax(0)
    return float((apart.amax(0) / largest.where(largest > 0, 1.0)).amax())
