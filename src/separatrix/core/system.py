"""The first noun: a System is a state x, one pure step x_{n+1} = F(x_n, n), and its derivative along tangents."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_positive, check_whole
from separatrix.core.derivative import FIELD, Tangents
from separatrix.core.errors import ShapeError
from separatrix.core.parametric import Number, Parametric
from separatrix.core.randomness import torch_generator
from separatrix.core.structure import as_pairs, from_pairs
from separatrix.core.twin import twin
from separatrix.core.wrappers import bare


class System(Parametric):
    r"""A discrete-time dynamical system  x_{n+1} = F(x_n, n)  on vectors of `dim` numbers.

    A subclass defines `step`, which must be pure: the drive, the mini-batch and the noise of step n are functions of n and a
    seed, so that a run can be replayed and two copies can be given the same noise. Everything else has a default. A system whose
    step follows a vector field for a time dt sets `continuous = True` and returns the field from `residual`: analyses then look
    for equilibria of the field instead of fixed points of the step.

    Args:
        dim: length of the state's last axis.
        dt: time of one step, in the system's own unit.
        horizon: number of steps that the system can take; None for no limit.
        start: the state that `initial_state` returns; None for the origin.

    Example:
        >>> class Tent(sx.System):
        ...     def step(self, x, n=0):
        ...         return 1.9 * torch.minimum(x, 1 - x)
        >>> sx.lyapunov_spectrum(Tent(dim=1, start=(0.3,)), steps=100).exponents  # ln 1.9
        tensor([0.6419], dtype=torch.float64)
    """

    continuous: bool = False  # whether time flows between two steps, so that `residual` is a field
    autonomous = False  # whether every step is the same function of the state, so that a long run may prepare it once
    into_ball = False  # whether a large ball is mapped into itself (a flow: entered from outside), so that indices add up to 1
    layered = False  # whether the step is a feed-forward network, with modules as its layers

    def __init__(self, dim: int, *, dt: float = 1.0, horizon: int | None = None, start: tuple[float, ...] | None = None) -> None:
        super().__init__()
        check_whole("dim", dim, 1, error=ShapeError)
        self.dim = dim
        self.dt = dt
        self.horizon = horizon
        self.start = start
        self._tangents = Tangents()

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The next state F(x, n), shape (*batch, dim) → (*batch, dim)."""
        raise NotImplementedError(f"{type(self).__name__} does not define step(x, n).")

    def forward(self, x: Tensor, n: int = 0) -> Tensor:
        """The same as `step`."""
        return self.step(x, n)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """F(x, n) and DF(x, n) along the tangents v, which are rows: (*batch, k, dim) → (*batch, k, dim).

        By forward AD; a system overrides it with a closed form if performance matters.
        """
        return self._tangents(lambda y: self.step(y, n), x, v)

    def elapsed(self, x: Tensor, n: int = 0) -> float | Tensor:
        """The time that the step from x at n takes: a number, or shape (*batch)."""
        return self.dt

    @property
    def has_own_tangents(self) -> bool:
        """Whether the tangents come from the class itself rather than from automatic differentiation."""
        return type(self).pushforward is not System.pushforward

    @property
    def clock(self) -> str:
        """The unit of time, in words: "step" for a map with dt = 1, else the unit of dt."""
        return "step" if self.dt == 1 and not self.continuous else "unit time"

    def width(self, n: int) -> int:
        """Length of the state before step n."""
        return self.dim

    def residual(self, x: Tensor, n: int = 0) -> Tensor:
        """The function whose zeros are fixed points or equilibria, (*batch, dim): F(x, n) − x for a map, the field for a flow.

        The field equals (F(x, n) − x − noise_of_step(x, n)) / dt, up to terms that vanish with dt.
        """
        return self.step(x, n) - x

    def residual_pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The residual and its derivative along the tangents v, which are rows; for a map computed by `pushforward`."""
        if self.continuous:
            return self._tangents(lambda y: self.residual(y, n), x, v, which=FIELD)
        after, pushed = self.pushforward(x, v, n)
        return after - x, pushed - v

    def noise_of_step(self, x: Tensor, n: int = 0) -> Number:
        """The random part of the step, shape (dim) or (*batch, dim); 0 for a deterministic system."""
        return 0.0

    def as_layer(self) -> "System":
        """The system whose step is a call of this module: the system itself, since `forward` is `step`.

        A module such as `sx.nn.NeuralODE` is a flow as a system, but as a layer it integrates that flow over a whole interval: it
        returns the map from the state before the layer to the state after it. `sx.nn.Sequential` composes these maps.
        """
        return self

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        """Initial states, float64, shape (*batch, dim): `start`, or a batch scattered by 1 % around it."""
        if self.start is None:
            return torch.zeros(*batch, self.dim, dtype=torch.float64)
        start = torch.tensor(self.start, dtype=torch.float64).expand(*batch, self.dim)
        if not batch:
            return start.clone()
        noise = torch.randn(*batch, self.dim, dtype=torch.float64, generator=torch_generator(seed, "initial state"))
        return start + 0.01 * start.abs().mean().clamp(min=0.1) * noise

    def check_start(self, x: Tensor) -> None:
        """Refuse states, shape (*batch, dim), from which a run cannot begin; called once, at the start of a run."""

    def pack(self, state: Any) -> Tensor:
        """Convert a state from its natural form, such as (h, c) or an image, to a state vector."""
        return state

    def unpack(self, x: Tensor) -> Any:
        """Convert a state vector to the natural form of the state."""
        return x

    def extra_repr(self) -> str:
        """The text between the parentheses of `repr`."""
        held = [f"{name}={value:g}" for name in self._ranks if isinstance(value := getattr(self, name), int | float)]
        return ", ".join([f"dim={self.dim}", *([f"dt={self.dt:g}"] if self.dt != 1 else []), *held])


class Map(System):
    """A system given by a function,  x_{n+1} = F(x_n).

    Args:
        function: x ↦ F(x), or (x, n) ↦ F(x, n), on states of shape (*batch, dim). An `nn.Module` is not changed: the map uses a
            view of it with a dtype and mode of its own. Whatever the batch of the run, a module is called with one batch axis,
            shape (items, dim).
        dim: length of the state.
        dt: time of one step, in a unit of your choice: rates and exponents are per that unit. With 1, they are per step.
        time_dependent: call `function(x, n)`.
        is_complex: the function maps `dim` complex numbers to `dim` complex numbers, z ↦ F(z). The state holds their real and
            imaginary parts, Re z₁, Im z₁, Re z₂, …, 2 · dim numbers; `pack` and `unpack` convert.

    Raises:
        InputError: dt is not a positive number.

    Example:
        >>> tent = sx.Map(lambda x: 1.9 * torch.minimum(x, 1 - x), dim=1)
        >>> sx.lyapunov_spectrum(tent, torch.tensor([0.3]).double(), steps=100).exponents  # ln 1.9
        tensor([0.6419], dtype=torch.float64)
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
        super().__init__(2 * dim if is_complex else dim, dt=check_positive("dt", dt))
        function = bare(function)
        self.function = twin(function) if isinstance(function, nn.Module) else function
        self.time_dependent = time_dependent
        self.is_complex = is_complex

    @property
    def autonomous(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the function does not depend on the step; a subclass with a step of its own does not say."""
        return not self.time_dependent and type(self).step is Map.step

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        when = (n,) if self.time_dependent else ()
        return in_pairs(self.function, x, *when) if self.is_complex else in_one_batch(self.function, x, *when)

    def pack(self, state: Any) -> Tensor:
        return as_pairs(state) if self.is_complex and state.is_complex() else state

    def unpack(self, x: Tensor) -> Any:
        return from_pairs(x) if self.is_complex else x


def in_pairs(function: Callable[..., Tensor], x: Tensor, *when: Number) -> Tensor:
    """A function of complex numbers, applied to their real and imaginary parts."""
    value = in_one_batch(function, from_pairs(x), *when)
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value  # not a state: the start of a run reports it
    return as_pairs(value)


def in_one_batch(function: Callable[..., Tensor], x: Tensor, *when: Number) -> Tensor:
    """The value of a function; for a module, the batch axes are folded into the one that PyTorch's layers expect."""
    if not isinstance(function, nn.Module) or isinstance(function, Parametric):
        return _with_graph(function, x, *when)
    folded = x.reshape(-1, x.shape[-1])
    when = tuple(t.expand(x.shape[:-1]).reshape(-1) if isinstance(t, Tensor) and t.ndim else t for t in when)
    value = _with_graph(function, folded, *when)
    if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != folded.shape[0]:
        return value  # no batch to unfold: the start of a run reports it
    return value.reshape(*x.shape[:-1], *value.shape[1:])


def _with_graph(function: Callable[..., Tensor], x: Tensor, *when: Number) -> Tensor:
    """The value of a function, with a graph if the function differentiates by its argument and needs the caller to provide one."""
    try:
        return function(x, *when)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
    keeps = torch.is_grad_enabled()
    with torch.enable_grad():
        value = function(x.view_as(x).requires_grad_(), *when)
    return value if keeps or not isinstance(value, Tensor) else value.view_as(value)
