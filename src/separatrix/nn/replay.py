"""A module's call, and what it depends on beside its input, so that it can be repeated with the same outcome."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.func import functional_call

from separatrix.core.errors import UnsupportedModuleError

# Note [Gradients by other ways]
# A layer is called again by itself, so gradients reach its input and its own weights. If its value also depends on a tensor that
# another module holds, or if the layer keeps something of its graph for a loss of its own, their gradients would be lost in
# silence. Both are refused: the first where the graph of a value begins elsewhere, the second when somebody goes back through
# the first call.


class Surroundings:
    """Autocast as it is where a network runs; the backward pass runs elsewhere.

    Args:
        device: that the network runs on.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.enabled, self.dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)

    @contextmanager
    def again(self) -> Iterator[None]:
        """With gradients on, for which PyTorch may choose other kernels; without the cache of casts, which keeps no graph."""
        autocast = torch.autocast(self.device.type, dtype=self.dtype, enabled=self.enabled, cache_enabled=False)
        with torch.enable_grad(), autocast:
            yield

    def random_states(self) -> tuple[Tensor, ...]:
        """Of the generators that a layer may draw on."""
        here = (torch.get_rng_state(),)
        return (*here, torch.cuda.get_rng_state(self.device)) if self.device.type == "cuda" else here

    @contextmanager
    def random_from(self, states: tuple[Tensor, ...] | None) -> Iterator[None]:
        """Draw again what was drawn, and leave the generators as they are now."""
        if states is None:
            yield
            return
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.set_rng_state(states[0])
            if len(states) > 1:
                torch.cuda.set_rng_state(states[1], self.device)
            yield


class Call:
    """One call of a module, to be repeated.

    It keeps the states of random generators that the module drew on, and the buffers that it wrote to as they were before,
    which is of the size of the layer's weights and none of its activations.

    Args:
        module: what is called.
        surroundings: where.
        names: of the module's tensors through which gradients go.
        places: of these among the weights of a network.
    """

    def __init__(self, module: nn.Module, surroundings: Surroundings, names: tuple[str, ...], places: tuple[int, ...]) -> None:
        self.module, self.surroundings, self.names, self.places = module, surroundings, names, places
        self.states: tuple[Tensor, ...] | None = None
        self.buffers: dict[str, Tensor] = {}

    def first(self, x: Tensor) -> Tensor:
        """The module's value."""
        states, before = self.surroundings.random_states(), versions(self.module)
        training = any(part.training for part in self.module.modules())
        kept = {name: buffer.clone() for name, buffer in self.module.named_buffers()} if training else {}
        start = x.detach().requires_grad_()
        with self.surroundings.again():
            value = self.module(start)
        if begins_elsewhere(value, (start, *differentiable(self.module).values())):
            raise UnsupportedModuleError(
                f"{self._name} depends on a tensor that is neither its input nor its own, and that asks for a gradient.\n"
                "Make it a parameter or a buffer of the layer, detach it, or build the network with recompute=False."
            )
        start.register_hook(self._refuse)
        if not all(map(torch.equal, states, self.surroundings.random_states())):
            self.states = states
        if versions(self.module) != before:
            self.buffers = kept
        return value

    def again(self, x: Tensor, weights: list[Tensor]) -> Tensor:
        """The same value; what the module writes to its buffers is lost, because it was written the first time."""
        tensors = dict(zip(self.names, weights, strict=True))
        now = differentiable(self.module)
        with self.surroundings.again(), self.surroundings.random_from(self.states):
            if not self.buffers and all(now.get(name) is tensor for name, tensor in tensors.items()):
                return self.module(x)
            buffers = {name: buffer.clone() for name, buffer in self.buffers.items() if name not in tensors}
            return functional_call(self.module, {**tensors, **buffers}, (x,))

    @property
    def _name(self) -> str:
        return type(self.module).__name__

    def _refuse(self, gradient: Tensor) -> None:
        raise UnsupportedModuleError(
            f"a gradient was asked of what {self._name} keeps of its first call, and would end there.\n"
            "Build the network with recompute=False, as for a loss within a layer."
        )


def called(module: nn.Module, x: Tensor) -> Tensor:
    """The module's value; refuses one that writes to its input, which is needed once more."""
    if torch.compiler.is_compiling() or x.is_inference():
        return module(x)
    before = x._version
    value = module(x)
    if x._version != before:
        raise UnsupportedModuleError(
            f"{type(module).__name__} writes to its input, which is needed beside its value.\n"
            "Build it without inplace=True, and with x = x + y instead of x += y."
        )
    return value


def begins_elsewhere(value: object, known: Iterable[Tensor]) -> bool:
    """Whether gradients of a value also go to other tensors than those known."""
    seen = {get_gradient_edge(tensor).node for tensor in known}
    ahead = [value.grad_fn] if isinstance(value, Tensor) else []
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        if node.name().endswith("AccumulateGrad"):
            return True
        seen.add(node)
        ahead += [after for after, _ in node.next_functions]
    return False


def differentiable(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers through which gradients go, by name."""
    return {name: tensor for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.requires_grad}


def versions(module: nn.Module) -> list[tuple[int, int]]:
    """What changes where a buffer is written to or replaced."""
    return [(id(buffer), buffer._version) for buffer in module.buffers()]
