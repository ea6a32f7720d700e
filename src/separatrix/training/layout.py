"""Where the parameters and the optimiser's state lie in the vector of a training's state."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from separatrix.core.errors import InputError, UnsupportedModuleError
from separatrix.training.optimizers.rule import Rule
from separatrix.training.schedule import read


@dataclass(frozen=True)
class Parameter:
    """A trained parameter: its name, its number in the optimiser, and its place among all of them."""

    name: str
    number: int
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Segment:
    """Consecutive parameters of one group with the same counters, which are mapped together.

    Args:
        group: number of the parameter group.
        start, stop: place among the parameters.
        taken: number of steps that the optimiser had taken with them.
        scalars: the numbers in the optimiser's state.
        slots: the place in the state's vector of each tensor of the optimiser's state, by name.
    """

    group: int
    start: int
    stop: int
    taken: int
    scalars: dict[str, float]
    slots: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """The state's vector: all parameters, in the order of the optimiser, then each tensor of its state for all of them."""

    parameters: tuple[Parameter, ...]
    segments: tuple[Segment, ...]
    size: int
    dim: int

    def joined(self, theta: list[Tensor], slots: list[dict[str, Tensor]]) -> Tensor:
        """The vector from the parameters and the optimiser's state of each segment."""
        places = {places[0]: slots[i][name] for i, segment in enumerate(self.segments) for name, places in segment.slots.items()}
        return torch.cat([*theta, *(places[start] for start in sorted(places))], dim=-1)

    def places(self, segment: Segment) -> list[slice]:
        """The places in the vector of the parameters of a segment and of each tensor of its state."""
        return [slice(segment.start, segment.stop), *(slice(*place) for place in segment.slots.values())]

    def of(self, segment: Segment) -> tuple[Parameter, ...]:
        """The parameters of a segment."""
        return tuple(p for p in self.parameters if segment.start <= p.start and p.stop <= segment.stop)

    def place(self, parameter: Parameter, segment: Segment, slot: str) -> slice:
        """The place in the vector of one tensor of the optimiser's state for one parameter."""
        start = segment.slots[slot][0] - segment.start
        return slice(start + parameter.start, start + parameter.stop)


def trained(model: nn.Module, optimizer: Optimizer) -> dict[str, tuple[int, int, Tensor]]:
    """The parameters that the optimiser trains, by name: their number in the optimiser, their group and their tensor.

    Raises:
        InputError: the optimiser trains tensors that are no parameters of the model, or none.
        UnsupportedModuleError: a parameter is complex.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    tensors = [(g, p) for g, group in enumerate(optimizer.param_groups) for p in group["params"]]
    strangers = [tuple(p.shape) for _, p in tensors if id(p) not in names and p.requires_grad]
    if strangers:
        raise InputError(
            f"{len(strangers)} of {len(tensors)} tensors of the optimiser are no parameters of the model; the first has shape "
            f"{strangers[0]}.\nPass one module that holds all of them, such as one with the model and the loss's own parameters."
        )
    found = {names[id(p)]: (number, g, p) for number, (g, p) in enumerate(tensors) if p.requires_grad}
    if not found:
        raise InputError("no parameter of the optimiser requires a gradient, so that nothing is trained.")
    odd = next((name for name, (_, _, p) in found.items() if not p.is_floating_point()), None)
    if odd is not None:
        raise UnsupportedModuleError(f"the parameter {odd} is {found[odd][2].dtype}; expected real numbers.")
    return found


def layout_of(model: nn.Module, optimizer: Optimizer, rule: Rule) -> Layout:
    """The layout for the parameters that the optimiser trains, with the counters of its state."""
    parameters: list[Parameter] = []
    segments: list[Segment] = []
    groups = read(optimizer)
    size = 0
    for name, (number, group, p) in trained(model, optimizer).items():
        parameters.append(Parameter(name, number, tuple(p.shape), size, size + p.numel()))
        taken, scalars = counters(optimizer.state.get(p, {}))
        last = segments[-1] if segments else None
        begun = size
        if last is not None and (last.group, last.taken, last.scalars) == (group, taken, scalars):
            begun = segments.pop().start
        size += p.numel()
        segments.append(Segment(group, begun, size, taken, scalars))
    end = size
    names = dict.fromkeys(name for s in segments for name in rule.slots(SimpleNamespace(**groups[s.group])))
    for name in names:
        for segment in segments:
            if name in rule.slots(SimpleNamespace(**groups[segment.group])):
                width = segment.stop - segment.start
                segment.slots[name] = (end, end + width)
                end += width
    return Layout(tuple(parameters), tuple(segments), size, end)


def counters(state: dict[str, Any]) -> tuple[int, dict[str, float]]:
    """The number of steps that the optimiser has taken with a parameter, and the numbers in its state.

    SGD has no counter; what matters is whether its buffer exists, because the first step is not dampened.
    """
    scalars = {name: float(value) for name, value in state.items() if _is_scalar(value)}
    first = 0.0 if all(value is None for value in state.values()) else 1.0
    return int(scalars.get("step", first)), scalars


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.ndim == 0)
