"""Continuous normalizing flows: a density as a normal one that a field has carried along."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_seed, check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.core.randomness import torch_generator
from separatrix.core.result import Result
from separatrix.core.wording import counted, measured
from separatrix.flows import Solution, solve
from separatrix.flows.field import Field
from separatrix.flows.methods.solver import Time
from separatrix.flows.solve.solve import MAX_STEPS
from separatrix.flows.steps.reversed import Reversed
from separatrix.nn.flows.neural_ode import NeuralODE

TRACES = ("exact", "hutchinson")
NOISES = ("rademacher", "gaussian")


class ContinuousNormalizingFlow(NeuralODE):
    r"""The density of x(T), where x(0) is standard normal and  ẋ = f(x, t):

        log p(x(T)) = log N(x(0); 0, I) − ∫₀ᵀ tr ∂f/∂x (x(t), t) dt

    Samples follow the field from 0 to T; a density follows it back from T to 0, together with the integral. The trace is exact,
    of `dim` tangents; or Hutchinson's estimate  (1/k) Σ_j ε_jᵀ (∂f/∂x) ε_j  of k of them, E[εεᵀ] = I, each probe held from T to 0,
    which is unbiased and comes with its standard error.

    Args:
        field: f, a module (*batch, dim) → (*batch, dim), or a `Field`, such as `sx.nn.DenseField`, whose tangents are then its own.
        dim: numbers in a point.
        end: T.
        trace: "exact" or "hutchinson".
        probes: k, of Hutchinson's estimate.
        noise: "rademacher" (signs, of least variance) or "gaussian" probes.
        dt, method, rtol, atol, max_steps, max_step: of the steps; see `sx.nn.NeuralODE`. By tolerance each point has its own.
        gradient: "backpropagation", "checkpoint" or "adjoint"; see `sx.solve`, whose default it has.
        time_dependent: call `field(x, t)`.

    As a `Flow` it is the field's: its steps go from the normal density to the learned one.

    Raises:
        InputError: an unknown trace or noise, no probes, a time that is not positive.
        ShapeError: points of another width.

    Limits: the density is that of the true flow but for the error of the steps, and adds up to 1 as nearly as that. An exact trace
        costs `dim` tangents a step. Where the field contracts, going back multiplies the errors of the steps. Steps by tolerance
        are chosen with the probes in view: their estimate is unbiased within it.
    Source: Chen, Rubanova, Bettencourt & Duvenaud 2018, NeurIPS, arXiv:1806.07366, theorem 1; Grathwohl, Chen, Bettencourt,
        Sutskever & Duvenaud 2019, ICLR, arXiv:1810.01367, for the estimate.
    """

    def __init__(
        self,
        field: nn.Module | Callable[..., Tensor],
        dim: int,
        *,
        end: float = 1.0,
        trace: str = "exact",
        probes: int = 1,
        noise: str = "rademacher",
        dt: float | None = None,
        method: str = "rk4",
        rtol: float = 1e-5,
        atol: float | None = None,
        max_steps: int = MAX_STEPS,
        max_step: float | None = None,
        gradient: str | None = None,
        time_dependent: bool = False,
    ) -> None:
        settings: dict[str, Any] = {"rtol": rtol, "atol": atol, "max_steps": max_steps, "max_step": max_step, "gradient": gradient}
        super().__init__(field, dim, end=end, dt=dt, method=method, time_dependent=time_dependent, **settings)
        _check_one_of("trace", trace, TRACES)
        _check_one_of("noise", noise, NOISES)
        if getattr(field, "dim", dim) != dim:
            raise ShapeError(f"this flow is of points of {dim} numbers, but its field of {field.dim}.")
        self.trace, self.noise, self.probes = trace, noise, _check_probes(probes)

    def log_density(self, x: Tensor, *, probes: int | None = None, seed: int = 0) -> "LogDensity":
        """The log-density at points, differentiable in them and in the field's parameters.

        Args:
            x: points, shape (*batch, dim).
            probes: k of Hutchinson's estimate, in place of the flow's own trace and number.
            seed: of the probes. While training give each step its own.
        """
        x = self._points(x)
        count = 0 if probes is None and self.trace == "exact" else _check_probes(self.probes if probes is None else probes)
        points = x.reshape(-1, self.dim)
        tangents = self._probes(points, count, seed) if count else None
        back = self._solved(Augmented(self.field, tangents, self.end, self.dim), with_integrals(points, count))
        latents, integrals = back.last[:, : self.dim], back.last[:, self.dim :]
        shape, settings = x.shape[:-1], back.settings | {"probes": count, "noise": self.noise, "seed": seed}
        return LogDensity(
            values=(log_normal(latents) + integrals.mean(-1)).reshape(shape),
            stderr=_stderr(integrals.detach(), count).reshape(shape),
            latents=latents.reshape(x.shape),
            codes=back.codes.reshape(shape),
            settings=settings,
        )

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Points of the density, shape (n, dim), in the dtype and on the device of the field's parameters."""
        if check_whole("n", n) < 1:
            raise InputError(f"n is {n}; a sample has at least 1 point.")
        like = next(self.parameters(), torch.zeros((), dtype=torch.get_default_dtype()))
        random = torch_generator(check_seed(seed), "sample of the base")
        return self(torch.randn(n, self.dim, generator=random, dtype=torch.float64).to(like))

    def transport(self, z: Tensor, times: Any = None) -> Solution:
        """Where points of the base are at the asked times, by default 0 and T; the first is that of z."""
        return cast(Solution, self.solve(self._points(z), (0.0, self.end) if times is None else times))

    def inverse(self, x: Tensor) -> Tensor:
        """The points of the base that the flow takes to x, shape (*batch, dim)."""
        return self._solved(Reversed(self.field, self.end), self._points(x)).last

    def _points(self, x: Any) -> Tensor:
        x = torch.as_tensor(x)
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ShapeError(f"this flow is of points of {self.dim} numbers, but they have shape {tuple(x.shape)}.")
        return x

    def _solved(self, field: Field, x0: Tensor) -> Solution:
        dt = None if self.by_tolerance else self.dt
        return cast(Solution, solve(field, x0, (0.0, self.end), method=self.method, dt=dt, **self.settings))

    def _probes(self, x: Tensor, count: int, seed: int) -> Tensor:
        """ε, rows of shape (items, k, dim)."""
        random, shape = torch_generator(check_seed(seed), "probes of a trace"), (len(x), count, self.dim)
        drawn = torch.randn(shape, generator=random, dtype=torch.float64)
        return (drawn if self.noise == "gaussian" else drawn.sign()).to(x)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LogDensity(Result):
    """The log-density of points under a flow.

    Args:
        values: log p(x), in nats, shape (*batch), differentiable; NaN where an item failed.
        stderr: standard error of each, of its probes; 0 for an exact trace, NaN for one probe; shape (*batch).
        latents: where the points come from in the base, shape (*batch, dim).
    """

    values: Tensor
    stderr: Tensor
    latents: Tensor

    drawn_by: ClassVar[str] = "separatrix.plot.log_density:log_density_figure"
    layout: ClassVar[dict[str, str]] = {"values": "batch", "stderr": "batch", "latents": "batch state"}
    units: ClassVar[dict[str, str]] = {"values": "nats", "stderr": "nats"}

    @property
    def mean(self) -> Tensor:
        """The mean log-density of the items that did not fail, in nats."""
        return self.values.nanmean()

    def summary(self) -> str:
        """The answer in words."""
        alive = self.values.detach()[self.codes == 0]
        error = float(alive.std() / len(alive) ** 0.5) if len(alive) > 1 else float("nan")
        mean = measured(float(alive.mean()), error) if len(alive) else "unknown"
        probes = self.settings["probes"]
        trace = f"{counted(probes, 'probe')} each" if probes else "the exact trace"
        points = counted(self.codes.numel(), "point")
        return f"log-density of {points}, by {trace}: {mean} nats on average; {self.ended()}."


class Augmented(Reversed):
    """A point that goes backwards, and what its density gains by it:  dy/ds = −f(y, T − s),  dℓ_j/ds = −ε_jᵀ (∂f/∂x) ε_j.

    Args:
        field: f.
        probes: ε, rows of shape (items, k, dim); None for the exact trace, and one ℓ.
        end: T.
        dim: numbers in y; those behind it in the state are ℓ.
    """

    def __init__(self, field: Field, probes: Tensor | None, time: float, dim: int) -> None:
        super().__init__(field, time)
        self.probes, self.dim = probes, dim

    pushforward, drift = Field.pushforward, Field.drift

    def forward(self, x: Tensor, t: Time) -> Tensor:
        """The velocity of both, shape (*batch, dim + k)."""
        y = x[..., : self.dim]
        rows = torch.eye(self.dim, dtype=y.dtype, device=y.device) if self.probes is None else self.probes
        rows = rows.expand(*y.shape[:-1], *rows.shape[-2:])
        velocity, pushed = self.field.pushforward(y, rows, self.time - t)
        if velocity.shape != y.shape:
            raise ShapeError(
                f"the field takes states of shape {tuple(y.shape)} to velocities of shape {tuple(velocity.shape)}.\n"
                f"It must return one velocity for each of the {self.dim} numbers of a point."
            )
        traces = (rows * pushed).sum(-1)
        return -torch.cat([velocity, traces.sum(-1, keepdim=True) if self.probes is None else traces], dim=-1)


def with_integrals(x: Tensor, count: int) -> Tensor:
    """The points with as many zeros behind them as there are probes; one for the exact trace."""
    return nn.functional.pad(x, (0, max(count, 1)))


def log_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I), shape (*batch)."""
    return -(z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi)) / 2


def _stderr(integrals: Tensor, count: int) -> Tensor:
    """Of the mean over probes, shape (items)."""
    return integrals.std(-1) / math.sqrt(count) if count > 1 else torch.full_like(integrals[:, 0], math.nan if count else 0.0)


def _check_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"there is no {name} {value!r}; choose one of {', '.join(known)}.")


def _check_probes(probes: int) -> int:
    if check_whole("probes", probes) < 1:
        raise InputError(f"probes is {probes}; an estimate of the trace takes at least 1.")
    return int(probes)
