"""A network's layers as functions of its input, whatever its graph: found by hooks in a twin, in the order in which they run."""

import difflib
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from separatrix.analysis.depth.item_axes import ItemAxes, one_call
from separatrix.core.derivative import changed_derivative
from separatrix.core.errors import InputError, ModelError, ShapeError, UnsupportedModuleError
from separatrix.core.randomness import torch_generator
from separatrix.core.system import System
from separatrix.core.tangent import RUNGS, climb, no_derivative, plain_kernels
from separatrix.core.twin import twin
from separatrix.core.wording import counted
from separatrix.core.wrappers import bare
from separatrix.flows.field import Field

Call = tuple[str, int]  # a module's name and which of its calls, from 1 on
TOGETHER = 8  # items that are held against each of them alone
TRIES = 3  # passes in which a model that draws at random may still make the same
AGREEMENT = 1e-4  # by which an item alone may differ from the same item in a batch, relative to its largest number: float32's sums

# Note [Layers by hooks]
# A hook keeps a copy of each module's first floating-point output, so that an in-place layer behind it writes elsewhere, and the
# edge of the autograd graph at which that output was made. The copies are what J is taken of. The edges say which layers carry
# the whole signal: those without whose edge the graph no longer joins the output to the input. They also say where the gradient
# of a loss is to be read off. One forward pass of one item finds all of this; no symbolic trace of the user's code is needed.


@dataclass(frozen=True)
class Layer:
    """One call of one module.

    Args:
        name: of the module in the model, with ":2", ":3" … for its further calls; "output" for the model's own.
        kind: the module's class.
        call: the module and which of its calls.
        width: numbers in its output, for each item.
        cut: whether the whole signal passes through it.
        alias: whether its output is that of a layer before it, unchanged.
        trouble: why there is no Jacobian of it, or empty.
    """

    name: str
    kind: str
    call: Call
    width: int = 0
    cut: bool = False
    alias: bool = False
    trouble: str = ""


@dataclass
class _Made:
    """What a hook saw: a copy of a layer's output, and the edge at which it was made."""

    call: Call
    kind: str
    value: Tensor | None
    given: Tensor | None = None
    original: Tensor | None = None
    version: int = 0
    edge: GradientEdge | None = None


class _ReachedError(Exception):
    """Raised by the hook of the last layer that is wanted: the rest of the forward pass is not needed."""


class LayeredNetwork:
    """The twin of a model with a hook on each module, and its inputs.

    Args:
        model: any module.
        inputs: what it takes: a tensor, an array, a tuple of several, a dict of named ones, or an `Arguments`.
        batch_axis: the axis of the inputs, and of every layer's output, along which items lie; None where there is but one item.
        origin: the layer whose output is taken as the input of the Jacobians, or None for the model's first floating-point one.
        dtype: of the computation.
    """

    def __init__(self, model: nn.Module, inputs: Any, *, batch_axis: int | None, origin: str | None, dtype: torch.dtype) -> None:
        model = bare(model)
        _check_model(model)
        self.model_name = type(model).__name__
        device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
        self.axis = batch_axis
        self.given = one_call(model, inputs, dtype)
        self.arguments = self.given.tensors()
        self.twin = twin(model, dtype=dtype, device=device, apart=True)
        self.item_axes = ItemAxes(self.twin, self.given, batch_axis)
        self.items = self.item_axes.count
        self._rung = 0
        self._watch = _watch(self.twin)
        self.names = list(self._watch.kinds)
        self.source_index, self.origin = self._place_of_source(origin)
        self.source, self.shape = self._source()
        self.layers = self._discover()

    def forward(self, z: Tensor, items: slice, calls: Sequence[Call] | None, early: bool = True) -> tuple[list[_Made], Any]:
        """One pass from the sources z, (items, dim).

        Returns:
            What the wanted calls (None: all) made, and the model's output (None if the pass ended early).
        """
        arguments = self.item_axes.take(items)
        value = self._shaped(z)
        if self.origin is None:
            arguments[self.source_index] = value
        self._watch.begin(None if calls is None else set(calls), early, None if self.origin is None else {self.origin: value})
        try:
            output = self.given.with_tensors(arguments).call(self.twin)
        except _ReachedError:
            output = None
        return self._watch.made, output

    def rows(self, value: Tensor) -> Tensor:
        """A layer's output as one row an item, shape (items, width)."""
        if self.axis is None:
            return value.reshape(1, -1)
        return value.movedim(self.axis, 0).reshape(value.shape[self.axis], -1)

    def push(self, z: Tensor, v: Tensor, items: slice, calls: Sequence[Call]) -> list[Tensor]:
        """Tangents carried to several layers at once: (items, k, dim) → for each call (items, k, width)."""
        widths: list[int] = []

        def all_layers(at: Tensor) -> Tensor:
            made, _ = self.forward(at, items, calls)
            found = {one.call: one.value for one in made}
            rows = [self._rows_of(found[call], len(at)) for call in calls]
            widths[:] = [row.shape[-1] for row in rows]
            return torch.cat(rows, dim=-1)

        with torch.no_grad():
            _, pushed, self._rung = climb(all_layers, z, v, self._rung)
        return list(pushed.split(widths, dim=-1))

    def settle_derivative(self, calls: Sequence[Call], seed: int) -> None:
        """Where forward mode and autograd differ, take autograd's derivative both ways.

        Forward mode goes through what a model does under `torch.no_grad`; gradients do not. ⟨w, J v⟩ = ⟨Jᵀ w, v⟩ tells.
        """
        first, generator = slice(0, 1), torch_generator(seed, "check of derivatives")
        z = self.source[first]
        v = torch.randn(1, 1, z.shape[-1], dtype=torch.float64, generator=generator).to(z)
        traced = self.traced(first, calls)
        for i, pushed in enumerate(self.push(z, v, first, calls)):
            w = torch.randn(pushed.shape, dtype=torch.float64, generator=generator).to(z)
            back = traced.pull(i, w)
            apart = (w * pushed).sum() - (v * back).sum()
            if apart.abs() > AGREEMENT * (w.norm() * pushed.norm() + v.norm() * back.norm()):
                self._rung = len(RUNGS) - 1

    def changed_derivative(self, layer: Layer) -> str:
        """That the derivative at a layer is not that of what the network does; empty where it is. See `changed_derivative`."""
        first = slice(0, 1)

        def value(z: Tensor) -> Tensor:
            made, _ = self.forward(z, first, [layer.call])
            return self._rows_of(made[0].value, len(z))

        with plain_kernels():
            changed = changed_derivative(value, self.source[first], lambda z, v: self.push(z, v, first, [layer.call])[0])
        if changed is None:
            return ""
        return (
            f"gradients are not what the network does: along one direction the derivative of a number at '{layer.name}' is "
            f"{changed[0]:.3g}, while it changes by {changed[1]:.3g} (detach, no_grad, straight-through)"
        )

    @property
    def by_autograd_only(self) -> bool:
        """Whether tangents are pushed by reverse mode, twice."""
        return self._rung == len(RUNGS) - 1

    def traced(self, items: slice, calls: Sequence[Call]) -> "Traced":
        """One pass with its autograd graph."""
        with plain_kernels(), torch.enable_grad():
            z = self.source[items].detach().clone().requires_grad_()
            made, output = self.forward(z, items, calls, early=False)
            found = {one.call: one for one in made}
            values = [self._rows_of(found[call].value, len(z)) for call in calls]
            result = floating(output)
        if result is None:
            raise InputError("the model returned a floating-point tensor in one forward pass, and none in another.")
        return Traced(z, values, [found[call].edge for call in calls], result)

    def choose(self, layers: Sequence[str] | str | None) -> list[Layer]:
        """The layers of these names, each in all of its calls; by default all that are not another's unchanged output."""
        if layers is None:
            return [layer for layer in self.layers if not (layer.alias or layer.trouble)]
        wanted = [layers] if isinstance(layers, str) else list(layers)
        if not all(isinstance(name, str) for name in wanted):
            raise InputError(f"layers are {wanted}; they are names, as in model.named_modules().")
        if not wanted:
            raise InputError("layers is empty: there is nothing to profile.\nName some layers, or leave it out for all.")
        chosen: set[Layer] = set()
        for name in wanted:
            found = [layer for layer in self.layers if name in (layer.name, layer.call[0])]
            if not found:
                raise InputError(self._no_such_layer(name))
            for layer in found:
                if layer.trouble:
                    raise InputError(f"there is no Jacobian of the layer {name!r}: {layer.trouble}.\nLeave it out.")
            chosen.update(found)
        return [layer for layer in self.layers if layer in chosen]

    def _no_such_layer(self, name: str) -> str:
        base = name.rsplit(":", 1)[0]
        if base in self.names:
            reached = sum(layer.call[0] == base for layer in self.layers)
            often = f"is called {counted(reached, 'time')}" if reached else "is not reached"
            return f"the layer {name!r} {often} in the forward pass of these inputs.\nName one that they reach."
        known = [layer.name for layer in self.layers if not layer.trouble]
        near = difflib.get_close_matches(name, known, n=5) or known[:8]
        return f"{self.model_name} has no layer named {name!r}.\nNearest: {', '.join(near)}."

    def _shaped(self, z: Tensor) -> Tensor:
        """Rows as the model takes them; a copy, since the model may write to its input."""
        if self.axis is None:
            return z.reshape(self.shape).clone()
        return z.reshape(len(z), *self.shape).movedim(0, self.axis).clone()

    def _rows_of(self, value: Tensor | None, items: int) -> Tensor:
        if value is None:
            raise InputError("a layer returned a floating-point tensor in one forward pass, and none in another.")
        return self.rows(value) if self.axis != 0 else value.reshape(items, -1)

    def _place_of_source(self, origin: str | None) -> tuple[int, Call | None]:
        """Which argument the Jacobians are taken with respect to, or which layer's output."""
        if origin is not None:
            if origin not in self.names:
                near = difflib.get_close_matches(origin, self.names, n=5, cutoff=0.3) or self.names[:8]
                raise InputError(f"{self.model_name} has no layer named {origin!r} to begin at.\nNearest: {', '.join(near)}.")
            return -1, (origin, 1)
        places = [i for i, a in enumerate(self.arguments) if a.is_floating_point()]
        if places:
            return places[0], None
        made = [one for one in self._plain_pass(slice(0, self.items)) if one.value is not None and one.call[0]]
        found = next((one for one in made if self._looks_up(one)), None) or next(iter(made), None)
        if found:
            return -1, found.call
        raise InputError(
            "the inputs are whole numbers and no layer turns them into floating-point ones: there is no derivative to take.\n"
            "Pass floating-point inputs, or name with origin= the layer at whose output the profile begins."
        )

    def _looks_up(self, made: _Made) -> bool:
        """Whether a layer was given one of the model's own arguments."""
        given = made.given
        return given is not None and any(torch.equal(a, given) for a in self.arguments)

    def _source(self) -> tuple[Tensor, torch.Size]:
        """The sources as rows, (items, dim), and the shape of one item."""
        if self.origin is None:
            value = self.arguments[self.source_index]
        else:
            found = {one.call: one.value for one in self._plain_pass(slice(0, self.items))}
            value = found.get(self.origin)
            if value is None:
                raise InputError(
                    f"the layer {self.origin[0]!r}, at which the profile is to begin, is not reached, or returns no floating-point "
                    "tensor.\nName another with origin=."
                )
        if self.axis is None:
            return value.reshape(1, -1), value.shape
        if value.ndim <= self.axis or value.shape[self.axis] != self.items:
            raise ShapeError(
                f"the profile would begin at {self.origin and self.origin[0]!r}, whose output of shape {tuple(value.shape)} does "
                f"not have the {self.items} items of the inputs along axis {self.axis}.\nName another layer with origin=."
            )
        moved = value.movedim(self.axis, 0)
        return moved.reshape(self.items, -1).contiguous(), moved.shape[1:]

    def _plain_pass(self, items: slice) -> list[_Made]:
        """A forward pass from the arguments as they are, without a graph."""
        self._watch.begin(None, False, None)
        with plain_kernels(), torch.no_grad():
            self._guarded(lambda: self.given.with_tensors(self.item_axes.take(items)).call(self.twin))
        return self._watch.made

    def _guarded(self, run: Callable[[], Any]) -> Any:
        try:
            return run()
        except Exception as error:  # the user's code: whatever it raises is the message
            shapes = self.given.shapes
            alone = "" if self.axis is None or self.items == 1 else f", of which one item along axis {self.axis} was passed alone"
            raise InputError(
                f"{self.model_name} failed on inputs {shapes}{alone}: {type(error).__name__}: {_first_line(error)}\n"
                f"{self.given.way_out} sx.depth_profile also takes batch_axis, where items lie (None: none), and "
                "dtype=torch.float32, for a model that insists on it."
            ) from error

    def _discover(self) -> list[Layer]:
        """Every call of every module, in the order in which they end. See Note [Layers by hooks]."""
        made, output, z = self._first_pass(slice(0, 1))
        result = floating(output)
        if result is None:
            what = type(output).__name__ if not isinstance(output, Tensor) else f"tensor of {output.dtype}".replace("torch.", "")
            raise InputError(f"{self.model_name} returned a {what}, and no floating-point tensor whose derivative could be taken.")
        end = get_gradient_edge(result) if result.requires_grad else None
        if end is None or not _joins(end, get_gradient_edge(z).node, None):
            raise InputError(f"the output of {self.model_name} does not depend on its input: there is no derivative between them.")
        return self._with_layouts_checked(self._layers_of(made, output, z), made)

    def _layers_of(self, made: list[_Made], output: Any, z: Tensor) -> list[Layer]:
        """The calls of one pass as layers."""
        start, end = get_gradient_edge(z).node, get_gradient_edge(floating(output))
        layers, seen = [], []
        for one in made:
            if one.value is None:
                layers.append(_layer(one, trouble="it returns no floating-point tensor"))
                continue
            if one.value.numel() == 0:
                layers.append(_layer(one, trouble="its output is empty"))
                continue
            if _is_in_transform(one.value):
                layers.append(_layer(one, trouble="it runs within torch.func, as no function of one input"))
                continue
            alias = any(one.original is other and one.version == version for other, version in seen)
            depends = one.edge is not None and _joins(one.edge, start, None)
            if depends:
                seen.append((one.original, one.version))
            trouble = "" if depends else "its output does not depend on the input"
            cut = depends and not _joins(end, start, one.edge)
            layers.append(_layer(one, width=one.value.numel(), cut=cut, alias=alias, trouble=trouble))
        return layers

    def _first_pass(self, items: slice) -> tuple[list[_Made], Any, Tensor]:
        with plain_kernels(), torch.enable_grad():
            z = self.source[items].detach().clone().requires_grad_()
            made, output = self._guarded(lambda: self.forward(z, items, None, early=False))
        return made, output, z

    def _with_layouts_checked(self, layers: list[Layer], first: list[_Made]) -> list[Layer]:
        """Items must be independent of each other and lie in order: each alone gives what it gives beside others."""
        if self.axis is None or self.items == 1:
            self._check_repeats(first)
            return layers
        shapes = {one.call: one.value.shape for one in first if one.value is not None and not _is_in_transform(one.value)}
        wholes = {_depth_of_signal(layers)}
        parted, mixed = set[Call](), set[Call]()
        for items in self._checked_together():
            alone = [self._values(slice(i, i + 1)) for i in range(items.start, items.stop)]
            parted |= {call for call in shapes if any(call not in one or one[call].shape != shapes[call] for one in alone)}
            wholes |= {self._whole_alone(i) for i, one in enumerate(alone, items.start) if not _same_way(one, shapes)}
            together = self._values(items) if len(alone) > 1 else alone[0]
            for call in shapes.keys() - parted:
                if call not in together or not self._agree([one[call] for one in alone], together[call]):
                    mixed.add(call)
        if layers[-1].call in mixed | parted:
            self._check_repeats(first)
            raise InputError(
                f"the items along axis {self.axis} of the inputs are not independent: an item alone gives another output than "
                "beside another one.\n"
                "Say with batch_axis where items lie (sequence first: 1), or batch_axis=None where the inputs are one item."
            )
        if len(wholes) > 1:
            raise InputError(
                f"the inputs take ways of different depth through {self.model_name}: between {min(wholes)} and {max(wholes)} "
                "layers carry the whole signal, so there is no common depth.\nProfile inputs that take the same way."
            )
        told = dict.fromkeys(parted, "not all inputs pass it alike: the model chooses the way by the numbers")
        told |= dict.fromkeys(mixed - parted, "its output mixes the items of the batch, or has them in another order")
        return [replace(layer, trouble=layer.trouble or told.get(layer.call, "")) for layer in layers]

    def _checked_together(self) -> list[slice]:
        """The items in batches of a few."""
        return [slice(i, min(i + TOGETHER, self.items)) for i in range(0, self.items, TOGETHER)]

    def _values(self, items: slice) -> dict[Call, Tensor]:
        """What every call makes of some items, without a graph."""
        with plain_kernels(), torch.no_grad():
            made, _ = self._guarded(lambda: self.forward(self.source[items], items, None, early=False))
        return {one.call: one.value for one in made if one.value is not None and not _is_in_transform(one.value)}

    def _whole_alone(self, item: int) -> int:
        """How many layers carry the whole signal of one item, whose way through the model is its own."""
        return _depth_of_signal(self._layers_of(*self._first_pass(slice(item, item + 1))))

    def _check_repeats(self, first: list[_Made]) -> None:
        """Refuse a model that draws at random."""
        if not all(self._repeats(first) for _ in range(TRIES)):
            raise InputError(
                "two forward passes of the same input differ: the model draws at random, even in evaluation mode.\n"
                "Take the draws out: F.dropout(x, p, training=self.training), or nn.Dropout."
            )

    def _repeats(self, first: list[_Made]) -> bool:
        """Whether another pass of the first item makes the same."""
        again, _, _ = self._first_pass(slice(0, 1))
        return len(first) == len(again) and all(_equal(a.value, b.value) for a, b in zip(first, again, strict=True))

    def _agree(self, alone: list[Tensor], together: Tensor) -> bool:
        axis = self.axis or 0
        if not all(value.ndim > axis and (axis == 0 or value.shape[axis] == 1) for value in alone):
            return False
        joined = torch.cat(alone, dim=axis)
        if joined.shape != together.shape:
            return False
        apart = (joined - together).abs()
        size = together.abs().nan_to_num(0.0).amax().clamp(min=1e-30) if together.numel() else 1.0
        return bool((apart <= AGREEMENT * size).logical_or(~together.isfinite()).all())


@dataclass(frozen=True)
class Traced:
    """A forward pass with its graph.

    Args:
        z: the sources, (items, dim).
        values: each layer's output as rows, (items, width).
        edges: at which each was made.
        output: of the model.
    """

    z: Tensor
    values: list[Tensor]
    edges: list[GradientEdge | None]
    output: Tensor

    def pull(self, layer: int, w: Tensor) -> Tensor:
        """Cotangents carried back to the source: (items, k, width) → (items, k, dim)."""
        value, rows = self.values[layer], w.movedim(-2, 0).to(self.z.dtype)
        keep: dict[str, Any] = {"retain_graph": True, "materialize_grads": True}
        with plain_kernels():
            try:
                (back,) = torch.autograd.grad(value, self.z, rows, is_grads_batched=True, **keep)
            except (RuntimeError, NotImplementedError):  # an operator without a batched derivative: one row after the other
                back = torch.stack([_grad(value, self.z, row, **keep)[0] for row in rows])
        return back.movedim(0, -2)

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """The gradient of a loss at each layer, in the layer's own shape."""
        wanted = [edge for edge in self.edges if edge is not None]
        with plain_kernels():
            found = _grad(loss, wanted, retain_graph=True, allow_unused=True)
        return [
            torch.zeros_like(value) if gradient is None else gradient for gradient, value in zip(found, self.values, strict=True)
        ]


def _grad(*given: Any, **options: Any) -> tuple[Tensor, ...]:
    """`torch.autograd.grad`; what a backward of the model's raises is said as such."""
    try:
        return torch.autograd.grad(*given, **options)
    except (RuntimeError, NotImplementedError) as error:
        raise no_derivative("the model", error) from error


class _Watch:
    """What the hooks write to."""

    def __init__(self, kinds: dict[str, str]) -> None:
        self.kinds = kinds
        self.begin(None, False, None)

    def begin(self, wanted: set[Call] | None, early: bool, injected: dict[Call, Tensor] | None) -> None:
        """Forget the pass before."""
        self.made: list[_Made] = []
        self.calls: Counter[str] = Counter()
        self.wanted, self.early, self.injected = wanted, early, injected or {}
        self.missing = None if wanted is None else len(wanted)

    def hook(self, name: str) -> Callable[..., Any]:
        """The hook of one module."""

        def write_down(_: nn.Module, given: Any, returned: Any) -> Any:
            self.calls[name] += 1
            call = (name, self.calls[name])
            if call in self.injected:
                return self.injected[call].clone()
            if self.wanted is None or call in self.wanted:
                self.made.append(_keep(call, self.kinds[name], given, returned))
                if self.early and len(self.made) == self.missing:
                    raise _ReachedError
            return None

        return write_down


def _watch(root: nn.Module) -> _Watch:
    """Hooks on every module of a twin, in dictionaries of the twin's own."""
    parts = {name: part for name, part in root.named_modules() if not isinstance(part, torch.jit.ScriptModule)}
    watch = _Watch({name: type(part).__name__ for name, part in parts.items()})
    for name, part in parts.items():
        part.__dict__["_forward_hooks"] = OrderedDict(part._forward_hooks)
        part.register_forward_hook(watch.hook(name))
    return watch


def _keep(call: Call, kind: str, given: Any, returned: Any) -> _Made:
    value = floating(returned)
    if value is None:
        return _Made(call, kind, None)
    edge = get_gradient_edge(value) if value.requires_grad else None
    version = 0 if value.is_inference() else value._version
    tokens = given[0] if given and isinstance(given[0], Tensor) and not given[0].is_floating_point() else None
    return _Made(call, kind, value.clone(), tokens, value, version, edge)


def floating(value: Any) -> Tensor | None:
    """The first floating-point tensor in what a module returns."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return next((found for part in parts if (found := floating(part)) is not None), None)


def _layer(made: _Made, **facts: Any) -> Layer:
    name, number = made.call
    return Layer((name or "output") + (f":{number}" if number > 1 else ""), made.kind, made.call, **facts)


def _joins(end: GradientEdge, start: Node, without: GradientEdge | None) -> bool:
    """Whether the graph leads from the edge `end` back to the node `start`, not passing the edge `without`."""
    closed = None if without is None else (without.node, without.output_nr)
    todo, seen = [(end.node, end.output_nr)], set()
    while todo:
        node, number = todo.pop()
        if node is None or (node, number) == closed or node in seen:
            continue
        if node is start:
            return True
        seen.add(node)
        todo.extend(node.next_functions)
    return False


def _check_model(model: Any) -> None:
    if isinstance(model, System) and not model.layered:
        raise UnsupportedModuleError(
            f"a {type(model).__name__} is a System: its depth is its time.\nMeasure it with sx.finite_time_lyapunov or "
            "sx.gradient_propagation, or pass the network itself."
        )
    if isinstance(model, Field):
        raise UnsupportedModuleError(
            f"a {type(model).__name__} is a field, a velocity at each state, and no step.\n"
            "Follow it: sx.Flow(field, dim, dt) is a system."
        )
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModuleError(f"a {type(model).__name__} is no plain nn.Module, so its layers cannot be told apart.")
    if any(nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise ModelError(f"{type(model).__name__} has weights without a shape yet.\nCall it once on its inputs.")


def _depth_of_signal(layers: list[Layer]) -> int:
    return sum(layer.cut and not layer.alias for layer in layers)


def _same_way(values: dict[Call, Tensor], shapes: dict[Call, torch.Size]) -> bool:
    """Whether an item passes the same calls as the first one."""
    return {call: value.shape for call, value in values.items()} == shapes


def _is_in_transform(value: Tensor) -> bool:
    return torch._C._functorch.is_functorch_wrapped_tensor(value)


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two passes made the same; what is not to be looked at counts as the same."""
    if a is None or b is None or _is_in_transform(a) or _is_in_transform(b):
        return True
    return torch.equal(a, b)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]
