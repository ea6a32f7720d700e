"""The first noun: a System is a state x, one pure step x_{n+1} = F(x_n, n), and its derivative along tangents."""

import copy
import re
from collections.abc import Callable
from numbers import Real
from types import FunctionType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from separatrix.core.errors import InputError, ShapeError
from separatrix.core.randomness import torch_generator
from separatrix.core.structure import as_pairs, from_pairs
from separatrix.core.tangent import FIELD, Tangents, batch_innermost, leave_uncompiled, stack_batch_last
from separatrix.core.twin import own_leaves, parameters_as_buffers, twin
from separatrix.core.wrappers import bare

Number = float | Tensor
WITHOUT_END = 256  # steps of a system without end whose widths are looked at
FEW = 8  # components up to which a compiled system is computed component by component


class Parametric(nn.Module):
    """Holds named parameters that broadcast against the batch, and can be copied with some of them replaced."""

    def __init__(self) -> None:
        super().__init__()
        self._ranks: dict[str, int] = {}

    def hold(self, *, rank: int = 0, **parameters: Number) -> None:
        """Keep parameters as attributes: numbers stay numbers, tensors follow `.to()` and keep their graph.

        Args:
            rank: how many trailing axes belong to each parameter itself (0: a number, 2: a matrix); those before are batch axes.
        """
        for name, value in parameters.items():
            self._ranks[name] = rank
            self.__dict__.pop(name, None)
            self._buffers.pop(name, None)
            if isinstance(value, Tensor):
                self.register_buffer(name, value, persistent=False)
            else:
                self.__dict__[name] = value

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The broadcast of all parameters' batch axes; a run's batch is its broadcast with that of x0."""
        own = [
            value.shape[: value.ndim - rank]
            for name, rank in self._ranks.items()
            if isinstance(value := getattr(self, name), Tensor)
        ]
        return np.broadcast_shapes(*own, *(child.batch_shape for child in self._parametric_children()))

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Every name that `at` accepts."""
        return (*self._ranks, *(name for child in self._parametric_children() for name in child.parameter_names))

    def at(self, **parameters: Number) -> Self:
        """A copy with parameters replaced (autograd kept); this one is unchanged.

        Args:
            parameters: new values, numbers or tensors. A tensor may carry batch axes that the old value had not. One number of an
                array is named by its place: at(**{"constant[0]": 0.5}), "weight_hh_l0[2,1]".

        Raises:
            InputError: there is no parameter of that name.
            ShapeError: an array has another shape than the old one, or no such place.
        """
        other = twin(self)
        for name, value in parameters.items():
            if not other._replace(name, value):
                known = ", ".join(self.parameter_names) or "none"
                raise InputError(f"{type(self).__name__} has no parameter {name!r}; it has: {known}.")
        return other

    def _replace(self, name: str, value: Number) -> bool:
        name, index = place_of(name)
        if name in self._ranks:
            self.__dict__["_ranks"] = dict(self._ranks)
            rank, old = self._ranks[name], getattr(self, name)
            if rank and isinstance(old, Tensor):
                value = _whole_array(name, old, value, rank) if index is None else _with_one(name, old, value, rank, index)
            elif index is not None:
                raise InputError(f"the parameter {name!r} is a number, which has no places.\nName it without [{_joined(index)}].")
            self.hold(rank=rank, **{name: value})
            if rank and isinstance(old, Tensor) and isinstance(value, Tensor) and value.dtype != old.dtype:
                self._raise_to(value.dtype)
            return True
        return any(child._replace(_named(name, index), value) for child in self._parametric_children())

    def _raise_to(self, dtype: torch.dtype) -> None:
        """Cast the other arrays to the precision of a new one, so that they can be multiplied."""
        for name, held in self._buffers.items():
            if name in self._ranks and held is not None and held.is_floating_point():
                self._buffers[name] = held.to(torch.promote_types(held.dtype, dtype))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `.to()` does; the tensors of the modules that it was built of stay as they are."""
        with parameters_as_buffers(self):
            return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy with parameters of its own."""
        memo |= {key: leaf for key, leaf in own_leaves(self).items() if key not in memo}
        other = object.__new__(type(self))
        memo[id(self)] = other
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other

    def _parametric_children(self) -> "list[Parametric]":
        return [child for child in self.children() if isinstance(child, Parametric)]


def place_of(name: str) -> tuple[str, tuple[int, ...] | None]:
    """The array and the place that a name like "constant[0]" or "weight_hh_l0[2,1]" stands for; None for a name without one."""
    found = re.fullmatch(r"(\w+)\[\s*(\d+(?:\s*,\s*\d+)*)\s*\]", name)
    return (found[1], tuple(int(i) for i in found[2].split(","))) if found else (name, None)


def _named(name: str, index: tuple[int, ...] | None) -> str:
    return name if index is None else f"{name}[{_joined(index)}]"


def _joined(index: tuple[int, ...]) -> str:
    return ",".join(map(str, index))


def _whole_array(name: str, old: Tensor, value: Any, rank: int) -> Tensor:
    """A new value for an array, whose own axes must be as the old one's."""
    new, own = torch.as_tensor(value), tuple(old.shape[old.ndim - rank :])
    if tuple(new.shape[max(new.ndim - rank, 0) :]) != own:
        raise ShapeError(
            f"the parameter {name!r} is an array of shape {own}, but a value of shape {tuple(new.shape)} was given.\n"
            f"Pass all of it, batch axes in front; or name one of its numbers: {_named(name, (0,) * rank)!r}."
        )
    return new


def _with_one(name: str, old: Tensor, value: Number, rank: int, index: tuple[int, ...]) -> Tensor:
    """An array with one of its numbers replaced; the number's batch axes come in front."""
    own = old.shape[old.ndim - rank :]
    if len(index) != rank or any(i >= size for i, size in zip(index, own, strict=True)):
        raise ShapeError(f"the parameter {name!r} is an array of shape {tuple(own)}, which has no place [{_joined(index)}].")
    there = torch.zeros(own, dtype=torch.bool, device=old.device)
    there[index] = True
    new = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.float64, device=old.device)
    dtype = torch.promote_types(new.dtype, old.dtype)
    return torch.where(there, new.to(dtype).reshape(*new.shape, *[1] * rank), old.to(dtype))


def check_dt(dt: Any) -> float:
    """Refuse a step that is no positive number; the number as Python's own."""
    if isinstance(dt, bool) or not isinstance(dt, Real) or not 0 < dt < float("inf"):
        raise InputError(f"dt is {dt!r}; the time that one step takes is a positive number.")
    return float(dt)


class System(Parametric):
    r"""A discrete-time dynamical system  x_{n+1} = F(x_n, n)  on vectors of `dim` numbers.

    A subclass defines `step`, which must be pure: the drive, the mini-batch and the noise of step n are functions of n and a
    seed, so that a run can be replayed and two copies can be given the same noise. All else has a default. A system whose step
    follows a vector field for a time dt says `continuous = True` and gives the field as its `residual`: analyses then look for
    the field's equilibria, not for fixed points of the step. No analysis guesses it.

    Args:
        dim: length of the state's last axis.
        dt: time that one step takes, in the system's own unit.
        horizon: how many steps the system can take; None when there is no end.
        start: where `initial_state` begins; None for the origin.
    """

    continuous: bool = False  # whether time goes on between two steps, so that `residual` is a field
    into_ball = False  # whether a large ball is mapped into itself (a flow: entered from outside), so that indices add up to 1
    layered = False  # whether the step is a feed-forward network, with modules as its layers

    def __init__(self, dim: int, *, dt: float = 1.0, horizon: int | None = None, start: tuple[float, ...] | None = None) -> None:
        super().__init__()
        if dim < 1:
            raise ShapeError(f"a state has at least 1 number, not {dim}.")
        self.dim = dim
        self.dt = dt
        self.horizon = horizon
        self.start = start
        self._tangents = Tangents()

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The next state F(x, n), shape (*batch, dim) → (*batch, dim)."""
        raise NotImplementedError(f"{type(self).__name__} defines no step(x, n).")

    def forward(self, x: Tensor, n: int = 0) -> Tensor:
        """The same as `step`."""
        return self.step(x, n)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """F(x, n) and DF(x, n) along the tangents v, which are rows: (*batch, k, dim) → (*batch, k, dim).

        By forward AD; a system whose derivative is hot or has a closed form defines its own.
        """
        return self._tangents(lambda y: self.step(y, n), x, v)

    def elapsed(self, x: Tensor, n: int = 0) -> float | Tensor:
        """The time that the step from x at n takes; a number, or shape (*batch)."""
        return self.dt

    @property
    def clock(self) -> str:
        """What time is counted in, in words: steps, of a map that nobody gave a dt; else the unit of dt."""
        return "step" if self.dt == 1 and not self.continuous else "unit time"

    def width(self, n: int) -> int:
        """Numbers in the state before step n."""
        return self.dim

    def residual(self, x: Tensor, n: int = 0) -> Tensor:
        """What is zero at rest, shape (*batch, dim): F(x, n) − x of a map, always; of a continuous system its field.

        The field is (F(x, n) − x − noise_of_step(x, n)) / dt, up to terms that vanish with dt.
        """
        return self.step(x, n) - x

    def residual_pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The residual and its derivative along the tangents v, rows; by the system's own `pushforward` where that says it."""
        if self.continuous:
            return self._tangents(lambda y: self.residual(y, n), x, v, which=FIELD)
        after, pushed = self.pushforward(x, v, n)
        return after - x, pushed - v

    def noise_of_step(self, x: Tensor, n: int = 0) -> Number:
        """What the step adds to a field's at random, shape (dim) or (*batch, dim); 0 where nothing is."""
        return 0.0

    def as_layer(self) -> "System":
        """The system whose step is what calling this module gives: itself, since `forward` is `step`.

        A module that is a flow as a system but a whole piece of that flow as a layer, such as `sx.nn.NeuralODE`, gives the map
        from the state before the layer to the state after it. Networks are composed of layers: `sx.nn.Sequential` asks for this.
        """
        return self

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        """States to begin from, float64, shape (*batch, dim): the natural start; in a batch, scattered by 1 % about it."""
        if self.start is None:
            return torch.zeros(*batch, self.dim, dtype=torch.float64)
        start = torch.tensor(self.start, dtype=torch.float64).expand(*batch, self.dim)
        if not batch:
            return start.clone()
        noise = torch.randn(*batch, self.dim, dtype=torch.float64, generator=torch_generator(seed, "initial state"))
        return start + 0.01 * start.abs().mean().clamp(min=0.1) * noise

    def check_start(self, x: Tensor) -> None:
        """Refuse states, shape (*batch, dim), that no run of this system can begin from; asked once, where a run begins."""

    def pack(self, state: Any) -> Tensor:
        """The state vector of what the system's users call a state."""
        return state

    def unpack(self, x: Tensor) -> Any:
        """What the system's users call a state, of a state vector."""
        return x

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        held = [f"{name}={value:g}" for name in self._ranks if isinstance(value := getattr(self, name), int | float)]
        return ", ".join([f"dim={self.dim}", *([f"dt={self.dt:g}"] if self.dt != 1 else []), *held])


class Map(System):
    """A system from a function.

    Args:
        function: x ↦ F(x), or (x, n) ↦ F(x, n), on states of shape (*batch, dim). An `nn.Module` is used through a twin, so that
            its dtype, mode and tensors stay as they are; whatever the run's batch, it is given one batch axis, (items, dim).
        dim: length of the state.
        dt: time that one step takes, in a unit of yours: rates and exponents are per that unit. 1 counts steps.
        time_dependent: call `function(x, n)`.
        is_complex: the function takes and gives `dim` complex numbers, z ↦ F(z). The state is their real and imaginary parts,
            Re z₁, Im z₁, Re z₂, …, twice as many; `pack` and `unpack` translate.

    Raises:
        InputError: dt is not a positive number.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        dim: int,
        *,
        dt: float = 1.0,
        time_dependent: bool = False,
        is_complex: bool = False,
    ) -> None:
        super().__init__(2 * dim if is_complex else dim, dt=check_dt(dt))
        function = bare(function)
        self.function = twin(function) if isinstance(function, nn.Module) else function
        self.time_dependent = time_dependent
        self.is_complex = is_complex

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The function's value."""
        when = (n,) if self.time_dependent else ()
        return in_pairs(self.function, x, *when) if self.is_complex else in_one_batch(self.function, x, *when)

    def pack(self, state: Any) -> Tensor:
        """The state vector of a state; of complex numbers, their real and imaginary parts."""
        return as_pairs(state) if self.is_complex and state.is_complex() else state

    def unpack(self, x: Tensor) -> Any:
        """The state of a state vector: complex numbers, where the function takes those."""
        return from_pairs(x) if self.is_complex else x


def in_pairs(function: Callable[..., Tensor], x: Tensor, *when: Number) -> Tensor:
    """The value of a function of complex numbers, on their real and imaginary parts."""
    value = in_one_batch(function, from_pairs(x), *when)
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value  # no state: the start of a run says so
    return as_pairs(value)


def in_one_batch(function: Callable[..., Tensor], x: Tensor, *when: Number) -> Tensor:
    """The function's value; a module gets the run's batch axes folded to one, which is what PyTorch's layers are written for."""
    if not isinstance(function, nn.Module) or isinstance(function, Parametric):
        return _with_graph(function, x, *when)
    folded = x.reshape(-1, x.shape[-1])
    when = tuple(t.expand(x.shape[:-1]).reshape(-1) if isinstance(t, Tensor) and t.ndim else t for t in when)
    value = _with_graph(function, folded, *when)
    if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != folded.shape[0]:
        return value  # no batch to unfold: the start of a run says so
    return value.reshape(*x.shape[:-1], *value.shape[1:])


def _with_graph(function: Callable[..., Tensor], x: Tensor, *when: Number) -> Tensor:
    """The function's value; one that differentiates by its argument, and counts on the caller for a graph, gets one."""
    try:
        return function(x, *when)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
    keeps = torch.is_grad_enabled()
    with torch.enable_grad():
        value = function(x.view_as(x).requires_grad_(), *when)
    return value if keeps or not isinstance(value, Tensor) else value.view_as(value)


class Driven(System):
    """A system with an input: step(x, n) = advance(x, drive(n)). A subclass defines `drive` and `advance`."""

    def drive(self, n: int) -> Tensor:
        """The input of step n, shape (*batch, inputs)."""
        raise NotImplementedError(f"{type(self).__name__} defines no drive(n).")

    def advance(self, x: Tensor, u: Tensor) -> Tensor:
        """The next state under the input u."""
        raise NotImplementedError(f"{type(self).__name__} defines no advance(x, u).")

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The next state under the input of step n."""
        return self.advance(x, self.drive(n))

    def frozen(self, n: int) -> "Frozen":
        """The autonomous system whose input is always that of step n."""
        return Frozen(self, n)


class Derived(System):
    """A system made of another one; all that it does not define itself is the inner system's.

    It is continuous where the inner one is; what is made of whole steps of a flow, such as an iterate, says that it is not.

    Args:
        system: the inner system.
        dt: time of one step; default: the inner system's.
        horizon: steps that it can take; None when there is no end.
    """

    def __init__(self, system: System, *, dt: float | None = None, horizon: int | None = None) -> None:
        super().__init__(system.dim, dt=system.dt if dt is None else dt, horizon=horizon, start=system.start)
        self.system = system

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The inner system's."""
        return self.system.step(x, n)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The inner system's."""
        return self.system.pushforward(x, v, n)

    def elapsed(self, x: Tensor, n: int = 0) -> float | Tensor:
        """The inner system's."""
        return self.system.elapsed(x, n)

    @property
    def clock(self) -> str:
        """The inner system's."""
        return self.system.clock

    def width(self, n: int) -> int:
        """The inner system's."""
        return self.system.width(n)

    @property
    def continuous(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the inner system is."""
        return self.system.continuous

    def residual(self, x: Tensor, n: int = 0) -> Tensor:
        """The inner system's field where it has one; else F(x, n) − x of this one."""
        return self.system.residual(x, n) if self.continuous else self.step(x, n) - x

    def residual_pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The inner system's where this one has its residual."""
        if self.continuous and type(self).residual is Derived.residual:
            return self.system.residual_pushforward(x, v, n)
        return super().residual_pushforward(x, v, n)

    def noise_of_step(self, x: Tensor, n: int = 0) -> Number:
        """The inner system's."""
        return self.system.noise_of_step(x, n)

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        """The inner system's."""
        return self.system.initial_state(batch, seed)

    def check_start(self, x: Tensor) -> None:
        """The inner system's."""
        self.system.check_start(x)

    def pack(self, *state: Any) -> Tensor:
        """The inner system's."""
        return self.system.pack(*state)

    def unpack(self, x: Tensor) -> Any:
        """The inner system's."""
        return self.system.unpack(x)


class Frozen(Derived):
    """A time-dependent system held at one instant: x ↦ F(x, n) with n fixed.

    Args:
        system: any system.
        n: the instant.
    """

    @property
    def into_ball(self) -> bool:
        """As the inner system."""
        return self.system.into_ball

    def __init__(self, system: System, n: int) -> None:
        super().__init__(system)
        self.n = n
        self.dim = system.width(n)

    def width(self, n: int) -> int:
        """The inner system's, at the fixed instant."""
        return self.dim

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The inner system's step at the fixed instant."""
        return self.system.step(x, self.n)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The inner system's, at the fixed instant."""
        return self.system.pushforward(x, v, self.n)

    def residual(self, x: Tensor, n: int = 0) -> Tensor:
        """The inner system's, at the fixed instant."""
        return self.system.residual(x, self.n)

    def residual_pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The inner system's, at the fixed instant."""
        return self.system.residual_pushforward(x, v, self.n)

    def noise_of_step(self, x: Tensor, n: int = 0) -> Number:
        """The inner system's, at the fixed instant."""
        return self.system.noise_of_step(x, self.n)

    def elapsed(self, x: Tensor, n: int = 0) -> float | Tensor:
        """The inner system's, at the fixed instant."""
        return self.system.elapsed(x, self.n)


class InUnit(Derived):
    """A system whose state is counted in another unit:  y = x / unit.  Its eigenvalues and exponents are the inner system's.

    Args:
        system: any system.
        unit: in the inner system's own, of all numbers of the state or of each; a power of 2 changes no digit.
    """

    unit: float | Tensor

    def __init__(self, system: System, unit: float | Tensor) -> None:
        super().__init__(system, horizon=system.horizon)
        if isinstance(unit, Tensor):
            self.register_buffer("unit", unit, persistent=False)
        else:
            self.unit = unit

    @property
    def into_ball(self) -> bool:
        """As the inner system."""
        return self.system.into_ball

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The inner system's, in this unit."""
        return self.system.step(self.unit * x, n) / self.unit

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The inner system's, in this unit."""
        after, pushed = self.system.pushforward(self.unit * x, self.unit * v, n)
        return after / self.unit, pushed / self.unit

    def residual(self, x: Tensor, n: int = 0) -> Tensor:
        """The inner system's, in this unit."""
        return self.system.residual(self.unit * x, n) / self.unit

    def residual_pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The inner system's, in this unit."""
        value, pushed = self.system.residual_pushforward(self.unit * x, self.unit * v, n)
        return value / self.unit, pushed / self.unit

    def noise_of_step(self, x: Tensor, n: int = 0) -> Number:
        """The inner system's, in this unit."""
        return self.system.noise_of_step(self.unit * x, n) / self.unit

    def elapsed(self, x: Tensor, n: int = 0) -> float | Tensor:
        """The inner system's."""
        return self.system.elapsed(self.unit * x, n)

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        """The inner system's, in this unit."""
        return self.system.initial_state(batch, seed) / self.unit

    def check_start(self, x: Tensor) -> None:
        """The inner system's."""
        self.system.check_start(self.unit * x)

    def pack(self, *state: Any) -> Tensor:
        """The inner system's, in this unit."""
        return self.system.pack(*state) / self.unit

    def unpack(self, x: Tensor) -> Any:
        """What the inner system's users call a state."""
        return self.system.unpack(self.unit * x)


class Padded(Derived):
    """A system whose width changes, in states of one width: as many numbers as the widest has, with zeros behind those there are.

    Its Jacobians have the inner system's singular values and more zeros.

    Args:
        system: a system with a horizon.
    """

    def __init__(self, system: System) -> None:
        super().__init__(system, horizon=system.horizon)
        self.dim = max(widths(system))

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The inner system's, padded."""
        return self.pad(self.system.step(self._own(x, n), n))

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The inner system's, padded."""
        width = self.system.width(n)
        x, v = self.system.pushforward(x[..., :width], v[..., :width], n)
        return self.pad(x), self.pad(v)

    def width(self, n: int) -> int:
        """The same at every step."""
        return self.dim

    def residual(self, x: Tensor, n: int = 0) -> Tensor:
        """The inner system's field, padded; or F(x, n) − x of a map."""
        return self.pad(self.system.residual(self._own(x, n), n)) if self.continuous else self.step(x, n) - x

    def noise_of_step(self, x: Tensor, n: int = 0) -> Number:
        """The inner system's, padded."""
        noise = self.system.noise_of_step(self._own(x, n), n)
        return self.pad(noise) if isinstance(noise, Tensor) else noise

    def elapsed(self, x: Tensor, n: int = 0) -> float | Tensor:
        """The inner system's."""
        return self.system.elapsed(self._own(x, n), n)

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        """The inner system's, padded."""
        return self.pad(self.system.initial_state(batch, seed))

    def check_start(self, x: Tensor) -> None:
        """The inner system's."""
        self.system.check_start(self._own(x, 0))

    def pack(self, *state: Any) -> Tensor:
        """The inner system's, padded."""
        return self.pad(self.system.pack(*state))

    def unpack(self, x: Tensor) -> Any:
        """What the inner system's users call a state, of a state vector before the first step."""
        return self.system.unpack(self._own(x, 0))

    def pad(self, x: Tensor) -> Tensor:
        """Zeros behind the numbers on the last axis."""
        return nn.functional.pad(x, (0, self.dim - x.shape[-1]))

    def _own(self, x: Tensor, n: int) -> Tensor:
        return x[..., : self.system.width(n)]


def widths(system: System) -> tuple[int, ...]:
    """Numbers in the state before every step and after the last; one number where they cannot change."""
    if type(system).width is System.width:
        return (system.dim,)
    last = WITHOUT_END if system.horizon is None else system.horizon  # a looped stack has no horizon, and widths that come again
    return tuple(system.width(n) for n in range(last + 1))


class Iterate(Derived):
    """The p-th iterate F^p of a system, as a system: one step is p steps.

    Args:
        system: any system.
        p: how many steps make one, at least 1.
    """

    # p steps of a flow are a map, whose fixed points are its cycles of p steps
    continuous = False  # pyright: ignore[reportAssignmentType]
    noise_of_step = System.noise_of_step

    def __init__(self, system: System, p: int) -> None:
        if p < 1:
            raise InputError(f"an iterate takes at least 1 step, not {p}.")
        super().__init__(system, dt=p * system.dt, horizon=None if system.horizon is None else system.horizon // p)
        self.p = p

    @property
    def into_ball(self) -> bool:
        """As the inner system."""
        return self.system.into_ball

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """P steps of the inner system."""
        for i in range(n * self.p, (n + 1) * self.p):
            x = self.system.step(x, i)
        return x

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """P pushforwards of the inner system."""
        for i in range(n * self.p, (n + 1) * self.p):
            x, v = self.system.pushforward(x, v, i)
        return x, v

    def width(self, n: int) -> int:
        """Numbers in the state before p · n steps."""
        return self.system.width(n * self.p)

    def elapsed(self, x: Tensor, n: int = 0) -> float | Tensor:
        """The time of the p steps together."""
        if type(self.system).elapsed is System.elapsed:
            return self.dt
        total: float | Tensor = 0.0
        for i in range(n * self.p, (n + 1) * self.p):
            total = total + self.system.elapsed(x, i)
            x = self.system.step(x, i)
        return total


class Compiled(Derived):
    """A system whose step and pushforward go through `torch.compile`: for small systems in large batches.

    The first two steps of a run compile, for seconds each; torch keeps the result on disk for the next process.

    Args:
        system: any system whose step is traceable: no branch on the state's values. Tangents by AD are not compiled.
    """

    def __init__(self, system: System) -> None:
        super().__init__(system, horizon=system.horizon)
        leave_uncompiled()
        options = {}
        if system.dim <= FEW:
            from separatrix.core.fusion import SinkSelections  # not above: the compiler takes a second to import

            options = {"post_grad_custom_pre_pass": SinkSelections()}
        self._step = torch.compile(_own(_step_in_components), options=options)
        self._pushforward = torch.compile(_own(_pushforward_in_components), options=options)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The inner system's, compiled."""
        return self._step(self.system, batch_innermost(x), n)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The inner system's, compiled; its derivative is held against its step first, which no compiled code can be."""
        if self._tangents.is_first(x, v):
            self.system.pushforward(x, v[..., :1, :], n)
        return self._pushforward(self.system, batch_innermost(x), batch_innermost(v), n)


def _own(function: FunctionType) -> FunctionType:
    """A copy with its own code object, by which the compiler counts recompilations (8 at most, and no system uses up another's)."""
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


def _step_in_components(system: System, x: Tensor, n: int) -> Tensor:
    return _restacked(system.step(x, n))


def _pushforward_in_components(system: System, x: Tensor, v: Tensor, n: int) -> tuple[Tensor, Tensor]:
    x, v = system.pushforward(x, v, n)
    return _restacked(x), _restacked(v)


def _restacked(x: Tensor) -> Tensor:
    """The same, but taken apart and stacked, so that the compiler computes few components one by one."""
    return components(*x.unbind(-1)) if x.shape[-1] <= FEW else x


def components(*parts: Tensor) -> Tensor:
    """A state from its components, or tangents from theirs: each (*batch) or (*batch, k) → (*batch[, k], dim)."""
    return stack_batch_last(parts, dim=-1)


def along_tangents(parameter: Number) -> Number:
    """A parameter of shape (*batch), ready to multiply components of tangents, (*batch, k)."""
    return parameter[..., None] if isinstance(parameter, Tensor) else parameter
