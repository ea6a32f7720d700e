"""A recurrent cell of the user's own, (u, state) → state or (out, state), as a function of a state vector."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from separatrix.core.derivative import Tangents
from separatrix.core.errors import ShapeError, UnsupportedModuleError
from separatrix.core.parametric import Parametric
from separatrix.core.randomness import same_draws
from separatrix.core.structure import as_pairs, from_pairs
from separatrix.core.twin import twin
from separatrix.systems.recurrent import cell_state
from separatrix.systems.recurrent.cell_state import Structure, fill, flatten, skeleton
from separatrix.systems.recurrent.kept import difference
from separatrix.systems.recurrent.standard_network import check_finite, check_initialised, kind_of

__all__ = ["CustomCell", "Structure", "fill", "flatten", "has_tangents", "is_layer", "skeleton"]


class CustomCell(Parametric):
    """Any module of signature (u, state) → state, (out, state) or (state, out).

    The state is a tensor, or tuples, named tuples, dicts or dataclasses of tensors, which the module gets in its own classes.
    Complex numbers are pairs of real ones in the state vector, (Re, Im) each. Which part of what the module returns is its state is
    found out by trying, see Note [Which part is the state].

    What a module may say of itself:
    - `example_state()`, a state of it without batch axes;
    - `pushforward(u, state, tangents) → (state, tangents)`, closed-form tangents with an axis k after the batch axis;
    - `as_cell()`, of a layer that reads whole sequences: its single step, a cell whose state is the layer's own, with an axis of
      layers before the batch axis.

    Args:
        modules: one cell or layer, or the equal ones of an ensemble.
        is_ensemble: stack their weights to an axis of networks.
        example: a state without batch axes; None reads `hidden_size` from the module.
        width: numbers in an input, for a module that has no `input_size`.
        returns: "state", "out, state" or "state, out", where that is to be said; None finds it out.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        is_ensemble: bool = False,
        example: Structure = None,
        width: int | None = None,
        returns: str | None = None,
    ) -> None:
        super().__init__()
        first = modules[0]
        for module in modules:
            check_initialised(module)
            for name, p in module.named_parameters():
                check_finite(name, [p])
        self.label = kind_of(getattr(first, "layer", first) if is_layer(first) else first)
        self.is_ensemble = is_ensemble
        told = getattr(first, "input_size", None)
        self.inputs: int | None = told if isinstance(told, int) else width
        self.is_layer = is_layer(first)
        if self.is_layer and not _is_of_forward(first, "as_cell"):
            hooked = first._forward_hooks or first._forward_pre_hooks
            raise UnsupportedModuleError(
                f"this {self.label} has {'hooks' if hooked else 'a forward'} of its own, so it may compute something else than the "
                f"step it tells.\n{'Remove the hooks, or write' if hooked else 'Write'} as_cell() anew."
            )
        self.batch_first: bool = self.is_layer and getattr(first, "batch_first", False)
        self.layer_axis: bool = self.is_layer and getattr(first, "layer_axis", True)
        modules = [module.as_cell() for module in modules] if self.is_layer else modules
        first = modules[0]
        self.cell = twin(first)
        self.has_tangents = has_tangents(self.cell)
        self._tangents = Tangents()
        tensors = (*first.parameters(), *first.buffers())
        like = next((tensor for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()), torch.zeros(()))
        self.register_buffer("_zero", torch.zeros((), dtype=like.dtype.to_real(), device=like.device), persistent=False)
        self.stacked = Parametric()
        self._names: list[tuple[str, str]] = []
        if is_ensemble:
            self._hold_stacked(modules)
        example = self._example(first) if example is None else example
        self.structure = skeleton(example)
        self._take_shapes(cell_state.shapes_of(example))
        self.place = self._trial(returns)

    @property
    def input_form(self) -> str:
        """The shapes that the cell takes, in words."""
        batched = "batch, time" if self.batch_first else "time, batch"
        return f"inputs of shape (time, {self.inputs or 'inputs'}) or ({batched}, {self.inputs or 'inputs'})"

    def step(self, x: Tensor, u: Tensor) -> Tensor:
        """The state vector after the input u."""
        if self._needs_cast(x):
            return twin(self, dtype=x.dtype).step(x, u)
        if not self.is_ensemble:
            return self._call(self.cell, x, u)

        def one(weights: dict[str, Tensor], x: Tensor, u: Tensor) -> Tensor:
            return self._call(lambda *inputs: functional_call(self.cell, weights, inputs), x, u)

        u = u.expand(*x.shape[:-1], u.shape[-1])
        return vmap(one, in_dims=(0, -2, -2), out_dims=-2, randomness="same")(self._tensors(), x, u)

    def pushforward(self, x: Tensor, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The state vector after the input u and its tangents: by the cell's own pushforward, or automatic differentiation."""
        if self._needs_cast(x):
            return twin(self, dtype=x.dtype).pushforward(x, v, u)
        if not self.has_tangents:
            return self._tangents(lambda y: self.step(y, u), x, v)
        if not self.is_ensemble:
            return self._push(self.cell.pushforward, x, v, u)
        carrier = _TangentCell(self.cell)

        def one(weights: dict[str, Tensor], x: Tensor, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
            return self._push(lambda *inputs: functional_call(carrier, weights, inputs), x, v, u)

        u = u.expand(*x.shape[:-1], u.shape[-1])
        weights = {f"cell.{name}": tensor for name, tensor in self._tensors().items()}
        return vmap(one, in_dims=(0, -2, -3, -2), out_dims=(-2, -3), randomness="same")(weights, x, v, u)

    def pack(self, *parts: Structure) -> Tensor:
        """The module's state, with batch axes → (*batch, dim)."""
        tensors = flatten(parts[0] if len(parts) == 1 else parts)
        if len(tensors) != len(self.shapes):
            raise ShapeError(f"{len(tensors)} tensors were given but this {self.label}'s state has {len(self.shapes)}.")
        if self.layer_axis:
            tensors = [tensor.movedim(0, -2) for tensor in tensors]
        flat = [t.flatten(t.ndim - len(s)) if s else t[..., None] for t, s in zip(tensors, self.shapes, strict=True)]
        return torch.cat([as_pairs(t) if c else t for t, c in zip(flat, self.are_complex, strict=True)], -1)

    def unpack(self, x: Tensor) -> Structure:
        """(*batch, dim) → the module's state; (*batch, k, dim) → the tangents of its state."""
        split = x.split(self._sizes, dim=-1)
        pieces = [from_pairs(piece) if c else piece for piece, c in zip(split, self.are_complex, strict=True)]
        parts = [piece.reshape(*x.shape[:-1], *shape) for piece, shape in zip(pieces, self.shapes, strict=True)]
        if self.layer_axis:
            parts = [part.movedim(-2, 0) for part in parts]
        return fill(self.structure, iter(parts))

    @property
    def _returns_output(self) -> bool:
        """Whether the cell returns an output beside its state."""
        return self.place is not None

    def state_in(self, returned: Any) -> Structure:
        """The state in what the cell returned."""
        return cell_state.part_of(returned, self.place)

    def _take_shapes(self, shapes: list[tuple[tuple[int, ...], bool]]) -> None:
        """The shapes of the state's tensors, and which of them are complex."""
        self.shapes = [shape for shape, _ in shapes]
        self.are_complex = [is_complex for _, is_complex in shapes]
        self._sizes = [torch.Size(shape).numel() * (1 + is_complex) for shape, is_complex in shapes]
        self.dim = sum(self._sizes)

    def _needs_cast(self, x: Tensor) -> bool:
        """Whether the weights must be cast to the state's dtype; within a run they already are."""
        return self._zero.dtype != x.dtype and x.is_floating_point()

    def _call(self, cell: Any, x: Tensor, u: Tensor) -> Tensor:
        """Cells are written for one batch axis, so the run's axes are folded into one."""
        batch = x.shape[:-1]
        u = u.expand(*batch, u.shape[-1]).reshape(-1, u.shape[-1])
        result = cell(u, self.unpack(x.reshape(-1, self.dim)))
        return self.pack(self.state_in(result)).reshape(*batch, self.dim)

    def _push(self, cell: Any, x: Tensor, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The cell's own tangents, with the run's axes folded into one."""
        batch, k = x.shape[:-1], v.shape[-2]
        u = u.expand(*batch, u.shape[-1]).reshape(-1, u.shape[-1])
        v = v.expand(*batch, k, self.dim).reshape(-1, k, self.dim)
        after, pushed = cell(u, self.unpack(x.reshape(-1, self.dim)), self.unpack(v))
        return self.pack(after).reshape(*batch, self.dim), self.pack(pushed).reshape(*batch, k, self.dim)

    def _tensors(self) -> dict[str, Tensor]:
        """The weights of an ensemble, with an axis of networks in front, by the cell's own names."""
        return {name: getattr(self.stacked, key) for name, key in self._names}

    def _example(self, cell: nn.Module) -> Structure:
        """A state without batch axes: what the cell says, or of its hidden size."""
        if callable(getattr(cell, "example_state", None)):
            return cell.example_state()
        width = getattr(cell, "hidden_size", None)
        if not isinstance(width, int):
            raise UnsupportedModuleError(
                f"{type(cell).__name__} is no known recurrent module, and has no hidden_size that tells its state's width.\n"
                "Name the recurrent module inside your model. If this is a cell, give it example_state(), which returns a state "
                "without batch axes; or sx.Recurrent(cell, state=…)."
            )
        return (torch.zeros(width), torch.zeros(width)) if isinstance(cell, nn.LSTMCell) else torch.zeros(width)

    def _trial(self, returns: str | None) -> int | None:
        """Which part of what the cell returns is its state (None: all of it), told by one call, or two."""
        zeros = self.unpack(self._zero.new_zeros(1, self.dim))
        u = self._zero.new_zeros(1, self.inputs or 1)
        try:
            with torch.no_grad(), same_draws():
                result = twin(self.cell, apart=True)(u, zeros)
        except Exception as error:  # the user's code: whatever it raises is the message
            raise UnsupportedModuleError(
                f"{self.label}(u, state) failed on a batch of 1 with zero inputs and zero state: {type(error).__name__}: {error}\n"
                "A cell takes (u, state) and returns its new state, or (out, state); give it input_size, or pass state=."
            ) from error
        found = cell_state.places(result, zeros)
        if not found:
            raise cell_state.misfit(self.label, zeros, result)
        if returns is not None:
            place = cell_state.place_in(result, returns)
            if place not in found:
                raise cell_state.misfit(self.label, zeros, cell_state.part_of(result, place))
        else:
            place = found[0] if len(found) == 1 else self._chosen()
        became = [c for _, c in cell_state.shapes_of(cell_state.part_of(result, place))]
        if any(new and not old for new, old in zip(became, self.are_complex, strict=True)):
            self._take_shapes([(s, c or n) for s, c, n in zip(self.shapes, self.are_complex, became, strict=True)])
            return self._trial(returns)
        return place

    def _chosen(self) -> int:
        """Which of several parts is the state, at a normally distributed input and state."""
        draw = torch.Generator().manual_seed(0)
        u, x = (torch.randn(1, width, dtype=torch.float64, generator=draw) for width in (self.inputs or 1, self.dim))
        with same_draws():
            return cell_state.chosen(twin(self.cell, apart=True), u.to(self._zero), self.unpack(x.to(self._zero)), self.label)

    def _hold_stacked(self, modules: Sequence[nn.Module]) -> None:
        states = [{**dict(module.named_parameters()), **dict(module.named_buffers())} for module in modules]
        shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in states]
        if any(shape != shapes[0] for shape in shapes):
            raise ShapeError("an ensemble's networks have equal shapes, but these differ.\nMeasure them one by one.")
        for other in modules[1:]:
            differs = difference(modules[0], other)
            if differs is not None:
                name, first, second = differs
                raise UnsupportedModuleError(
                    f"an ensemble's networks differ in the plain attribute {name}: {first}, {second}, ….\n"
                    "Make it a buffer (register_buffer), which gets an axis of networks, or measure them one by one."
                )
        for name, tensor in states[0].items():
            key = _attribute(name)
            self._names.append((name, key))
            self.stacked.hold(rank=tensor.ndim, **{key: torch.stack([state[name] for state in states])})


def _attribute(name: str) -> str:
    """A dotted name as that of one attribute: with slashes, which no part of it has, so that no two names meet."""
    key = name.replace(".", "/")
    return f"{key}/" if hasattr(Parametric, key) else key


class _TangentCell(nn.Module):
    """A cell's pushforward as the call of a module, so that it may be given other weights."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, u: Tensor, state: Structure, tangents: Structure) -> tuple[Structure, Structure]:
        """The state after the input u, and its tangents."""
        return self.cell.pushforward(u, state, tangents)


def is_layer(module: nn.Module) -> bool:
    """Whether a module of one's own reads whole sequences, and tells its step."""
    return callable(getattr(module, "as_cell", None))


def has_tangents(cell: nn.Module) -> bool:
    """Whether a cell brings its own tangents."""
    return callable(getattr(cell, "pushforward", None)) and _is_of_forward(cell, "pushforward")


def _is_of_forward(module: nn.Module, method: str) -> bool:
    """Whether what a method says of `forward` still holds: not where a subclass or a hook has changed the call since."""
    told, called = (_definer(type(module), name) for name in (method, "forward"))
    is_hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return issubclass(told, called) and not is_hooked


def _definer(kind: type, name: str) -> type:
    """The class that defines an attribute, of those that a class inherits from."""
    return next((own for own in kind.__mro__ if name in vars(own)), object)
