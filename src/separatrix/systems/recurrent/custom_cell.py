"""A custom recurrent cell, (u, state) → state or (out, state), as a function of a state vector."""

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
from separatrix.systems.recurrent.time_axis import reads_batch_first

__all__ = ["CustomCell", "Structure", "fill", "flatten", "has_tangents", "is_layer", "skeleton"]


class CustomCell(Parametric):
    """Custom cell: any module of signature (u, state) → state, (out, state) or (state, out).

    The state is a tensor, or tuples, named tuples, dicts or dataclasses of tensors; the module receives it in the same classes.
    In the state vector, complex numbers are pairs (Re, Im) of real ones. A trial call shows which part of the return value is the
    state; see Note [Which part is the state].

    Optional methods of the module:
    - `example_state()` returns a state without batch axes;
    - `pushforward(u, state, tangents) → (state, tangents)` returns closed-form tangents, with an axis k after the batch axis;
    - `as_cell()`, for a layer that reads whole sequences, returns its single step, a cell whose state is that of the layer, with
      an axis of layers before the batch axis.

    Args:
        modules: one cell or layer, or the equal ones of an ensemble.
        is_ensemble: stack their weights along an axis of networks.
        example: a state without batch axes; None reads `hidden_size` from the module.
        width: length of an input, for a module without `input_size`.
        returns: "state", "out, state" or "state, out"; None infers it.
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
        declared = getattr(first, "input_size", None)
        self.inputs: int | None = declared if isinstance(declared, int) else width
        self.is_layer = is_layer(first)
        if self.is_layer and not _is_of_forward(first, "as_cell"):
            hooked = first._forward_hooks or first._forward_pre_hooks
            raise UnsupportedModuleError(
                f"this {self.label} has {'hooks' if hooked else 'a forward'} of its own, so it may differ from the step that its "
                f"as_cell() returns.\n{'Remove the hooks, or override' if hooked else 'Override'} as_cell()."
            )
        self.batch_first: bool = self.is_layer and reads_batch_first(first)
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
        """The input shapes that the cell accepts, as text."""
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
        """The state vector after the input u and its tangents, by the cell's own pushforward or automatic differentiation."""
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
            raise ShapeError(f"the state of this {self.label} consists of {len(self.shapes)} tensors, got {len(tensors)}.")
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
        """Whether the cell returns an output and its state."""
        return self.place is not None

    def state_in(self, returned: Any) -> Structure:
        """The state in the cell's return value."""
        return cell_state.part_of(returned, self.place)

    def _take_shapes(self, shapes: list[tuple[tuple[int, ...], bool]]) -> None:
        """Store the shapes of the state's tensors and which of them are complex."""
        self.shapes = [shape for shape, _ in shapes]
        self.are_complex = [is_complex for _, is_complex in shapes]
        self._sizes = [torch.Size(shape).numel() * (1 + is_complex) for shape, is_complex in shapes]
        self.dim = sum(self._sizes)

    def _needs_cast(self, x: Tensor) -> bool:
        """Whether the weights must be cast to the dtype of the state; within a run they already are."""
        return self._zero.dtype != x.dtype and x.is_floating_point()

    def _call(self, cell: Any, x: Tensor, u: Tensor) -> Tensor:
        """Call a cell with the batch axes of the run flattened into the one axis that cells are written for."""
        batch = x.shape[:-1]
        u = u.expand(*batch, u.shape[-1]).reshape(-1, u.shape[-1])
        result = cell(u, self.unpack(x.reshape(-1, self.dim)))
        return self.pack(self.state_in(result)).reshape(*batch, self.dim)

    def _push(self, cell: Any, x: Tensor, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The cell's own tangents, with the batch axes of the run flattened into one."""
        batch, k = x.shape[:-1], v.shape[-2]
        u = u.expand(*batch, u.shape[-1]).reshape(-1, u.shape[-1])
        v = v.expand(*batch, k, self.dim).reshape(-1, k, self.dim)
        after, pushed = cell(u, self.unpack(x.reshape(-1, self.dim)), self.unpack(v))
        return self.pack(after).reshape(*batch, self.dim), self.pack(pushed).reshape(*batch, k, self.dim)

    def _tensors(self) -> dict[str, Tensor]:
        """The weights of an ensemble, with an axis of networks first, by the cell's names."""
        return {name: getattr(self.stacked, key) for name, key in self._names}

    def _example(self, cell: nn.Module) -> Structure:
        """A state without batch axes: the cell's example, or zeros of its hidden size."""
        if callable(getattr(cell, "example_state", None)):
            return cell.example_state()
        width = getattr(cell, "hidden_size", None)
        if not isinstance(width, int):
            raise UnsupportedModuleError(
                f"expected a recurrent module or a cell with a hidden_size, got a {type(cell).__name__}.\n"
                "Name the recurrent module inside your model, or pass it: sx.Recurrent(model.rnn). If this is a cell, give it an "
                "attribute hidden_size, the length of its state, or a method example_state() that returns a state without batch "
                "axes, or pass such a state: sx.Recurrent(cell, state=…)."
            )
        return (torch.zeros(width), torch.zeros(width)) if isinstance(cell, nn.LSTMCell) else torch.zeros(width)

    def _trial(self, returns: str | None) -> int | None:
        """Index of the part of the return value that is the state (None: the whole value), from one trial call or two."""
        zeros = self.unpack(self._zero.new_zeros(1, self.dim))
        u = self._zero.new_zeros(1, self.inputs or 1)
        try:
            with torch.no_grad(), same_draws():
                result = twin(self.cell, apart=True)(u, zeros)
        except Exception as error:  # user code may raise anything; the message repeats it
            raise UnsupportedModuleError(
                f"{self.label}(u, state) failed on a batch of 1 with zero inputs and zero state: {type(error).__name__}: {error}\n"
                "A cell takes (u, state) and returns its new state, or (out, state). The length of u is that of the inputs, or the "
                "cell's attribute input_size; the shape of the state is that of state=, or the cell's attribute hidden_size."
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
        """Decide which of several parts is the state, at a random input and state."""
        draw = torch.Generator().manual_seed(0)
        u, x = (torch.randn(1, width, dtype=torch.float64, generator=draw) for width in (self.inputs or 1, self.dim))
        with same_draws():
            return cell_state.chosen(twin(self.cell, apart=True), u.to(self._zero), self.unpack(x.to(self._zero)), self.label)

    def _hold_stacked(self, modules: Sequence[nn.Module]) -> None:
        states = [{**dict(module.named_parameters()), **dict(module.named_buffers())} for module in modules]
        shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in states]
        if any(shape != shapes[0] for shape in shapes):
            raise ShapeError("expected an ensemble of networks with equal shapes, but they differ.\nMeasure them one by one.")
        for other in modules[1:]:
            differs = difference(modules[0], other)
            if differs is not None:
                name, first, second = differs
                raise UnsupportedModuleError(
                    f"the networks of the ensemble differ in the plain attribute {name}: {first}, {second}, ….\n"
                    "Make it a buffer (register_buffer), which gets an axis of networks, or measure them one by one."
                )
        for name, tensor in states[0].items():
            key = _attribute(name)
            self._names.append((name, key))
            self.stacked.hold(rank=tensor.ndim, **{key: torch.stack([state[name] for state in states])})


def _attribute(name: str) -> str:
    """A dotted name as the name of one attribute: with slashes, which no attribute contains, so that names stay distinct."""
    key = name.replace(".", "/")
    return f"{key}/" if hasattr(Parametric, key) else key


class _TangentCell(nn.Module):
    """A cell's pushforward as the call of a module, so that its weights can be replaced."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, u: Tensor, state: Structure, tangents: Structure) -> tuple[Structure, Structure]:
        """The state after the input u, and its tangents."""
        return self.cell.pushforward(u, state, tangents)


def is_layer(module: nn.Module) -> bool:
    """Whether a custom module reads whole sequences and provides its step."""
    return callable(getattr(module, "as_cell", None))


def has_tangents(cell: nn.Module) -> bool:
    """Whether a cell provides its own tangents."""
    return callable(getattr(cell, "pushforward", None)) and _is_of_forward(cell, "pushforward")


def _is_of_forward(module: nn.Module, method: str) -> bool:
    """Whether a method still describes `forward`: not if a subclass or a hook has changed the call since."""
    described, called = (_definer(type(module), name) for name in (method, "forward"))
    is_hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return issubclass(described, called) and not is_hooked


def _definer(kind: type, name: str) -> type:
    """The class in a class's inheritance chain that defines an attribute."""
    return next((own for own in kind.__mro__ if name in vars(own)), object)
