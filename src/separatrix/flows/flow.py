"""Flows: a vector field and a one-step method, as a system."""

import copy
from collections.abc import Callable
from typing import Any, Protocol, Self

from torch import Tensor

from separatrix.core.checks import check_choice, check_positive, check_whole
from separatrix.core.structure import as_pairs, from_pairs
from separatrix.core.system import System
from separatrix.flows.field import as_field, without_field
from separatrix.flows.methods import SOLVERS
from separatrix.flows.methods.solver import Time


class Velocity(Protocol):
    """What a method integrates: a velocity f(x, t) and its derivative along tangents."""

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        """The velocity at x, shape (*batch, dim)."""
        ...

    def pushforward(self, x: Tensor, v: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """The velocity, and its derivative along the tangents v, shape (*batch, k, dim)."""
        ...


class Flow(System):
    r"""The flow of  ẋ = f(x, t),  integrated by a one-step method with step size dt; step n begins at t = n dt.

    Args:
        field: x ↦ ẋ on states of shape (*batch, dim): a function; a module, which becomes a submodule of the flow
            (`flow.parameters()`, `flow.double()` and `flow.train()` act on it, while runs use a twin); or a `Field`, which may have
            parameters and closed-form tangents.
        dim: length of the state.
        dt: step size, in the field's unit of time.
        method: a name in `SOLVERS`. Any field: "euler", "heun", "midpoint", "rk4", "dopri5". Any low-dimensional field:
            "implicit_midpoint", symplectic, without a stability limit on dt. Separable fields: "leapfrog", "yoshida4", symplectic.
        time_dependent: call `field(x, t)`.
        start: the state that `initial_state` returns. Default: the origin.
        is_complex: the field takes and returns `dim` complex numbers. The state then has 2 · dim real ones, Re z₁, Im z₁, Re z₂, …;
            `pack` and `unpack` convert.

    Raises:
        InputError: unknown method, or dt is not a positive number; when a run begins: the method needs a separable field and this
            one is not.
        ShapeError: the method needs a state (q, p), but dim is odd.

    Example:
        >>> pendulum = sx.Flow(lambda x: torch.stack([x[..., 1], -torch.sin(x[..., 0])], -1), dim=2, dt=0.1)
        >>> sx.trajectory(pendulum, torch.tensor([1.0, 0.0]).double(), 10).shape
        torch.Size([11, 2])
    """

    continuous = True

    def __init__(
        self,
        field: Callable[..., Tensor],
        dim: int,
        dt: float,
        *,
        method: str = "rk4",
        time_dependent: bool = False,
        start: tuple[float, ...] | None = None,
        is_complex: bool = False,
    ) -> None:
        dim = 2 * dim if is_complex else dim
        check_method(method, dim)
        check_positive("dt", dt)
        super().__init__(dim, dt=dt, start=start)
        self.field = as_field(field, time_dependent=time_dependent, is_complex=is_complex)
        self.is_complex = is_complex
        self.method = method

    @property
    def autonomous(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the field does not depend on the time; a subclass with a step, or a field during it, of its own does not say."""
        return not self.field.time_dependent and type(self).step is Flow.step and type(self).during is Flow.during

    @property
    def has_own_tangents(self) -> bool:
        return type(self).pushforward is not Flow.pushforward or self.field.has_own_tangents

    def during(self, n: int) -> Velocity:
        """The field that step n integrates."""
        return self.field

    def pack(self, state: Any) -> Tensor:
        """The state vector of a state: for complex numbers, their real and imaginary parts."""
        return as_pairs(state) if self.is_complex and state.is_complex() else state

    def unpack(self, x: Tensor) -> Any:
        """The state of a state vector: complex numbers if the field is complex."""
        return from_pairs(x) if self.is_complex else x

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The state after a time dt."""
        return SOLVERS[self.method].step(self.during(n), x, n * self.dt, self.dt)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The exact derivative of the discrete step: the same method applied to the variational equation."""
        return SOLVERS[self.method].pushforward(self.during(n).pushforward, x, v, n * self.dt, self.dt)

    def residual(self, x: Tensor, n: int = 0) -> Tensor:
        """The field: its zeros are the flow's equilibria, whatever the method."""
        return self.during(n)(x, n * self.dt)

    def residual_pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The field and its derivative along tangents."""
        return self.during(n).pushforward(x, v, n * self.dt)

    def refined(self, factor: int = 2, *, method: str | None = None) -> Self:
        """The same field and parameters with `factor` steps in place of each one, optionally by another method."""
        check_whole("factor", factor, 1)
        check_method(self.method if method is None else method, self.dim)
        other = copy.copy(self)
        other.__dict__ |= {name: dict(self.__dict__[name]) for name in ("_parameters", "_buffers", "_modules", "_ranks")}
        other.dt, other.method = self.dt / factor, self.method if method is None else method
        return other

    def check_start(self, x: Tensor) -> None:
        """Refuse a field that the method cannot follow."""
        SOLVERS[self.method].check_field(self.during(0), x, self.dt / 2)  # not at t = 0, where a term may vanish

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, method={self.method}"


def check_method(method: str, dim: int) -> None:
    """Refuse an unknown method, or one that does not fit the length of the state."""
    check_choice("method", method, SOLVERS)
    SOLVERS[method].check_dim(dim)


def check_flow(system: object) -> Flow:
    """The system, checked to be a flow."""
    if not isinstance(system, Flow):
        raise without_field(system)
    return system
