"""Vector fields: a velocity at each state and time, from a function, a module, a flow or another field."""

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
TIMES = ("t", "time", "_t", "t_", "ts", "tt", "t0", "tau")  # usual names of the time argument
UNSAID = ("s", "_", "__")  # the time too, if a state follows
STATES = ("x", "y", "z", "u", "q", "h", "state", "states", "x0", "y0", "z0")


def as_field(given: Any, *, time_dependent: bool = False, is_complex: bool = False) -> "Field":
    """Turn any form in which users pass a field into a `Field`.

    The parameters of a module become those of the field: training the field trains the module.

    Args:
        given: x ↦ ẋ or (x, t) ↦ ẋ; a module; a `Field`, returned as it is; or a `Flow`, whose field is returned.
        time_dependent: call a function or module with (x, t). A `Field` decides this itself.
        is_complex: a function or module takes and returns complex numbers.

    Raises:
        InputError: the value is not callable, takes the time first, or is a `Field` while `is_complex` is set.
        UnsupportedModuleError: it is a system without a field.
    """
    given = field_of(given)
    if isinstance(given, Field):
        if is_complex:
            raise InputError("expected a function or module of complex numbers, got a Field, which is real.\nLeave out is_complex.")
        return given
    if not callable(given):
        raise InputError(
            f"expected a field, got a value of type {type(given).__name__}.\n"
            "Pass a function of states, a module, an sx.Field or an sx.Flow."
        )
    return FunctionField(given, time_dependent=time_dependent, is_complex=is_complex)


def field_of(given: Any) -> Any:
    """The field of a flow; anything that is not a system, and a layered network, unchanged."""
    if not isinstance(given, System):
        return given
    own = getattr(given, "field", None)
    if isinstance(own, Field):
        return own
    if not given.layered:
        raise without_field(given)
    return given


def without_field(given: object) -> UnsupportedModuleError:
    """The error for a system that is not a flow."""
    return UnsupportedModuleError(
        f"expected a Flow, got a {type(given).__name__}, which has no field and no method.\n"
        "Pass the field: sx.Flow(field, dim, dt), or sx.nn.ContinuousDepth(fields) for the blocks of a residual network."
    )


class Field(Parametric):
    """A vector field with parameters:  ẋ = f(x, t).

    Subclasses define `forward`, and may define `pushforward` in closed form where speed matters. The time is one number; or, where
    each item has its own time, a tensor of shape (*batch).

    Example:
        >>> class Decay(sx.Field):
        ...     def __init__(self, rate=1.0):
        ...         super().__init__()
        ...         self.hold(rate=rate)
        ...     def forward(self, x, t):
        ...         return -self.rate * x
        >>> print(f"{sx.solve(Decay(2.0), torch.ones(1), [0.0, 1.0]).last.item():.3f}")  # e⁻²
        0.135
    """

    time_dependent = True  # may depend on the time

    def __init__(self) -> None:
        super().__init__()
        self._tangents = Tangents("field")

    @property
    def has_own_tangents(self) -> bool:
        """Whether the tangents come from the class itself rather than from automatic differentiation."""
        return type(self).pushforward is not Field.pushforward

    def forward(self, x: Tensor, t: Time) -> Tensor:
        """The velocity at x, shape (*batch, dim)."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward(x, t).")

    def pushforward(self, x: Tensor, v: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """The velocity f(x, t), and Df(x, t) applied to the tangents v, shape (*batch, k, dim). Default: forward AD."""
        return self._tangents(lambda y: self(y, t), x, v)

    def drift(self, x: Tensor, t: Time) -> Tensor | None:
        """∂f/∂t at x, shape (*batch, dim); None if the field does not depend on the time. By forward AD."""
        if not self.time_dependent:
            return None
        when = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        if not when.ndim:
            return by_time(lambda s: self(x, s[0]).flatten(), when[None]).reshape(x.shape)
        when = when.expand(x.shape[:-1])[..., None]
        return by_time(lambda s: self(x, s[..., 0]), when)


class WrappedField(Field):
    """A field made from another one. Subclasses map its arguments (`inward`) and its values (`outward`).

    Args:
        field: the inner field.
    """

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    @property
    def time_dependent(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.field.time_dependent

    @property
    def has_own_tangents(self) -> bool:
        return self.field.has_own_tangents

    def inward(self, x: Tensor, t: Time) -> tuple[Tensor, Time]:
        """The arguments passed to the inner field."""
        return x, t

    def outward(self, value: Tensor, like: Tensor) -> Tensor:
        """Map velocities, of the shape of the states `like`; or tangents, with `like` the outer tangents."""
        return value

    def forward(self, x: Tensor, t: Time) -> Tensor:
        return self.outward(self.field(*self.inward(x, t)), x)

    def pushforward(self, x: Tensor, v: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        inner, when = self.inward(x, t)
        value, pushed = self.field.pushforward(inner, v.reshape(*inner.shape[:-1], *v.shape[-2:]), when)
        return self.outward(value, x), self.outward(pushed, v)

    def drift(self, x: Tensor, t: Time) -> Tensor | None:
        found = self.field.drift(*self.inward(x, t))
        return None if found is None else self.outward(found, x)


class FunctionField(Field):
    """A vector field from a function, or from a module, whose parameters become the field's.

    Args:
        function: x ↦ ẋ or (x, t) ↦ ẋ. An `nn.Module` is called with one batch axis.
        time_dependent: call `function(x, t)`. t is a tensor: a scalar if all items share a time, of shape (*batch) otherwise.
        is_complex: the function takes and returns complex numbers; the state holds their real and imaginary parts.
    """

    def __init__(self, function: Callable[..., Tensor], *, time_dependent: bool = False, is_complex: bool = False) -> None:
        super().__init__()
        function = bare(function)
        check_state_first(function, time_dependent)
        self.function = function
        self.time_dependent = time_dependent
        self.is_complex = is_complex

    def forward(self, x: Tensor, t: Time) -> Tensor:
        when = (as_time(t, x),) if self.time_dependent else ()
        value = in_pairs(self.function, x, *when) if self.is_complex else in_one_batch(self.function, x, *when)
        return as_velocity(value)


def as_time(t: Time, x: Tensor) -> Tensor:
    """The time as a tensor, in the dtype of the state."""
    return t if isinstance(t, Tensor) else torch.tensor(t, dtype=x.dtype, device=x.device)


def check_state_first(function: Callable[..., Any], time_dependent: bool) -> None:
    """Refuse a function of (t, x), the order of other libraries; recognised by the names of its arguments."""
    try:
        taken = inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters.values()
    except (TypeError, ValueError):  # no signature
        return
    needed = [one for one in taken if one.kind in POSITIONAL and (time_dependent or one.default is one.empty)]
    first, second = ([one.name.lower() for one in needed] + ["", ""])[:2]
    if second and (first in TIMES or (first in UNSAID and second in STATES)):
        names = ", ".join(one.name for one in needed[:2])
        raise InputError(
            f"expected f(x, t), the state first; the function takes ({names}), the time first.\n"
            "Swap them: lambda x, t: f(t, x), with time_dependent=True."
        )


def as_velocity(value: Any) -> Tensor:
    """The value that a field returned, checked to be a tensor."""
    if not isinstance(value, Tensor):
        raise InputError(
            f"expected the field to return a tensor, got a {type(value).__name__}.\nReturn the velocity, in the shape of the state."
        )
    return value
