"""The base of recurrent cells derived from ODEs: a drive, recurrent matrices, one step of a method, exact tangents."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_choice, check_positive, check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.wording import counted
from separatrix.flows.methods import RUNGE_KUTTA, ExplicitRungeKutta

State = Tensor | tuple[Tensor, ...]
Parts = tuple[Tensor, ...]


class OdeCell(nn.Module):
    """A recurrent cell, (input, state) → state: one step of a method for an ODE driven by the input.

    Subclasses define `matrices`, `field`, `step` and `pushed` on the parts of a state, (h,) or (y, z). Tangents are rows, with
    an axis k before the last. Except for `drive` and `matrices`, methods take the drive and the matrices instead of the input,
    so that a layer computes each only once per sequence.

    Args:
        input_size: numbers in an input.
        hidden_size: numbers in each part of the state.
        bias: whether the drive V u + b has a bias b.
        dt: step size, in the time of the ODE.
        drives: number of drives V u + b in the equation.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        ShapeError: input_size or hidden_size is less than 1.
        InputError: dt is not positive.
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
        check_whole("input_size", input_size, 1, error=ShapeError)
        check_whole("hidden_size", hidden_size, 1, error=ShapeError)
        check_positive("dt", dt)
        super().__init__()
        self.input_size, self.hidden_size, self.bias, self.dt = input_size, hidden_size, bias, dt
        self.weight_ih = nn.Parameter(torch.empty(drives * hidden_size, input_size, device=device, dtype=dtype))
        rows = torch.empty(drives * hidden_size, device=device, dtype=dtype) if bias else None
        self.register_parameter("bias_ih", None if rows is None else nn.Parameter(rows))

    def forward(self, input: Tensor, hx: State | None = None) -> State:
        """The state a step later: input (batch, input_size) or (input_size,), parts (batch, hidden_size) or (hidden_size,)."""
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise ShapeError(
                f"{type(self).__name__} expects inputs of shape (batch, {self.input_size}) or ({self.input_size},), "
                f"got {tuple(input.shape)}."
            )
        check_dtype(self, "an input", input)
        state = self.zero_state(input.shape[:-1]) if hx is None else self.checked(hx, (*input.shape[:-1], self.hidden_size))
        return joined(self.step(self.drive(input), as_parts(state), self.matrices()))

    def pushforward(
        self, input: Tensor, state: State, tangents: State, input_tangents: Tensor | None = None
    ) -> tuple[State, State]:
        """The state a step later and its tangents, (*batch, k, hidden_size) per part; input tangents (*batch, k, input_size)."""
        bend = None if input_tangents is None else input_tangents @ self.weight_ih.mT
        after, pushed = self.pushed(self.drive(input), bend, as_parts(state), as_parts(tangents), self.matrices())
        return joined(after), joined(pushed)

    def velocity(self, input: Tensor, state: State) -> State:
        """The vector field of the ODE: the time derivative of the state at a constant input."""
        return joined(self.field(self.drive(input), as_parts(state), self.matrices()))

    def zero_state(self, batch: tuple[int, ...] = ()) -> State:
        """The zero initial state, (*batch, hidden_size) per part."""
        return joined(tuple(self.weight_ih.new_zeros(*batch, self.hidden_size) for _ in range(self.parts)))

    def example_state(self) -> State:
        """A state without batch axes, as `sx.Recurrent` requires."""
        return self.zero_state()

    def checked(self, state: State, shape: tuple[int, ...]) -> State:
        """The state, after a check of its parts, shapes and dtype."""
        parts = as_parts(state)
        if len(parts) != self.parts:
            raise ShapeError(f"{type(self).__name__} expects a state of {counted(self.parts, 'tensor')}, got {len(parts)}.")
        for part in parts:
            if part.shape != shape:
                raise ShapeError(f"{type(self).__name__} expects a state of shape {shape} for this input, got {tuple(part.shape)}.")
            check_dtype(self, "a state", part)
        return state

    def drive(self, input: Tensor) -> Tensor:
        """V u + b, shape (*batch, drives · hidden_size)."""
        return nn.functional.linear(input, self.weight_ih, self.bias_ih)

    def matrices(self) -> Parts:
        """The recurrent matrices, computed from the weights."""
        raise NotImplementedError(f"{type(self).__name__} must define matrices().")

    def field(self, drive: Tensor, state: Parts, matrices: Parts) -> Parts:
        """The time derivative of each part."""
        raise NotImplementedError(f"{type(self).__name__} must define field().")

    def step(self, drive: Tensor, state: Parts, matrices: Parts) -> Parts:
        """The parts a step later."""
        raise NotImplementedError(f"{type(self).__name__} must define step().")

    def pushed(self, drive: Tensor, bend: Tensor | None, state: Parts, tangents: Parts, matrices: Parts) -> tuple[Parts, Parts]:
        """The parts a step later and their tangents; `bend` holds the tangents of the drive, if any."""
        raise NotImplementedError(f"{type(self).__name__} must define pushed().")

    def exponent_bounds(self) -> tuple[float, float]:
        """Lower and upper bounds on all Lyapunov exponents, nats per step, at the present weights and for any inputs."""
        raise NotImplementedError(f"{type(self).__name__} must define exponent_bounds().")

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return f"{self.input_size}, {self.hidden_size}{'' if self.bias else ', bias=False'}, dt={self.dt:g}"


class ExplicitCell(OdeCell):
    """A cell with one explicit Runge–Kutta step of  ḣ = f(h, u),  with the input constant during the step.

    Subclasses define `field`, and `bent`, its derivative.
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
        check_choice("method", method, RUNGE_KUTTA)
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
        """The field and its derivative along tangents."""
        raise NotImplementedError(f"{type(self).__name__} must define bent().")

    @property
    def solver(self) -> ExplicitRungeKutta:
        """The Runge–Kutta method."""
        return RUNGE_KUTTA[self.method]

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return super().extra_repr() + (f", method={self.method}" if self.method != "euler" else "")


def check_dtype(cell: OdeCell, what: str, tensor: Tensor) -> None:
    """Refuse a dtype other than that of the weights; under autocast any is allowed."""
    own = cell.weight_ih.dtype
    if tensor.dtype != own and not torch.is_autocast_enabled(tensor.device.type):
        raise InputError(
            f"expected {what} in {_short(own)}, the dtype of the weights of {type(cell).__name__}, got {_short(tensor.dtype)}.\n"
            "Convert one of the two."
        )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def as_parts(state: State) -> Parts:
    """The parts (h,) or (y, z) of a state."""
    return (state,) if isinstance(state, Tensor) else tuple(state)


def joined(parts: Parts) -> State:
    """The inverse of `as_parts`."""
    return parts[0] if len(parts) == 1 else parts


def added(pushed: Tensor, bend: Tensor | None) -> Tensor:
    """The sum of the tangents of the state and, if any, of the drive."""
    return pushed if bend is None else pushed + bend


def rows(coefficients: Tensor) -> Tensor:
    """Coefficients of shape (*batch, hidden_size) with an axis for tangents."""
    return coefficients[..., None, :]


def tanh_and_slope(a: Tensor) -> tuple[Tensor, Tensor]:
    """The hyperbolic tangent and its derivative."""
    value = a.tanh()
    return value, 1 - value * value


def sigmoid_and_slope(a: Tensor) -> tuple[Tensor, Tensor]:
    """The logistic function and its derivative."""
    value = a.sigmoid()
    return value, value - value * value
