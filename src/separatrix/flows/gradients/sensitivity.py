"""Forward sensitivities: derivatives of a solution in the parameters of its field, for all steps at once."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from separatrix.core.errors import InputError
from separatrix.core.twin import twin
from separatrix.flows.field import Field, as_field
from separatrix.flows.gradients.mapped import lanes_refused
from separatrix.flows.methods import runge_kutta
from separatrix.flows.methods.explicit import ExplicitRungeKutta
from separatrix.flows.methods.solver import TangentSlope, Time
from separatrix.flows.steps.checks import check_apart, first_velocity
from separatrix.flows.steps.initial import Initial
from separatrix.flows.steps.items import Items, Together
from separatrix.flows.steps.mesh import Mesh, check_times, equal_steps

MOST_NUMBERS = 2**22  # numbers in the tangents of the steps that are linearised together: 32 MiB in float64

# Note [All steps at once]
# A solution is computed step by step, but its derivative need not be. Once the states are known, the derivatives of each step in
# its initial state (A) and in the parameters (B) are one batch of independent problems; the only sequential part is
#     S ← S A + B,
# one small product per step. Thousands of small calls become a few large ones.


@lanes_refused("sx.sensitivities")
def sensitivities(
    field: Callable[..., Tensor],
    x0: Tensor,
    times: Any,
    *,
    dt: float,
    method: str = "rk4",
    time_dependent: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""The solution of  ẋ = f(x, t; θ)  at the given times, and its derivative in all parameters of f,  S = ∂x/∂θ:

        Ṡ = ∂f/∂x S + ∂f/∂θ,   S = 0 at the first time

    The derivative is that of the method's own steps, and so exact for the returned states up to rounding.

    Args:
        field: f, an `nn.Module`, a `Field`, or a `Flow`. A module is used through its twin, in evaluation mode and in x0's dtype.
        x0: states at the first time, shape (*batch, dim).
        times: increasing, shape (times), or (times, *batch).
        dt: largest step size; equal steps end at the given times.
        method: an explicit Runge–Kutta method in `SOLVERS`.
        time_dependent: call `field(x, t)`.

    Returns:
        The states, shape (times, *batch, dim), and the derivatives, shape (times, *batch, parameters, dim), one row for each entry
        of the parameters that require gradients, flattened in the order of `field.parameters()`. Neither has a graph.

    Raises:
        InputError: times that do not increase, a method that is not an explicit Runge–Kutta method, or a field without parameters.
    Limits: a module must pass through `torch.func.vmap`, so it cannot use batch statistics. For the gradient of one number,
        backpropagation is cheaper; this function is for Jacobians, with up to about 10,000 parameters.
    Source: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, I.14.

    Example:
        >>> field = nn.Linear(1, 1, bias=False).double()  # ẋ = w x
        >>> _ = nn.init.constant_(field.weight, -1.0)
        >>> states, by_weight = sx.sensitivities(field, torch.ones(1).double(), [0.0, 1.0], dt=0.01)
        >>> print(f"{float(by_weight[-1]):.6f}")  # ∂exp(w t)/∂w = t exp(w t)
        0.367879
    """
    known = Initial(torch.as_tensor(x0).detach())
    shot = Shot(field, known, times, dt=dt, method=method, time_dependent=time_dependent)
    return shot.linearised(shot.start)


class Shot:
    """A solution as a function of one flat vector θ: the field's parameters and the unknown numbers of the initial states.

    Args:
        field, times, dt, method, time_dependent: as for `sensitivities`.
        initial: the initial states.
    """

    def __init__(
        self,
        field: Callable[..., Tensor],
        initial: Initial,
        times: Any,
        *,
        dt: float,
        method: str,
        time_dependent: bool,
    ) -> None:
        own = as_field(field, time_dependent=time_dependent)
        self.initial, self.x0 = initial, initial.states
        times = torch.as_tensor(times, dtype=torch.float64, device=self.x0.device)
        check_times(times, tuple(self.x0.shape[:-1]))
        self.mesh = equal_steps(times, dt)
        self.method = runge_kutta(method)
        self.learned = _learned(own, initial)
        self.names = _names(own, self.learned)
        self.run = _Run(twin(own, dtype=self.x0.dtype, device=self.x0.device, detach=True), self.method, self.mesh)
        self._tried: tuple[Tensor, Tensor] | None = None
        first_velocity(self.run.field, self.x0, times, by_tolerance=False)
        if times.ndim > 1 and self.run.field.time_dependent:
            items, batch = self.x0.reshape(-1, self.x0.shape[-1]), tuple(self.x0.shape[:-1])
            check_apart(Together.probe(self.run.field, batch, items, times.flatten(1)))
        if initial.count and any(value is initial.given for value in own.parameters()):
            _check_apart(own, initial, float(times.flatten()[0]))

    @property
    def parameters(self) -> int:
        """Number of parameters of the field."""
        return sum(value.numel() for value in self.learned)

    @property
    def start(self) -> Tensor:
        """The current parameters, and zeros for the unknown numbers, shape (parameters + unknown numbers)."""
        return torch.cat([*(value.detach().to(self.x0).flatten() for value in self.learned), self.x0.new_zeros(self.initial.count)])

    @torch.no_grad()
    def learn(self, theta: Tensor) -> None:
        """Write these values to the user's own parameters and initial states."""
        for value, part in zip(self.learned, self._split(theta), strict=True):
            value.copy_(part)
        self.initial.learn(self.unknown(theta))

    def unknown(self, theta: Tensor) -> Tensor:
        """The unknown numbers in θ."""
        return theta[self.parameters :]

    @torch.no_grad()
    def states(self, theta: Tensor) -> Tensor:
        """The states at the requested times, shape (times, *batch, dim)."""
        return self._read(self._nodes(theta))

    @torch.no_grad()
    def linearised(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The states, and their derivatives, shape (times, *batch, numbers in θ, dim). See Note [All steps at once]."""
        nodes = self._nodes(theta)
        moved, caused = self._steps(nodes[:-1], self._split(theta))
        rows = [torch.zeros_like(caused[0])]
        for a, b in zip(moved, caused, strict=True):
            rows.append(rows[-1] @ a + b)
        found = self._read(torch.stack(rows))
        return self._read(nodes), torch.cat([found, self._by_start(moved)], dim=-2) if self.initial.count else found

    def _by_start(self, moved: Tensor) -> Tensor:
        """Derivatives in the unknown initial numbers, from those of each step in its initial state."""
        rows = [torch.eye(self.x0.shape[-1]).to(self.x0).expand_as(moved[0])]
        for a in moved:
            rows.append(rows[-1] @ a)
        return self.initial.rows(self._read(torch.stack(rows)))

    def _nodes(self, theta: Tensor) -> Tensor:
        """The states before every step and after the last; cached for a derivative at the same θ."""
        if self._tried is None or self._tried[0] is not theta:
            x0 = self.initial.at(self.unknown(theta))
            self._tried = theta, functional_call(self.run, self._named(self._split(theta), "field."), (x0,))
        return self._tried[1]

    def _read(self, along: Tensor) -> Tensor:
        """Rows of `along`, (steps + 1, *batch, …), at the requested times, where steps end."""
        return along[self.mesh.node]

    def _steps(self, x: Tensor, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """∂x'/∂x and ∂x'/∂θ as rows, (steps, *batch, dim | parameters, dim), of all steps from x, (steps, *batch, dim)."""
        dim, rows = x.shape[-1], x.shape[-1] + sum(part.numel() for part in parts)
        together = max(1, MOST_NUMBERS // (rows * x[0].numel()))
        columns = (self._column(i).expand(*x.shape[:-1], 1) for i in (0, 1))
        slope, found = self._slope(parts), []
        for state, t, h in zip(*(column.split(together) for column in (x, *columns)), strict=True):
            frame = torch.eye(rows, dim, dtype=x.dtype, device=x.device).expand(*state.shape[:-1], -1, -1)
            found.append(self.method.pushforward(slope, state, frame, t, h)[1])
        both = torch.cat(found)
        return both[..., :dim, :], both[..., dim:, :]

    def _slope(self, parts: list[Tensor]) -> TangentSlope:
        """The field along tangents of (x, θ) with θ constant:  v ↦ v ∂f/∂x, and + ∂f/∂θ for the rows after those of x."""

        def value(parts: list[Tensor], x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            velocity = functional_call(self.run.field, self._named(parts), (x[None], t))[0]
            return velocity, velocity

        derivatives = vmap(jacrev(value, argnums=(0, 1) if parts else 1, has_aux=True), in_dims=(None, 0, 0))

        def slope(x: Tensor, v: Tensor, t: Time) -> tuple[Tensor, Tensor]:
            dim, items = x.shape[-1], x.shape[:-1]
            found, velocity = derivatives(parts, x.reshape(-1, dim), torch.as_tensor(t).expand(*items, 1).reshape(-1, 1))
            by_parts, by_state = found if parts else ((), found)
            pushed = v @ by_state.reshape(*items, dim, dim).mT
            if parts:
                pushed[..., dim:, :] += torch.cat([part.reshape(*items, dim, -1) for part in by_parts], dim=-1).mT
            return velocity.reshape_as(x), pushed

        return slope

    def _column(self, i: int) -> Tensor:
        """The start times (0) or lengths (1) of all steps, to broadcast along states (steps, *batch, dim)."""
        values = torch.stack([torch.as_tensor(step[i], dtype=torch.float64) for step in self.mesh.steps]).to(self.x0)
        return values.reshape(-1, *([1] * self.x0.ndim)) if values.ndim == 1 else values

    def _named(self, parts: list[Tensor], prefix: str = "") -> dict[str, Tensor]:
        return {prefix + name: part for names, part in zip(self.names, parts, strict=True) for name in names}

    def _split(self, theta: Tensor) -> list[Tensor]:
        parts = theta[: self.parameters].split([value.numel() for value in self.learned])
        return [part.reshape(value.shape) for part, value in zip(parts, self.learned, strict=True)]


class _Run(nn.Module):
    """All steps of a mesh as one module, so that parameters are replaced once per run rather than once per step."""

    def __init__(self, field: Field, method: ExplicitRungeKutta, mesh: Mesh) -> None:
        super().__init__()
        self.field, self.method, self.mesh = field, method, mesh

    def forward(self, x0: Tensor) -> Tensor:
        """The states before every step and after the last."""
        return torch.stack(self.mesh.follow(self.method, Items(self.field, None), x0))


def _learned(field: Field, initial: Initial) -> list[nn.Parameter]:
    """The parameters to differentiate, without duplicates; initial states that a module holds as parameters are not included."""
    found = [value for value in field.parameters() if value.requires_grad and value is not initial.given]
    if not found and not initial.count:
        raise InputError("expected a field with a parameter that requires gradients.\nPass a module, or a Field that holds one.")
    return found


def _check_apart(field: Field, initial: Initial, t: float) -> None:
    """Refuse a field that depends on the tensor that is its unknown initial state."""
    with torch.enable_grad():
        value = twin(field, dtype=initial.states.dtype)(initial.states, t).sum()
    if value.requires_grad and torch.autograd.grad(value, initial.given, allow_unused=True)[0] is not None:
        raise InputError(
            "the field depends on x0, the tensor to be fitted as its initial state.\n"
            "Give the field a separate parameter, or pass x0.detach()."
        )


def _names(field: Field, learned: list[nn.Parameter]) -> list[list[str]]:
    """The names of each parameter in the field; several if it is shared."""
    named = list(field.named_parameters(remove_duplicate=False))
    return [[name for name, one in named if one is value] for value in learned]
