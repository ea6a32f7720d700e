"""Flows: a vector field and the method that follows it, as a system of steps dt."""

import copy
from collections.abc import Callable
from numbers import Real
from typing import Any, Protocol, Self

from torch import Tensor

from separatrix.core.errors import InputError
from separatrix.core.structure import as_pairs, from_pairs
from separatrix.core.system import System
from separatrix.flows.field import as_field, without_field
from separatrix.flows.methods import SOLVERS
from separatrix.flows.methods.solver import Time


class Velocity(Protocol):
    """What a method follows: a velocity f(x, t), and its derivative along tangents."""

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        """The velocity at x, shape (*batch, dim)."""
        ...

    def pushforward(self, x: Tensor, v: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """The velocity, and its derivative along the tangents v, rows of shape (*batch, k, dim)."""
        ...


class Flow(System):
    r"""The flow of  ẋ = f(x, t),  followed by a one-step method with fixed step dt; step n begins at t = n dt.

    Args:
        field: x ↦ ẋ on states of shape (*batch, dim); a module, which the flow then contains as `nn.Sequential` contains its layers
            (`flow.parameters()`, `flow.double()` and `flow.train()` are the module's; runs work on a twin); or a `Field`, which may
            carry parameters and closed-form tangents.
        dim: length of the state.
        dt: step, in the field's unit of time.
        method: a name in `SOLVERS`: "euler", "heun", "midpoint", "rk4" or "dopri5" for any field; "implicit_midpoint", symplectic
            and with no bound on dt by stability, for any field of few numbers; "leapfrog" or "yoshida4", symplectic, for a
            separable one.
        time_dependent: call `field(x, t)`.
        start: where `initial_state` begins; None for the origin.
        is_complex: the field takes and gives `dim` complex numbers. The state is their real and imaginary parts, Re z₁, Im z₁,
            Re z₂, …, twice as many; `pack` and `unpack` translate.

    Raises:
        InputError: the method is unknown, or dt is not a positive number; when a run begins: the method needs a separable field,
            and this is none.
        ShapeError: the method needs a state (q, p), and dim is odd.
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
        check_step(dt)
        super().__init__(dim, dt=dt, start=start)
        self.field = as_field(field, time_dependent=time_dependent, is_complex=is_complex)
        self.is_complex = is_complex
        self.method = method

    def during(self, n: int) -> Velocity:
        """What step n follows: the field."""
        return self.field

    def pack(self, state: Any) -> Tensor:
        """The state vector of a state; of complex numbers, their real and imaginary parts."""
        return as_pairs(state) if self.is_complex and state.is_complex() else state

    def unpack(self, x: Tensor) -> Any:
        """The state of a state vector: complex numbers, where the field takes those."""
        return from_pairs(x) if self.is_complex else x

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The state a time dt later."""
        return SOLVERS[self.method].step(self.during(n), x, n * self.dt, self.dt)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The exact derivative of the discrete step, by the same method on the variational equation."""
        return SOLVERS[self.method].pushforward(self.during(n).pushforward, x, v, n * self.dt, self.dt)

    def residual(self, x: Tensor, n: int = 0) -> Tensor:
        """The field itself: its zeros are the flow's equilibria, whatever the method."""
        return self.during(n)(x, n * self.dt)

    def residual_pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The field and its derivative, its own where it has one."""
        return self.during(n).pushforward(x, v, n * self.dt)

    def refined(self, factor: int = 2, *, method: str | None = None) -> Self:
        """The same field with the very same parameters, in `factor` steps for each one; by another method if one is given."""
        if not isinstance(factor, int) or factor < 1:
            raise InputError(f"factor is {factor!r}; it is how many steps make one of now, a whole number from 1 on.")
        check_method(self.method if method is None else method, self.dim)
        other = copy.copy(self)
        other.__dict__ |= {name: dict(self.__dict__[name]) for name in ("_parameters", "_buffers", "_modules", "_ranks")}
        other.dt, other.method = self.dt / factor, self.method if method is None else method
        return other

    def check_start(self, x: Tensor) -> None:
        """Refuse a field that the method cannot follow."""
        SOLVERS[self.method].check_field(self.during(0), x, self.dt / 2)  # at 0 a term may be 0

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"{super().extra_repr()}, method={self.method}"


def check_method(method: str, dim: int) -> None:
    """Refuse a method that is not there, or that cannot follow states of so many numbers."""
    if method not in SOLVERS:
        raise InputError(f"there is no method {method!r}; choose one of {', '.join(SOLVERS)}.")
    SOLVERS[method].check_dim(dim)


def check_flow(system: object) -> Flow:
    """The system as the flow that it is; refuses what is none."""
    if not isinstance(system, Flow):
        raise without_field(system)
    return system


def check_step(dt: float) -> None:
    """Refuse a step that is no positive number."""
    check_positive(dt, "a flow's step is a positive number, not dt =")


def check_positive(value: object, broken: str) -> None:
    """Refuse what is no positive number, in the given words, which its value ends."""
    if not isinstance(value, Real | Tensor) or not 0 < value < float("inf"):
        raise InputError(f"{broken} {value!r}.")
