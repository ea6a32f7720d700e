"""Residual networks as integrators: layers are steps in depth of one equation, for any number of layers and any method."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_choice, check_positive, check_whole
from separatrix.core.errors import HorizonError, InputError, ShapeError, UnsupportedModuleError
from separatrix.core.first_step import NOT_THE_FUNCTIONS
from separatrix.core.randomness import torch_generator
from separatrix.core.twin import twin
from separatrix.flows.field import Field, FunctionField, field_of
from separatrix.flows.flow import Velocity
from separatrix.flows.methods import SOLVERS
from separatrix.flows.methods.solver import Time
from separatrix.nn.flows.flow_layer import TimedFlow

STEPS = 10  # default number of steps of one field that all layers share
BETWEEN = ("constant", "linear")
ROUNDING = 1e-9  # tolerance of the time at the end of a layer, relative to the duration of a layer


class ShapedField(FunctionField):
    """A module on states of any shape, as a vector field on flat states.

    Args:
        module: maps a batch (items, *shape) to a batch of the same shape.
        shape: shape of one state.
    """

    def __init__(self, module: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__(module)
        self.shape = shape

    def forward(self, x: Tensor, t: Time) -> Tensor:
        return self.function(x.reshape(-1, *self.shape)).reshape(x.shape)


@dataclass(frozen=True)
class Piece:
    """The field during one layer:  (1 − s) f(x) + s g(x),  with s rising from 0 to 1; or f throughout.

    Args:
        here: f.
        after: g; None for f throughout.
        begin, time: start and duration of the layer.
    """

    here: Field
    after: Field | None
    begin: float
    time: float

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        """The velocity at x, shape (*batch, dim)."""
        value, share = self.here(x, t), self._share(t)
        return value if self.after is None or share == 0 else value + share * (self.after(x, t) - value)

    def pushforward(self, x: Tensor, v: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """The velocity and its derivative along the tangents v, shape (*batch, k, dim)."""
        (value, bend), share = self.here.pushforward(x, v, t), self._share(t)
        if self.after is None or share == 0:
            return value, bend
        other, other_bend = self.after.pushforward(x, v, t)
        return value + share * (other - value), bend + share * (other_bend - bend)

    def _share(self, t: Time) -> float:
        return 0.0 if self.after is None else (float(t) - self.begin) / self.time


class DepthField(Field):
    """The vector field of a network in depth: K fields, each active for 1/K of the time.

    Args:
        fields: one per layer, or one for all.
        end: T, the end of the last layer.
        between: "constant", f(x, t) = f_k(x) in layer k; or "linear", which interpolates from f_k at the start of layer k to
            f_{k+1} at its end, and stays at the last field.
    """

    def __init__(self, fields: Iterable[Field], *, end: float, between: str = "constant") -> None:
        super().__init__()
        self.fields = nn.ModuleList(fields)
        self.end, self.between = end, between

    def forward(self, x: Tensor, t: Time) -> Tensor:
        """The velocity at time t, one number for all items; at the border of two layers, that of the later one."""
        return self.at(t)(x, t)

    def pushforward(self, x: Tensor, v: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """The velocity and its derivative along the tangents v, shape (*batch, k, dim)."""
        return self.at(t).pushforward(x, v, t)

    def at(self, t: Time) -> Piece:
        """The layer that contains the time t."""
        if len(self.fields) == 1:
            return self.piece(0)
        if isinstance(t, Tensor):
            raise InputError(
                f"a network of {len(self.fields)} fields needs one time for all items, got times of shape {tuple(t.shape)}.\n"
                "Take equal steps, or share one field among all layers."
            )
        return self.piece(int(t / self.end * len(self.fields) + ROUNDING))

    def piece(self, k: int) -> Piece:
        """Layer k; the last one has no end."""
        last, span = len(self.fields) - 1, self.end / len(self.fields)
        k = min(max(k, 0), last)
        after = self.fields[k + 1] if self.between == "linear" and k < last else None
        return Piece(self.fields[k], after, k * span, span)


class ContinuousDepth(TimedFlow):
    r"""A residual network as an integrator: L layers are L steps of  ẋ = f(x, t)  from t = 0 to T, by a one-step method.

        x_{n+1} = x_n + (T/L) f(x_n, t_n)        with method="euler", the residual network itself

    The layers are modules f_1 … f_K, each active for 1/K of the time, or one module that all layers share. `refined(2)` takes other
    steps with the same weights, optionally by another method; a network that has learned its equation, rather than its steps, then
    gives the same result.

    Args:
        fields: one module, or a sequence of K; each maps a batch (items, *shape) to a batch of the same shape. A `Field` acts on
            flat states and may depend on time.
        shape: shape of one state: a number, or (channels, height, width). Default: the width of the first linear layer.
        end: T.
        steps: L, a multiple of K. Default: K, or 10 for a single field.
        method: a name in `SOLVERS`; "leapfrog" and "yoshida4" need separable fields, with a flat state (q, p).
        between: "constant": f = f_k in layer k. "linear": f interpolates from f_k at the start of layer k to f_{k+1} at the start
            of the next one, and stays at f_K in the last. Euler's method with one step per layer gives the same network either way.

    A call applies the whole network to states of their own shape, also inside a network such as `sx.nn.Sequential`; `as_layer()` is
    that map as a system of one step. As a system, it is a `Flow` of L steps, whose step n is layer n: `sx.finite_time_lyapunov` and
    `sx.gradient_propagation` measure it in depth, `sx.depth_profile` layer by layer (the state after each layer is an output of
    `state`), `sx.step_convergence` against its limit, `sx.stability_region` against its method. For one field that is followed
    indefinitely or with adaptive steps, see `sx.nn.NeuralODE`.

    Raises:
        InputError: no field, an unknown shape, steps that are not a multiple of K, or an unknown method or interpolation.
        ShapeError: a field changes the shape of the state, or the method needs a state of even length.
        HorizonError: a step beyond the last layer.
    Limits: within a step f is smooth in t, since K divides L; a method therefore keeps its order if the f_k are smooth in x (ReLU
        is not).
    Source: E 2017, Commun. Math. Stat. 5, 1; Haber & Ruthotto 2017, Inverse Problems 34, 014004; Lu et al. 2018, ICML,
        arXiv:1710.10121 (other methods); Queiruga et al. 2020, arXiv:2008.02389 (weights in continuous depth).

    Example:
        >>> network = sx.nn.ContinuousDepth([nn.Linear(2, 2) for _ in range(3)])
        >>> network.steps, network.refined(2).steps
        (3, 6)
    """

    layered = True
    autonomous = False  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride]  # each layer has its own field

    def __init__(
        self,
        fields: nn.Module | Iterable[nn.Module],
        shape: int | tuple[int, ...] | None = None,
        *,
        end: float = 1.0,
        steps: int | None = None,
        method: str = "euler",
        between: str = "constant",
    ) -> None:
        given = [field_of(field) for field in _as_fields(fields)]
        steps = (len(given) if len(given) > 1 else STEPS) if steps is None else steps
        _check_options(len(given), end, steps, between)
        sizes = _shape_of(given[0]) if shape is None else (shape,) if isinstance(shape, int) else tuple(shape)
        own = [field if isinstance(field, Field) else ShapedField(field, sizes) for field in given]
        super().__init__(DepthField(own, end=end, between=between), torch.Size(sizes).numel(), end / steps, method=method)
        self.shape, self.end, self.horizon = sizes, end, steps
        self.state = nn.Identity()  # its outputs are the states after the layers, for hooks and `sx.depth_profile`
        self._check_fields()

    @property
    def steps(self) -> int:
        """L, the number of layers."""
        return self.horizon

    def forward(self, x: Tensor, n: int = 0) -> Tensor:
        """The output of all layers from n on, shape (*batch, *shape) → (*batch, *shape)."""
        state = self.pack(x)
        for i in range(n, self.horizon):
            state = self.state(self.step(state, i))
        return self.unpack(state)

    def pushed(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Flat states after all layers, and the tangents v, (*batch, k, dim), pushed through them."""
        for i in range(self.horizon):
            x, v = self.pushforward(x, v, i)
        return x, v

    def during(self, n: int) -> Velocity:
        """The field of layer n."""
        if not 0 <= n < self.horizon:
            raise HorizonError(f"expected a layer from 0 to {self.horizon - 1}, got {n}.")
        return self.field.piece(n * len(self.field.fields) // self.horizon)

    def refined(self, factor: int = 2, *, method: str | None = None) -> Self:
        """The same weights with `factor` layers in place of each one, of shorter duration; optionally by another method."""
        other = super().refined(factor, method=method)
        other.horizon = factor * self.horizon
        other.dt = self.end / other.horizon
        if other.method != self.method:
            other._check_fields()
        return other

    def check_start(self, x: Tensor) -> None:
        """Refuse fields that the method cannot follow."""
        for k in range(len(self.field.fields)):
            piece = self.field.piece(k)
            SOLVERS[self.method].check_field(piece, x, piece.begin + self.dt / 2)

    def initial_state(self, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
        """Standard normal states, shape (*batch, dim)."""
        return torch.randn(*batch, self.dim, dtype=torch.float64, generator=torch_generator(seed, "initial state"))

    def pack(self, state: Tensor) -> Tensor:
        """The flat state, (*batch, *shape) → (*batch, dim)."""
        batch = state.shape[: max(state.ndim - len(self.shape), 0)]
        if tuple(state.shape[len(batch) :]) != self.shape:
            raise ShapeError(f"expected states of shape (*batch, {_listed(self.shape)}), got {tuple(state.shape)}.")
        return state.reshape(*batch, self.dim)

    def unpack(self, x: Tensor) -> Tensor:
        """The state in its own shape, (*batch, dim) → (*batch, *shape)."""
        return x.reshape(*x.shape[:-1], *self.shape)

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"shape=({_listed(self.shape)}), end={self.end:g}, steps={self.steps}, method={self.method}"

    @torch.no_grad()
    def _check_fields(self) -> None:
        """Refuse fields that change the shape of the state or do not suit the method, tested on two states."""
        random = torch.Generator().manual_seed(0)
        like = next(iter(self.parameters()), torch.zeros(()))
        wide = torch.promote_types(like.dtype, torch.float32)
        x = torch.randn(2, self.dim, generator=random, dtype=torch.float64).to(like.device, wide)
        ready = twin(self, dtype=wide)
        for k, field in enumerate(ready.field.fields):
            function, given = (
                (field.function, ready.unpack(x)) if isinstance(field, ShapedField) else (lambda y, f=field: f(y, 0.0), x)
            )
            try:
                got = tuple(function(given).shape)
            except NOT_THE_FUNCTIONS:
                raise
            except Exception as error:  # usually a shape that the module does not accept
                reason = (str(error).strip().splitlines() or ["no message"])[0]
                raise ShapeError(
                    f"field {k} failed on a batch of shape {tuple(given.shape)}: {reason}\n"
                    "Pass shape=, the shape of one state; fields are called as f(x)."
                ) from error
            if got != tuple(given.shape):
                raise ShapeError(
                    f"field {k} maps a batch of shape {tuple(given.shape)} to shape {got}; expected the same shape.\n"
                    "A field returns one velocity per number of the state; put other layers before or after the network."
                )
        ready.check_start(x)


def _as_fields(fields: nn.Module | Iterable[nn.Module]) -> list[nn.Module]:
    if isinstance(fields, nn.Module) and not isinstance(fields, nn.ModuleList):
        return [fields]
    if not isinstance(fields, Iterable):
        raise UnsupportedModuleError(f"expected an nn.Module x ↦ ẋ, or a list of them, got a {type(fields).__name__}.")
    given = list(fields)
    if not given:
        raise InputError("expected at least 1 field, got 0.")
    for k, field in enumerate(given):
        if not isinstance(field, nn.Module):
            raise UnsupportedModuleError(f"expected nn.Modules x ↦ ẋ as fields, got a {type(field).__name__} as field {k}.")
    return given


def _check_options(fields: int, end: float, steps: int, between: str) -> None:
    check_positive("end", end)
    if check_whole("steps", steps, 1) % fields:
        raise InputError(
            f"steps is {steps!r}; expected a multiple of the number of fields, {fields}: {fields}, {2 * fields}, …\n"
            "A step over two fields would follow neither."
        )
    check_choice("between", between, BETWEEN)


def _shape_of(field: nn.Module) -> tuple[int, ...]:
    """The input width of a module, if its first layer is linear."""
    for layer in field.modules():
        if isinstance(layer, nn.Linear):
            return (layer.in_features,)
        if any(True for _ in layer.parameters(recurse=False)):
            break
    raise InputError(f"the shape of the state cannot be inferred from a {type(field).__name__}.\nPass shape, such as (16, 8, 8).")


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
