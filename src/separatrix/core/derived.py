"""Systems derived from another system: frozen at an instant, iterated, in another unit, padded to one width."""

from typing import Any

from torch import Tensor, nn

from separatrix.core.checks import check_whole
from separatrix.core.parametric import Number
from separatrix.core.system import System

WITHOUT_END = 256  # number of steps at which the width of a system without a horizon is read


class Derived(System):
    """A system made of another system. Members that a subclass does not define are those of the inner system.

    It is continuous if the inner system is. A subclass made of whole steps of a flow, such as `Iterate`, sets
    `continuous = False`.

    Args:
        system: the inner system.
        dt: time of one step. Default: that of the inner system.
        horizon: number of steps that it can take; None for no limit.

    Example:
        >>> class Mirrored(sx.parts.Derived):  # x ↦ −F(x)
        ...     def step(self, x, n=0):
        ...         return -self.system.step(x, n)
        ...     def pushforward(self, x, v, n=0):
        ...         x, v = self.system.pushforward(x, v, n)
        ...         return -x, -v
        >>> Mirrored(sx.Map(lambda x: 2 * x, dim=1)).step(torch.ones(1))
        tensor([-2.])
    """

    def __init__(self, system: System, *, dt: float | None = None, horizon: int | None = None) -> None:
        super().__init__(system.dim, dt=system.dt if dt is None else dt, horizon=horizon, start=system.start)
        self.system = system

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return self.system.step(x, n)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        return self.system.pushforward(x, v, n)

    def elapsed(self, x: Tensor, n: int = 0) -> float | Tensor:
        return self.system.elapsed(x, n)

    @property
    def clock(self) -> str:
        return self.system.clock

    def width(self, n: int) -> int:
        return self.system.width(n)

    @property
    def continuous(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.system.continuous

    def residual(self, x: Tensor, n: int = 0) -> Tensor:
        return self.system.residual(x, n) if self.continuous else self.step(x, n) - x

    def residual_pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        if self.continuous and type(self).residual is Derived.residual:  # the residual is the inner system's, so is its derivative
            return self.system.residual_pushforward(x, v, n)
        return super().residual_pushforward(x, v, n)

    def noise_of_step(self, x: Tensor, n: int = 0) -> Number:
        return self.system.noise_of_step(x, n)

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        return self.system.initial_state(batch, seed)

    def check_start(self, x: Tensor) -> None:
        self.system.check_start(x)

    def pack(self, *state: Any) -> Tensor:
        return self.system.pack(*state)

    def unpack(self, x: Tensor) -> Any:
        return self.system.unpack(x)


class Frozen(Derived):
    """A time-dependent system held at one instant:  x ↦ F(x, n)  with n fixed.

    Args:
        system: any system.
        n: the instant.
    """

    def __init__(self, system: System, n: int) -> None:
        super().__init__(system)
        self.n = n
        self.dim = system.width(n)

    @property
    def into_ball(self) -> bool:
        return self.system.into_ball

    def width(self, n: int) -> int:
        return self.dim

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return self.system.step(x, self.n)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        return self.system.pushforward(x, v, self.n)

    def residual(self, x: Tensor, n: int = 0) -> Tensor:
        return self.system.residual(x, self.n)

    def residual_pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        return self.system.residual_pushforward(x, v, self.n)

    def noise_of_step(self, x: Tensor, n: int = 0) -> Number:
        return self.system.noise_of_step(x, self.n)

    def elapsed(self, x: Tensor, n: int = 0) -> float | Tensor:
        return self.system.elapsed(x, self.n)


class Iterate(Derived):
    """The p-th iterate F^p of a system: one step is p steps of the inner system.

    Args:
        system: any system.
        p: number of inner steps in one step, at least 1.

    Example:
        >>> cube = sx.Iterate(sx.Map(lambda x: 2 * x, dim=1), 3)
        >>> cube.step(torch.ones(1)), cube.dt
        (tensor([8.]), 3.0)
    """

    # p steps of a flow are a map, whose fixed points are the flow's cycles of p steps
    continuous = False  # pyright: ignore[reportAssignmentType]
    noise_of_step = System.noise_of_step

    def __init__(self, system: System, p: int) -> None:
        check_whole("p", p, 1)
        super().__init__(system, dt=p * system.dt, horizon=None if system.horizon is None else system.horizon // p)
        self.p = p

    @property
    def into_ball(self) -> bool:
        return self.system.into_ball

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        for i in range(n * self.p, (n + 1) * self.p):
            x = self.system.step(x, i)
        return x

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        for i in range(n * self.p, (n + 1) * self.p):
            x, v = self.system.pushforward(x, v, i)
        return x, v

    def width(self, n: int) -> int:
        return self.system.width(n * self.p)

    def elapsed(self, x: Tensor, n: int = 0) -> float | Tensor:
        if type(self.system).elapsed is System.elapsed:
            return self.dt
        total: float | Tensor = 0.0
        for i in range(n * self.p, (n + 1) * self.p):
            total = total + self.system.elapsed(x, i)
            x = self.system.step(x, i)
        return total


class InUnit(Derived):
    """A system with its state in another unit:  y = x / unit.  Eigenvalues and exponents stay the same.

    Args:
        system: any system.
        unit: one unit for the whole state, or one for each of its numbers, shape (dim). Powers of 2 cause no rounding.
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
        return self.system.into_ball

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return self.system.step(self.unit * x, n) / self.unit

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        after, pushed = self.system.pushforward(self.unit * x, self.unit * v, n)
        return after / self.unit, pushed / self.unit

    def residual(self, x: Tensor, n: int = 0) -> Tensor:
        return self.system.residual(self.unit * x, n) / self.unit

    def residual_pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        value, pushed = self.system.residual_pushforward(self.unit * x, self.unit * v, n)
        return value / self.unit, pushed / self.unit

    def noise_of_step(self, x: Tensor, n: int = 0) -> Number:
        return self.system.noise_of_step(self.unit * x, n) / self.unit

    def elapsed(self, x: Tensor, n: int = 0) -> float | Tensor:
        return self.system.elapsed(self.unit * x, n)

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        return self.system.initial_state(batch, seed) / self.unit

    def check_start(self, x: Tensor) -> None:
        self.system.check_start(self.unit * x)

    def pack(self, *state: Any) -> Tensor:
        return self.system.pack(*state) / self.unit

    def unpack(self, x: Tensor) -> Any:
        return self.system.unpack(self.unit * x)


class Padded(Derived):
    """A system of changing width, with every state padded by zeros to the largest width.

    Its Jacobians have the singular values of the inner system's, and additional zeros.

    Args:
        system: a system with a horizon.
    """

    def __init__(self, system: System) -> None:
        super().__init__(system, horizon=system.horizon)
        self.dim = max(widths(system))

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return self.pad(self.system.step(self._own(x, n), n))

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        width = self.system.width(n)
        x, v = self.system.pushforward(x[..., :width], v[..., :width], n)
        return self.pad(x), self.pad(v)

    def width(self, n: int) -> int:
        return self.dim

    def residual(self, x: Tensor, n: int = 0) -> Tensor:
        return self.pad(self.system.residual(self._own(x, n), n)) if self.continuous else self.step(x, n) - x

    def noise_of_step(self, x: Tensor, n: int = 0) -> Number:
        noise = self.system.noise_of_step(self._own(x, n), n)
        return self.pad(noise) if isinstance(noise, Tensor) else noise

    def elapsed(self, x: Tensor, n: int = 0) -> float | Tensor:
        return self.system.elapsed(self._own(x, n), n)

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        return self.pad(self.system.initial_state(batch, seed))

    def check_start(self, x: Tensor) -> None:
        self.system.check_start(self._own(x, 0))

    def pack(self, *state: Any) -> Tensor:
        return self.pad(self.system.pack(*state))

    def unpack(self, x: Tensor) -> Any:
        return self.system.unpack(self._own(x, 0))

    def pad(self, x: Tensor) -> Tensor:
        """The vectors padded by zeros, shape (…, width) → (…, dim)."""
        return nn.functional.pad(x, (0, self.dim - x.shape[-1]))

    def _own(self, x: Tensor, n: int) -> Tensor:
        return x[..., : self.system.width(n)]


def widths(system: System) -> tuple[int, ...]:
    """Widths of the state before each step and after the last one; a single width if it cannot change."""
    if type(system).width is System.width:
        return (system.dim,)
    last = WITHOUT_END if system.horizon is None else system.horizon  # a looped stack has no horizon, but its widths repeat
    return tuple(system.width(n) for n in range(last + 1))
