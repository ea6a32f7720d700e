"""What a field is: a velocity at each state and time, from a function, a module, a flow, or another field."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.core.derivative import Tangents
from separatrix.core.errors import InputError, UnsupportedModuleError
from separatrix.core.parametric import Parametric
from separatrix.core.system import System, in_one_batch, in_pairs
from separatrix.core.wrappers import bare
from separatrix.flows.methods.rosenbrock import by_time
from separatrix.flows.methods.solver import Time

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
TIMES = ("t", "time", "_t", "t_", "ts", "tt", "t0", "tau")  # as people call it
UNSAID = ("s", "_", "__")  # that too, where a state follows
STATES = ("x", "y", "z", "u", "q", "h", "state", "states", "x0", "y0", "z0")


def as_field(given: Any, *, time_dependent: bool = False, is_complex: bool = False) -> "Field":
    """The field that users mean: a `Field` is its own, a flow has one, a module or a function is made one.

    A module keeps its parameters, which are the field's: what trains the field trains the module.

    Args:
        given: x ↦ ẋ, or (x, t) ↦ ẋ; a module; a `Field`; or a `Flow`.
        time_dependent: a function or module is called with (x, t). A field knows for itself.
        is_complex: a function or module takes and gives complex numbers.

    Raises:
        InputError: it cannot be called, takes the time first, or is a `Field` where complex numbers were asked for.
        UnsupportedModuleError: it is a system without a field.
    """
    given = field_of(given)
    if isinstance(given, Field):
        if is_complex:
            raise InputError("a Field is of real numbers.\nPass a function or module of complex ones, or leave out: is_complex.")
        return given
    if not callable(given):
        raise InputError(
            f"expected a field, got a value of type {type(given).__name__}.\n"
            "Pass a function of states, a module, an sx.Field or an sx.Flow."
        )
    return FunctionField(given, time_dependent=time_dependent, is_complex=is_complex)


def field_of(given: Any) -> Any:
    """A flow's field, and what is no system as it is; networks are systems too, but a map's step is no velocity."""
    if not isinstance(given, System):
        return given
    own = getattr(given, "field", None)
    if isinstance(own, Field):
        return own
    if not given.layered:
        raise without_field(given)
    return given


def without_field(given: object) -> UnsupportedModuleError:
    """The error for what is no flow."""
    return UnsupportedModuleError(
        f"expected a Flow, got a {type(given).__name__}, which has no field and no method.\n"
        "Give the field: sx.Flow(field, dim, dt), or sx.nn.ContinuousDepth(fields) for the blocks of a residual network."
    )


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


class WrappedField(Field):
    """A field made of another one; a subclass says what that one is given, and what is made of its velocities.

    Args:
        field: the inner field.
    """

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    @property
    def time_dependent(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the inner field may look at the time."""
        return self.field.time_dependent

    @property
    def has_own_tangents(self) -> bool:
        """Whether the inner field's tangents are of its own making."""
        return self.field.has_own_tangents

    def inward(self, x: Tensor, t: Time) -> tuple[Tensor, Time]:
        """The states and times that the inner field is given."""
        return x, t

    def outward(self, value: Tensor, like: Tensor) -> Tensor:
        """What becomes of its velocities, of the shape of the states `like`, or of its tangents, of that of the tangents."""
        return value

    def forward(self, x: Tensor, t: Time) -> Tensor:
        """The inner field's velocity, shape (*batch, dim)."""
        return self.outward(self.field(*self.inward(x, t)), x)

    def pushforward(self, x: Tensor, v: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """The inner field's velocity and tangents."""
        inner, when = self.inward(x, t)
        value, pushed = self.field.pushforward(inner, v.reshape(*inner.shape[:-1], *v.shape[-2:]), when)
        return self.outward(value, x), self.outward(pushed, v)

    def drift(self, x: Tensor, t: Time) -> Tensor | None:
        """The inner field's."""
        found = self.field.drift(*self.inward(x, t))
        return None if found is None else self.outward(found, x)


class FunctionField(Field):
    """A vector field from a function, or from a module, whose parameters are then the field's.

    Args:
        function: x ↦ ẋ, or (x, t) ↦ ẋ. An `nn.Module` is given one batch axis.
        time_dependent: call `function(x, t)`, t a tensor: of no axes where all items have one time, of shape (*batch) where each
            has its own.
        is_complex: it takes and gives complex numbers, whose real and imaginary parts are the state.
    """

    def __init__(self, function: Callable[..., Tensor], *, time_dependent: bool = False, is_complex: bool = False) -> None:
        super().__init__()
        function = bare(function)
        check_state_first(function, time_dependent)
        self.function = function
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
