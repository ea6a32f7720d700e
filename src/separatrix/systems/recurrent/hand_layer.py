"""Trial calls that show what a custom recurrent module is: a cell, or a layer with a handwritten loop over time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.core.errors import SeparatrixError, UnsupportedModuleError
from separatrix.core.twin import twin
from separatrix.systems.recurrent.cell_state import Structure, fill, flatten, skeleton
from separatrix.systems.recurrent.custom_cell import CustomCell, is_layer
from separatrix.systems.recurrent.silence import without_draws

STEPS, ITEMS = 5, 3  # of a trial: lengths 2 and 5, and three different items
A_CELL = (
    "A cell takes u of shape (batch, inputs) and treats each item independently. If it loops over time, give it a method "
    "as_cell() that returns its single step, or pass the module of that step."
)
CLOSE = 1e-9  # of the numbers' size, within which two orders of summation agree in float64

Part = Callable[[Any], Any]

# Note [Recognised by trying]
# An attribute such as hidden_size does not distinguish a cell, (u, state) → state, from a layer with a handwritten loop over a
# sequence: both can be called with a matrix and a state. Their behaviour does. A cell treats the items of a batch independently:
# three different items together give the same as one by one; a layer that takes the batch axis for time fails this test. A layer
# carries its state: reading five steps equals reading two and then three from the state that these leave, and a different state
# leads elsewhere, which is not the case for a feed-forward network with an optional second argument. A layer also treats items
# independently. The step of a layer is then the layer itself on a sequence of one step.


class HandLayer(nn.Module):
    """Layer with a loop over time in its own forward, with its step: the layer on a sequence of one step.

    Args:
        layer: (sequence, state) → its return value.
        width: length of an input.
        batch_first: whether sequences are (batch, time, inputs).
        part: function from the return value to the new state.
        example: its state for a batch of one item, with the batch axis.
        layer_axis: whether the state's tensors have an axis before the batch axis.
    """

    def __init__(self, layer: nn.Module, width: int, batch_first: bool, part: Part, example: Structure, layer_axis: bool) -> None:
        super().__init__()
        self.layer = layer
        self.batch_first = batch_first
        self.part = part
        self.example = example
        self.layer_axis = layer_axis
        self.input_size = width

    def forward(self, *given: Any, **named: Any) -> Any:
        """Call the layer."""
        return self.layer(*given, **named)

    def as_cell(self) -> "LayerStep":
        """One step of the layer."""
        return LayerStep(self)


class LayerStep(nn.Module):
    """Single step of a layer with a handwritten loop: the layer on a sequence of one step.

    Args:
        hand: the layer and how it is called.
    """

    def __init__(self, hand: HandLayer) -> None:
        super().__init__()
        self.layer = hand.layer
        self.axis = 1 if hand.batch_first else 0
        self.part = hand.part
        self.input_size = hand.input_size
        self.shapes = [tuple(t.select(1 if hand.layer_axis else 0, 0).shape) for t in flatten(hand.example)]
        self.structure = skeleton(hand.example)

    def forward(self, u: Tensor, state: Structure) -> Structure:
        """The state after reading u, shape (batch, inputs)."""
        return self.part(self.layer(u.unsqueeze(self.axis), state))

    def example_state(self) -> Structure:
        """A state without its batch axis."""
        return fill(self.structure, iter([torch.zeros(shape) for shape in self.shapes]))


def own_network(
    modules: list[nn.Module], is_ensemble: bool, example: Structure, width: int | None, returns: str | None = None
) -> CustomCell:
    """A custom cell or handwritten layer as a function of a state vector. See Note [Recognised by trying].

    Args:
        modules: one module, or the equal ones of an ensemble.
        is_ensemble: whether they form an ensemble.
        example: a state without batch axes, if the module does not provide one.
        width: length of an input, if it is known.
        returns: which part of a cell's return value is its state, if the user says so.

    Raises:
        UnsupportedModuleError, ShapeError: it is neither.
    """
    refusal: SeparatrixError
    try:
        network = CustomCell(modules, is_ensemble, example, width, returns)
        if is_ensemble or network.is_layer or treats_items_alone(network, width):
            return network
        refusal = UnsupportedModuleError(
            f"{network.label}(u, state) is not a cell: its result for one item depends on the others in the batch.\n{A_CELL}"
        )
    except SeparatrixError as error:
        if is_layer(modules[0]):  # it provides its step, so this error is the right one
            raise
        refusal = error
    width = width if width is not None else getattr(modules[0], "input_size", None)
    layers = [layer_of(module, width) for module in modules] if isinstance(width, int) else []
    if layers and all(layer is not None for layer in layers):
        return CustomCell([layer for layer in layers if layer is not None], is_ensemble)
    raise refusal


@torch.no_grad()
def treats_items_alone(network: CustomCell, width: int | None = None) -> bool:
    """Whether a cell's step of two and three different items equals that of the items one by one.

    Raises:
        UnsupportedModuleError: it fails on them.
    """
    network, width = twin(network, apart=True), network.inputs or width or 1
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(ITEMS, network.dim, dtype=torch.float64, generator=draw)
    u = torch.randn(ITEMS, width, dtype=torch.float64, generator=draw)
    with without_draws():
        try:
            singly = torch.cat([network.step(x[i : i + 1], u[i : i + 1]) for i in range(ITEMS)])
            return all(_close(network.step(x[:count], u[:count]), singly[:count]) for count in (2, ITEMS))
        except Exception as error:  # user code may raise anything; then it is not a cell for these items
            if any(isinstance(part, torch.jit.ScriptModule) for part in network.modules()):
                why, way = "is compiled by TorchScript and does not run in float64.", "Pass the module that it was made from."
            else:
                reason = (str(error).strip().splitlines() or ["no message"])[0]
                why, way = f"failed on {ITEMS} random items in float64: {type(error).__name__}: {reason}", A_CELL
            raise UnsupportedModuleError(f"{network.label}(u, state) {why}\n{way}") from error


@torch.no_grad()
def carries_a_state(network: CustomCell) -> bool:
    """Whether a cell's step depends on its state at all."""
    network, draw = twin(network, apart=True), torch.Generator().manual_seed(0)
    x = torch.randn(2, network.dim, dtype=torch.float64, generator=draw)
    u = torch.randn(1, network.inputs or 1, dtype=torch.float64, generator=draw)
    with without_draws():
        return not torch.equal(network.step(x[:1], u), network.step(x[1:], u))


@torch.no_grad()
def layer_of(module: nn.Module, width: int) -> HandLayer | None:
    """The module as a layer that carries its state along a sequence, if trial calls show that it is one."""
    if isinstance(module, torch.jit.ScriptModule):
        return None
    view = twin(module, dtype=torch.float64, detach=True, apart=True)
    u = torch.randn(STEPS, ITEMS, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first = bool(getattr(module, "batch_first", False))
    with without_draws():
        for batch_first in (first, not first):
            time = 1 if batch_first else 0
            for part in (_second, _first, _last(time)):
                trial = _Trial(view, u.transpose(0, 1) if batch_first else u, time, part)
                axis = trial.batch_axis()
                if axis is not None:
                    return HandLayer(module, width, batch_first, part, trial.of_one_item(), axis == 1)
    return None


class _Trial:
    """Trial of a layer on a sequence: the states after the whole sequence, after two pieces, and item by item."""

    def __init__(self, layer: nn.Module, u: Tensor, time: int, part: Part) -> None:
        self.layer, self.u, self.time, self.part = layer, u, time, part

    def batch_axis(self) -> int | None:
        """The batch axis of the state, 0 or 1, if the layer carries its state and treats items independently; otherwise None."""
        try:
            whole = self._after(self.u)
            pieces = self._after(self._steps(2, STEPS), self._after(self._steps(0, 2)))
            if not flatten(whole) or not _same(whole, pieces):
                return None
            single = self._after(self._steps(1, STEPS), self._after(self._steps(0, 1)))
            if _same(self._after(self._steps(2, 3), whole), self._after(self._steps(2, 3), self._after(self._steps(0, 1)))):
                return None  # two states lead to the same one: it carries nothing, and its second argument is not a state
            alone = [self._after(self.u.narrow(1 - self.time, i, 1)) for i in range(ITEMS)]
            return next((axis for axis in (0, 1) if _same(whole, single) and _joined(alone, axis, whole)), None)
        except Exception:  # user code may raise anything; then it is not called this way
            return None

    def of_one_item(self) -> Structure:
        """The state of one item, with its batch axis."""
        return self._after(self.u.narrow(1 - self.time, 0, 1))

    def _steps(self, start: int, end: int) -> Tensor:
        return self.u.narrow(self.time, start, end - start)

    def _after(self, u: Tensor, state: Structure = None) -> Structure:
        if state is not None:
            return self.part(self.layer(u, state))
        try:
            return self.part(self.layer(u))
        except TypeError:
            return self.part(self.layer(u, None))


def _second(returned: Any) -> Any:
    return returned[1]


def _first(returned: Any) -> Any:
    return returned[0]


def _last(time: int) -> Part:
    """The last output, for a layer that returns nothing else."""
    return lambda returned: returned.select(time, -1)


def _same(one: Structure, two: Structure) -> bool:
    a, b = flatten(one), flatten(two)
    return skeleton(one) == skeleton(two) and all(x.shape == y.shape and _close(x, y) for x, y in zip(a, b, strict=True))


def _joined(items: list[Structure], axis: int, whole: Structure) -> bool:
    """Whether the states of single items, joined along an axis, equal the state of the whole batch."""
    parts = zip(*(flatten(item) for item in items), strict=True)
    joined = [torch.cat(part, dim=axis) for part in parts if part[0].ndim > axis]
    wanted = flatten(whole)
    return len(joined) == len(wanted) and all(a.shape == b.shape and _close(a, b) for a, b in zip(joined, wanted, strict=True))


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=CLOSE, atol=CLOSE * float(b.abs().nan_to_num(posinf=0.0).max()), equal_nan=True)
