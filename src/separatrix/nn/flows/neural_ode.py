"""Neural ODEs: a network as a vector field, as a layer and as a flow."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_positive
from separatrix.core.errors import InputError
from separatrix.core.structure import Nested
from separatrix.core.tangent import pushforward
from separatrix.core.twin import twin
from separatrix.flows import Solution, StructuredSolution, solve
from separatrix.flows.field import as_field
from separatrix.flows.flow import Flow
from separatrix.flows.gradients.mapped import laid_open
from separatrix.flows.methods import PAIRS, SOLVERS
from separatrix.flows.solve.solve import MAX_STEPS
from separatrix.flows.states import Form, Structured
from separatrix.flows.steps.mesh import whole_steps
from separatrix.nn.flows.flow_layer import TimedFlow

STEPS = 20  # default number of steps in the time of the layer


class NeuralODE(TimedFlow):
    r"""The layer  x(0) ↦ x(T)  of  ẋ = f(x, t)  with a network f; also the flow of f, for all analyses of systems.

    Args:
        field: f, a module (*batch, dim) → (*batch, dim), or a `Field`.
        dim: length of the state. Default: the output width of the last linear layer of f.
        end: T.
        dt: step size of equal steps. Default: adaptive steps for a pair such as "dopri5", else T / 20.
        method: a name in `SOLVERS`.
        rtol, atol, max_steps, max_step: tolerances and limits of adaptive steps; see `sx.solve`.
        gradient: "backpropagation", "checkpoint" or "adjoint". Default: as in `sx.solve`.
        time_dependent: call `field(x, t)`.
        shape: shape of a state without its batch, if it is not a vector: (3, 32, 32) for images; a tuple or a dictionary of shapes
            for such states. The layer, `solve`, `pack` and `unpack` take and return them; the states of the system are vectors.

    The default is twenty steps of RK4: they only need PyTorch, cost the same for every input, and can be compiled, exported and
    differentiated twice; a second run with another dt shows whether they are short enough. As a `Flow`, it takes one step of its
    method for each step of the system, of size dt or T / 20: its spectra, equilibria and portraits are those of the field. When
    called, also inside a network such as `sx.nn.Sequential`, it is the layer; `as_layer()` is the layer as a system, one step of
    which takes the time T and has the exact derivative of the layer's steps.

    Limits: states are float32 or float64, under autocast too, although layers of the field may use fewer digits. When compiled or
        exported, only equal steps are available, and an item that overflows can make the gradients of others NaN. The field is
        evaluated in evaluation mode: with dropout it would not be a function of state and time.
    Source: Chen, Rubanova, Bettencourt & Duvenaud 2018, NeurIPS, arXiv:1806.07366.

    Example:
        >>> layer = sx.nn.NeuralODE(nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)))
        >>> layer(torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        field: nn.Module | Callable[..., Tensor],
        dim: int | None = None,
        *,
        end: float = 1.0,
        dt: float | None = None,
        method: str = "rk4",
        rtol: float = 1e-5,
        atol: float | None = None,
        max_steps: int = MAX_STEPS,
        max_step: float | None = None,
        gradient: str | None = None,
        time_dependent: bool = False,
        shape: Any = None,
    ) -> None:
        check_positive("end", end)
        form = None if shape is None else Form.of_shapes(shape)
        if form is None:
            own = as_field(field, time_dependent=time_dependent)
        else:
            dim, own = form.dim, Structured(field, form, time_dependent=time_dependent, in_one_batch=True)
        step = end / STEPS if dt is None else dt
        super().__init__(own, _width(field) if dim is None else dim, step, method=method)
        self.form = form
        self.end = end
        self.settings = {"rtol": rtol, "atol": atol, "max_steps": max_steps, "max_step": max_step, "gradient": gradient}
        self.by_tolerance = dt is None and method in PAIRS

    def pack(self, state: Nested) -> Tensor:
        """The state vectors, (*batch, dim)."""
        return state if self.form is None else self.form.pack(state)

    def unpack(self, x: Tensor) -> Nested:
        """The states of state vectors, (*batch, dim)."""
        return x if self.form is None else self.form.unpack(x)

    def forward(self, x: Nested, n: int = 0) -> Nested:
        """The state after a time T, of the same shape."""
        return self.unpack(self._later(self.pack(x)))

    def _later(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return self._followed(x, self.settings)
        steps = whole_steps(self.end, self.dt)
        h = self.end / steps
        for i in range(steps):
            x = SOLVERS[self.method].step(self.field, x, i * h, h)
        return x

    def pushed(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The state after a time T, and the tangents v, (*batch, k, dim), through the steps that `forward` takes."""
        if self.by_tolerance:
            settings = self.settings | {"gradient": "backpropagation"}  # the only one whose graph has derivatives
            return pushforward(lambda y: self._followed(y, settings), x, v)
        field, steps = twin(self.field, dtype=x.dtype, device=x.device), whole_steps(self.end, self.dt)
        h = self.end / steps
        for i in range(steps):
            x, v = SOLVERS[self.method].pushforward(field.pushforward, x, v, i * h, h)
        return x, v

    def solve(self, x0: Nested, times: Any) -> Solution | StructuredSolution:
        """The states at the given times, the first of which is that of x0; see `sx.solve`."""
        dt = None if self.by_tolerance else self.dt
        found = solve(self.field, self.pack(x0), times, method=self.method, dt=dt, **self.settings)
        return found if self.form is None else StructuredSolution.of(found, self.form)

    def _followed(self, x: Tensor, settings: dict[str, Any]) -> Tensor:
        """The states after a time T. An item that is not finite stays NaN and does not affect the others, as in every layer."""
        ends, dt = (0.0, self.end), None if self.by_tolerance else self.dt
        finite = torch.isfinite(x).all(-1, keepdim=True)
        if laid_open(finite)[0].all():
            return solve(self.field, x, ends, method=self.method, dt=dt, **settings).last
        later = solve(self.field, x.where(finite, 0.0), ends, method=self.method, dt=dt, **settings).last
        return later.where(finite, torch.nan)

    def refined(self, factor: int = 2, *, method: str | None = None) -> Self:
        """The same field in equal steps, `factor` in place of each one; optionally by another method."""
        other = super().refined(factor, method=method)
        other.by_tolerance = False
        return other


def _width(field: Any) -> int:
    """The output width of the last linear layer of a module, or the length of a flow's state."""
    if isinstance(field, Flow):
        return field.dim
    layers = [layer for layer in field.modules() if isinstance(layer, nn.Linear)] if isinstance(field, nn.Module) else []
    if not layers:
        raise InputError(f"the length of the state cannot be inferred from a {type(field).__name__}.\nPass dim.")
    return layers[-1].out_features
