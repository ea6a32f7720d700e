"""Continuous normalizing flows: a normal density transported by a field."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_choice, check_seed, check_whole
from separatrix.core.errors import ShapeError
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
    from `dim` tangents; or Hutchinson's estimate  (1/k) Σ_j ε_jᵀ (∂f/∂x) ε_j  from k probes, E[εεᵀ] = I, each held fixed from T to
    0. The estimate is unbiased and has a standard error.

    Args:
        field: f, a module (*batch, dim) → (*batch, dim), or a `Field` such as `sx.nn.parts.DenseField`, whose
            own tangents are then used.
        dim: length of a point.
        end: T.
        trace: "exact" or "hutchinson".
        probes: k, the number of probes of Hutchinson's estimate.
        noise: "rademacher" (random signs, the smallest variance) or "gaussian" probes.
        dt, method, rtol, atol, max_steps, max_step: as in `sx.nn.NeuralODE`. Adaptive steps are separate for each point.
        gradient: "backpropagation", "checkpoint" or "adjoint". Default: as in `sx.solve`.
        time_dependent: call `field(x, t)`.

    As a `Flow` it is the flow of the field: its steps go from the normal density to the learned one.

    Raises:
        InputError: an unknown trace or noise, no probes, or an end time that is not positive.
        ShapeError: points of another length.

    Limits: the density, and its integral over space, are exact up to the error of the steps. An exact trace costs `dim` tangents
        per step. Where the field contracts, solving backwards amplifies the errors of the steps. Adaptive steps depend on the
        probes, so the estimate is unbiased only up to the tolerance.
    Source: Chen, Rubanova, Bettencourt & Duvenaud 2018, NeurIPS, arXiv:1806.07366, theorem 1; Grathwohl, Chen, Bettencourt,
        Sutskever & Duvenaud 2019, ICLR, arXiv:1810.01367 (the estimate).

    Example:
        >>> flow = sx.nn.ContinuousNormalizingFlow(lambda x: x, dim=1)  # x(1) = e x(0)
        >>> print(f"{flow.log_density(torch.zeros(1)).values:.4f}")  # −½ ln 2π − 1
        -1.9189
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
        check_choice("trace", trace, TRACES)
        check_choice("noise", noise, NOISES)
        if getattr(field, "dim", dim) != dim:
            raise ShapeError(f"expected a field on points of {dim} numbers, got one on {field.dim}.")
        self.trace, self.noise, self.probes = trace, noise, check_whole("probes", probes, 1)

    def log_density(self, x: Tensor, *, probes: int | None = None, seed: int = 0) -> "LogDensity":
        """The log-density at points, differentiable in them and in the field's parameters.

        Args:
            x: points, shape (*batch, dim).
            probes: number of probes of Hutchinson's estimate. Default: the trace and the number of probes of the flow.
            seed: seed of the probes. In training, use another one at each step.

        Returns:
            LogDensity. `values` (*batch), in nats, and their `stderr`, same shape.
        """
        x = self._points(x)
        exact = probes is None and self.trace == "exact"
        count = 0 if exact else self.probes if probes is None else check_whole("probes", probes, 1)
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
        """Random points, shape (n, dim), in the dtype and on the device of the field's parameters."""
        check_whole("n", n, 1)
        like = next(self.parameters(), torch.zeros((), dtype=torch.get_default_dtype()))
        random = torch_generator(check_seed(seed), "sample of the base")
        return self(torch.randn(n, self.dim, generator=random, dtype=torch.float64).to(like))

    def transport(self, z: Tensor, times: Any = None) -> Solution:
        """The positions of base points z at the given times, by default 0 and T; the first time is that of z."""
        return cast(Solution, self.solve(self._points(z), (0.0, self.end) if times is None else times))

    def inverse(self, x: Tensor) -> Tensor:
        """The base points that the flow maps to x, shape (*batch, dim)."""
        return self._solved(Reversed(self.field, self.end), self._points(x)).last

    def _points(self, x: Any) -> Tensor:
        x = torch.as_tensor(x)
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ShapeError(f"expected points of {self.dim} numbers, got shape {tuple(x.shape)}.")
        return x

    def _solved(self, field: Field, x0: Tensor) -> Solution:
        dt = None if self.by_tolerance else self.dt
        return cast(Solution, solve(field, x0, (0.0, self.end), method=self.method, dt=dt, **self.settings))

    def _probes(self, x: Tensor, count: int, seed: int) -> Tensor:
        """The probes ε, shape (items, k, dim)."""
        random, shape = torch_generator(check_seed(seed), "probes of a trace"), (len(x), count, self.dim)
        drawn = torch.randn(shape, generator=random, dtype=torch.float64)
        return (drawn if self.noise == "gaussian" else drawn.sign()).to(x)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LogDensity(Result):
    """The log-density of points under a flow.

    Args:
        values: log p(x), in nats, shape (*batch), differentiable; NaN where an item failed.
        stderr: standard error due to the probes, shape (*batch); 0 for an exact trace, NaN for a single probe.
        latents: the corresponding points of the base, shape (*batch, dim).
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
        alive = self.values.detach()[self.codes == 0]
        error = float(alive.std() / len(alive) ** 0.5) if len(alive) > 1 else float("nan")
        mean = measured(float(alive.mean()), error) if len(alive) else "unknown"
        probes = self.settings["probes"]
        trace = f"{counted(probes, 'probe')} each" if probes else "the exact trace"
        points = counted(self.codes.numel(), "point")
        return f"log-density of {points}, by {trace}: {mean} nats on average; {self.ended()}."


class Augmented(Reversed):
    """A point that is solved backwards, and its log-density gain:  dy/ds = −f(y, T − s),  dℓ_j/ds = −ε_jᵀ (∂f/∂x) ε_j.

    Args:
        field: f.
        probes: ε, shape (items, k, dim); None for the exact trace, with a single ℓ.
        end: T.
        dim: length of y; the numbers after it in the state are ℓ.
    """

    def __init__(self, field: Field, probes: Tensor | None, time: float, dim: int) -> None:
        super().__init__(field, time)
        self.probes, self.dim = probes, dim

    pushforward, drift = Field.pushforward, Field.drift

    def forward(self, x: Tensor, t: Time) -> Tensor:
        """The velocities of y and ℓ, shape (*batch, dim + k)."""
        y = x[..., : self.dim]
        rows = torch.eye(self.dim, dtype=y.dtype, device=y.device) if self.probes is None else self.probes
        rows = rows.expand(*y.shape[:-1], *rows.shape[-2:])
        velocity, pushed = self.field.pushforward(y, rows, self.time - t)
        if velocity.shape != y.shape:
            raise ShapeError(
                f"expected velocities of shape {tuple(y.shape)}, that of the states, got shape {tuple(velocity.shape)}.\n"
                f"Return one velocity for each of the {self.dim} numbers of a point."
            )
        traces = (rows * pushed).sum(-1)
        return -torch.cat([velocity, traces.sum(-1, keepdim=True) if self.probes is None else traces], dim=-1)


def with_integrals(x: Tensor, count: int) -> Tensor:
    """The points padded with one zero per probe, or one zero for the exact trace."""
    return nn.functional.pad(x, (0, max(count, 1)))


def log_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I), shape (*batch)."""
    return -(z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi)) / 2


def _stderr(integrals: Tensor, count: int) -> Tensor:
    """Standard error of the mean over probes, shape (items)."""
    return integrals.std(-1) / math.sqrt(count) if count > 1 else torch.full_like(integrals[:, 0], math.nan if count else 0.0)
