"""What every recurrent cell made of an ODE is: a drive, recurrent matrices, a step of a method, and its exact tangents."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.flows.flow import check_step
from separatrix.flows.methods import RUNGE_KUTTA, ExplicitRungeKutta

State = Tensor | tuple[Tensor, ...]
Parts = tuple[Tensor, ...]


class OdeCell(nn.Module):
    """A recurrent cell, (input, state) → state, that is one step of a method for an ODE driven by the input.

    A subclass defines `matrices`, `field`, `step` and `pushed`, on the parts of a state, (h,) or (y, z). Tangents are rows, with
    an axis k before the last. All but `drive` and `matrices` take the drive in the place of the input, and the matrices, so that
    a layer makes each once for a whole sequence.

    Args:
        input_size, hidden_size: numbers in an input, and in each part of a state.
        bias: whether the drive V u + b has its b.
        dt: the step, in the ODE's own time.
        drives: how many V u + b the equation has.
    """

    parts: ClassVar[int] = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dt: float,
        drives: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_size("input_size", input_size)
        check_size("hidden_size", hidden_size)
        check_step(dt)
        super().__init__()
        self.input_size, self.hidden_size, self.bias, self.dt = input_size, hidden_size, bias, dt
        self.weight_ih = nn.Parameter(torch.empty(drives * hidden_size, input_size, device=device, dtype=dtype))
        rows = torch.empty(drives * hidden_size, device=device, dtype=dtype) if bias else None
        self.register_parameter("bias_ih", None if rows is None else nn.Parameter(rows))

    def forward(self, input: Tensor, hx: State | None = None) -> State:
        """The state a step later; the input is (batch, inputs) or (inputs), each part of the state (batch, hidden) or (hidden)."""
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise ShapeError(
                f"{type(self).__name__} takes inputs of shape (batch, {self.input_size}) or ({self.input_size},), "
                f"not {tuple(input.shape)}."
            )
        check_dtype(self, "an input", input)
        state = self.zero_state(input.shape[:-1]) if hx is None else self.checked(hx, (*input.shape[:-1], self.hidden_size))
        return joined(self.step(self.drive(input), as_parts(state), self.matrices()))

    def pushforward(
        self, input: Tensor, state: State, tangents: State, input_tangents: Tensor | None = None
    ) -> tuple[State, State]:
        """The state a step later and its tangents, each part of them (*batch, k, hidden); the input's are (*batch, k, inputs)."""
        bend = None if input_tangents is None else input_tangents @ self.weight_ih.mT
        after, pushed = self.pushed(self.drive(input), bend, as_parts(state), as_parts(tangents), self.matrices())
        return joined(after), joined(pushed)

    def velocity(self, input: Tensor, state: State) -> State:
        """The ODE itself: the state's derivative by the ODE's time while the input stays as it is."""
        return joined(self.field(self.drive(input), as_parts(state), self.matrices()))

    def zero_state(self, batch: tuple[int, ...] = ()) -> State:
        """Where a sequence begins, each part (*batch, hidden)."""
        return joined(tuple(self.weight_ih.new_zeros(*batch, self.hidden_size) for _ in range(self.parts)))

    def example_state(self) -> State:
        """The same without batch axes: what `sx.Recurrent` asks for."""
        return self.zero_state()

    def checked(self, state: State, shape: tuple[int, ...]) -> State:
        """The state, if it has the parts and the shape that are wanted."""
        parts = as_parts(state)
        if len(parts) != self.parts:
            raise ShapeError(f"a {type(self).__name__}'s state is {self.parts} tensors, not {len(parts)}.")
        for part in parts:
            if part.shape != shape:
                raise ShapeError(f"{type(self).__name__} takes a state of shape {shape} with this input, not {tuple(part.shape)}.")
            check_dtype(self, "a state", part)
        return state

    def drive(self, input: Tensor) -> Tensor:
        """V u + b, (*batch, drives · hidden)."""
        return nn.functional.linear(input, self.weight_ih, self.bias_ih)

    def matrices(self) -> Parts:
        """The recurrent matrices that the weights make."""
        raise NotImplementedError(f"{type(self).__name__} defines no matrices().")

    def field(self, drive: Tensor, state: Parts, matrices: Parts) -> Parts:
        """The derivative of each part by the ODE's time."""
        raise NotImplementedError(f"{type(self).__name__} defines no field().")

    def step(self, drive: Tensor, state: Parts, matrices: Parts) -> Parts:
        """The parts a step later."""
        raise NotImplementedError(f"{type(self).__name__} defines no step().")

    def pushed(self, drive: Tensor, bend: Tensor | None, state: Parts, tangents: Parts, matrices: Parts) -> tuple[Parts, Parts]:
        """The parts a step later and their tangents; `bend` is the drive's tangents, None where it has none."""
        raise NotImplementedError(f"{type(self).__name__} defines no pushed().")

    def exponent_bounds(self) -> tuple[float, float]:
        """Between which all Lyapunov exponents lie, nats per step, for the weights as they are and whatever the inputs."""
        raise NotImplementedError(f"{type(self).__name__} defines no exponent_bounds().")

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"{self.input_size}, {self.hidden_size}{'' if self.bias else ', bias=False'}, dt={self.dt:g}"


class ExplicitCell(OdeCell):
    """A cell whose ODE  ḣ = f(h, u)  is followed by an explicit Runge–Kutta method with the input held over the step.

    A subclass defines `field`, and `bent`, which is its derivative.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dt: float,
        method: str,
        drives: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if method not in RUNGE_KUTTA:
            raise InputError(f"there is no explicit method {method!r}; choose one of {', '.join(RUNGE_KUTTA)}.")
        super().__init__(input_size, hidden_size, bias, dt=dt, drives=drives, device=device, dtype=dtype)
        self.method = method

    def step(self, drive: Tensor, state: Parts, matrices: Parts) -> Parts:
        """One step of the method."""
        return (self.solver.step(lambda h, t: self.field(drive, (h,), matrices)[0], state[0], 0.0, self.dt),)

    def pushed(self, drive: Tensor, bend: Tensor | None, state: Parts, tangents: Parts, matrices: Parts) -> tuple[Parts, Parts]:
        """One step of the method on the variational equation."""
        after, pushed = self.solver.pushforward(
            lambda h, v, t: self.bent(drive, bend, h, v, matrices), state[0], tangents[0], 0.0, self.dt
        )
        return (after,), (pushed,)

    def bent(self, drive: Tensor, bend: Tensor | None, h: Tensor, v: Tensor, matrices: Parts) -> tuple[Tensor, Tensor]:
        """The field, and its derivative along the tangents."""
        raise NotImplementedError(f"{type(self).__name__} defines no bent().")

    @property
    def solver(self) -> ExplicitRungeKutta:
        """The method itself."""
        return RUNGE_KUTTA[self.method]

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return super().extra_repr() + (f", method={self.method}" if self.method != "euler" else "")


def check_size(name: str, size: int) -> None:
    """Refuse a width that is no whole number from 1 on."""
    if check_whole(name, size) < 1:
        raise ShapeError(f"{name} is {size}; it must be at least 1.")


def check_not_negative(name: str, value: float) -> None:
    """Refuse a constant below 0, or one that is no finite number."""
    if not 0 <= value < float("inf"):
        raise InputError(f"{name} is a number from 0 on, not {value}.")


def check_dtype(cell: OdeCell, what: str, tensor: Tensor) -> None:
    """Refuse numbers of another dtype than the weights; under autocast products may have any."""
    own = cell.weight_ih.dtype
    if tensor.dtype != own and not torch.is_autocast_enabled(tensor.device.type):
        raise InputError(
            f"{what} is {_short(tensor.dtype)}, but the weights of {type(cell).__name__} are {_short(own)}.\n"
            "Convert one of the two."
        )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def as_parts(state: State) -> Parts:
    """(h,) or (y, z)."""
    return (state,) if isinstance(state, Tensor) else tuple(state)


def joined(parts: Parts) -> State:
    """The inverse of `as_parts`."""
    return parts[0] if len(parts) == 1 else parts


def added(pushed: Tensor, bend: Tensor | None) -> Tensor:
    """What the state's tangents and the drive's make together."""
    return pushed if bend is None else pushed + bend


def rows(coefficients: Tensor) -> Tensor:
    """Coefficients of a state, (*batch, hidden), ready to multiply tangents."""
    return coefficients[..., None, :]


def tanh_and_slope(a: Tensor) -> tuple[Tensor, Tensor]:
    """The value of tanh, and its derivative."""
    value = a.tanh()
    return value, 1 - value * value


def sigmoid_and_slope(a: Tensor) -> tuple[Tensor, Tensor]:
    """The value of the logistic function, and its derivative."""
    value = a.sigmoid()
    return value, value - value * value
