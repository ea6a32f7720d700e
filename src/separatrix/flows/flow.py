"""Flows: a vector field and the method that follows it, as a system of steps dt."""

import copy
import inspect
from collections.abc import Callable
from numbers import Real
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from separatrix.core.derivative import Tangents
from separatrix.core.errors import InputError, UnsupportedModuleError
from separatrix.core.parametric import Parametric
from separatrix.core.structure import as_pairs, from_pairs
from separatrix.core.system import System, in_one_batch, in_pairs
from separatrix.core.twin import twin
from separatrix.core.wrappers import bare
from separatrix.flows.methods import SOLVERS
from separatrix.flows.methods.rosenbrock import by_time
from separatrix.flows.methods.solver import Time

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
TIMES = ("t", "time", "_t", "t_", "ts", "tt", "t0", "tau")  # as people call it
UNSAID = ("s", "_", "__")  # that too, where a state follows
STATES = ("x", "y", "z", "u", "q", "h", "state", "states", "x0", "y0", "z0")


class Field(Parametric):
    """A vector field with parameters:  ẋ = f(x, t).  A subclass defines `forward`, and its own tangents where they are hot.

    The time is one number; or, where each item has its own, a tensor of shape (*batch), as each component of the state has.
    """

    time_dependent = True  # may look at the time

    def __init__(self) -> None:
        super().__init__()
        self._tangents = Tangents("field")

    @property
    def has_own_tangents(self) -> bool:
        """Whether its tangents are of its own making, and not by automatic differentiation."""
        return type(self).pushforward is not Field.pushforward

    def forward(self, x: Tensor, t: Time) -> Tensor:
        """The velocity at x, shape (*batch, dim)."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward(x, t).")

    def pushforward(self, x: Tensor, v: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """The velocity f(x, t) and Df(x, t) along the tangents v, rows of shape (*batch, k, dim). By forward AD."""
        return self._tangents(lambda y: self(y, t), x, v)

    def drift(self, x: Tensor, t: Time) -> Tensor | None:
        """∂f/∂t at x, shape (*batch, dim); None where the field does not look at the time. By forward AD."""
        if not self.time_dependent:
            return None
        when = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        if not when.ndim:
            return by_time(lambda s: self(x, s[0]).flatten(), when[None]).reshape(x.shape)
        when = when.expand(x.shape[:-1])[..., None]
        return by_time(lambda s: self(x, s[..., 0]), when)


class FunctionField(Field):
    """A vector field from a function.

    Args:
        function: x ↦ ẋ, or (x, t) ↦ ẋ. An `nn.Module` is used through a twin, and given one batch axis.
        time_dependent: call `function(x, t)`, t a tensor: of no axes where all items have one time, of shape (*batch) where each
            has its own.
        is_complex: it takes and gives complex numbers, whose real and imaginary parts are the state.
    """

    def __init__(self, function: Callable[..., Tensor], *, time_dependent: bool = False, is_complex: bool = False) -> None:
        super().__init__()
        function = bare(function)
        check_state_first(function, time_dependent)
        self.function = twin(function) if isinstance(function, nn.Module) else function
        self.time_dependent = time_dependent
        self.is_complex = is_complex

    def forward(self, x: Tensor, t: Time) -> Tensor:
        """The function's value."""
        when = (as_time(t, x),) if self.time_dependent else ()
        value = in_pairs(self.function, x, *when) if self.is_complex else in_one_batch(self.function, x, *when)
        return as_velocity(value)


def as_time(t: Time, x: Tensor) -> Tensor:
    """A time as functions of users get it: a tensor, in the precision of the state."""
    return t if isinstance(t, Tensor) else torch.tensor(t, dtype=x.dtype, device=x.device)


def check_state_first(function: Callable[..., Any], time_dependent: bool) -> None:
    """Refuse a function of (t, x), which other libraries take, by the name of its first argument."""
    try:
        taken = inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters.values()
    except (TypeError, ValueError):  # it does not say
        return
    needed = [one for one in taken if one.kind in POSITIONAL and (time_dependent or one.default is one.empty)]
    first, second = ([one.name.lower() for one in needed] + ["", ""])[:2]
    if second and (first in TIMES or (first in UNSAID and second in STATES)):
        names = ", ".join(one.name for one in needed[:2])
        raise InputError(
            f"the function takes ({names}), the time first; Separatrix calls f(x, t), the state first.\n"
            "Swap them: lambda x, t: f(t, x), with time_dependent=True."
        )


def as_velocity(value: Any) -> Tensor:
    """What a field returned, which must be a tensor."""
    if not isinstance(value, Tensor):
        raise InputError(
            f"the field returned a {type(value).__name__}, no tensor.\nIt must return the velocity, of the shape of the state."
        )
    return value


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
        field: x ↦ ẋ on states of shape (*batch, dim), or a `Field`, which may carry parameters and closed-form tangents.
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
        if isinstance(field, Field) and is_complex:
            raise InputError("a Field is of real numbers.\nPass a function or module of complex ones, or leave out: is_complex.")
        options = {"time_dependent": time_dependent, "is_complex": is_complex}
        self.field = field if isinstance(field, Field) else FunctionField(field, **options)
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
        """The field itself: its zeros are the flow's rest points, whatever the method."""
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
        raise UnsupportedModuleError(
            f"what was given is a {type(system).__name__}, no Flow: it has no field and no method.\n"
            "Give the field: sx.Flow(field, dim, dt), or sx.nn.ContinuousDepth(fields) for the blocks of a residual network."
        )
    return system


def field_of(given: Any) -> Any:
    """A flow's field, and what is no system as it is; a step is no velocity, so other systems are refused."""
    return check_flow(given).field if isinstance(given, System) else given


def check_step(dt: float) -> None:
    """Refuse a step that is no positive number."""
    check_positive(dt, "a flow's step is a positive number, not dt =")


def check_positive(value: object, broken: str) -> None:
    """Refuse what is no positive number, in the given words, which its value ends."""
    if not isinstance(value, Real | Tensor) or not 0 < value < float("inf"):
        raise InputError(f"{broken} {value!r}.")
