"""Calls of a module that can be repeated with the same result: random state, buffers and autocast are recorded."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.func import functional_call

from separatrix.core.errors import UnsupportedModuleError

# Note [Gradients by other ways]
# A layer is called again in isolation, so gradients reach its input and its own weights. If its value also depends on a tensor
# that another module holds, or if the layer keeps part of its graph for a loss of its own, those gradients would be lost
# silently. Both are refused: the first if the graph of a value starts elsewhere, the second if a backward pass reaches the
# first call.


class Surroundings:
    """The autocast settings of the forward pass, to be restored in the backward pass.

    Args:
        device: device of the network.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.enabled, self.dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Gradients on, since PyTorch may choose other kernels without them; no cache of casts, since it keeps no graph."""
        autocast = torch.autocast(self.device.type, dtype=self.dtype, enabled=self.enabled, cache_enabled=False)
        with torch.enable_grad(), autocast:
            yield

    def random_states(self) -> tuple[Tensor, ...]:
        """States of the generators that a layer may draw from."""
        here = (torch.get_rng_state(),)
        return (*here, torch.cuda.get_rng_state(self.device)) if self.device.type == "cuda" else here

    @contextmanager
    def random_from(self, states: tuple[Tensor, ...] | None) -> Iterator[None]:
        """Repeat the same draws, then restore the generators."""
        if states is None:
            yield
            return
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.set_rng_state(states[0])
            if len(states) > 1:
                torch.cuda.set_rng_state(states[1], self.device)
            yield


class Call:
    """One call of a module that can be repeated.

    It stores the random states that the module drew from, and the previous values of buffers that it wrote to: memory of the size
    of the layer's weights, and no activations.

    Args:
        module: the module.
        surroundings: autocast settings and device.
        names: names of the module's tensors that require gradients.
        places: their indices among the weights of the network.
    """

    def __init__(self, module: nn.Module, surroundings: Surroundings, names: tuple[str, ...], places: tuple[int, ...]) -> None:
        self.module, self.surroundings, self.names, self.places = module, surroundings, names, places
        self.states: tuple[Tensor, ...] | None = None
        self.buffers: dict[str, Tensor] = {}

    def first(self, x: Tensor) -> Tensor:
        """The first call: the module's value."""
        states, before = self.surroundings.random_states(), versions(self.module)
        training = any(part.training for part in self.module.modules())
        kept = {name: buffer.clone() for name, buffer in self.module.named_buffers()} if training else {}
        start = x.detach().requires_grad_()
        with self.surroundings.again():
            value = self.module(start)
        if begins_elsewhere(value, (start, *differentiable(self.module).values())):
            raise UnsupportedModuleError(
                f"{self._name} depends on a tensor that requires a gradient but is neither its input nor its own.\n"
                "Make it a parameter or buffer of the layer, detach it, or build the network with recompute=False."
            )
        start.register_hook(self._refuse)
        if not all(map(torch.equal, states, self.surroundings.random_states())):
            self.states = states
        if versions(self.module) != before:
            self.buffers = kept
        return value

    def again(self, x: Tensor, weights: list[Tensor]) -> Tensor:
        """The repeated call: the same value; writes to buffers are discarded, since the first call made them."""
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
            f"{self._name} kept part of its graph, and a gradient through it would be lost.\n"
            "Build the network with recompute=False, which a loss inside a layer needs."
        )


def called(module: nn.Module, x: Tensor) -> Tensor:
    """The module's value, after a check that it did not write to its input."""
    if torch.compiler.is_compiling() or x.is_inference():
        return module(x)
    before = x._version
    value = module(x)
    if x._version != before:
        raise UnsupportedModuleError(
            f"{type(module).__name__} writes to its input, which is still needed.\n"
            "Build it without inplace=True, and write x = x + y instead of x += y."
        )
    return value


def begins_elsewhere(value: object, known: Iterable[Tensor]) -> bool:
    """Whether the graph of a value reaches leaf tensors other than the known ones."""
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
    """The parameters and buffers that require gradients, by name."""
    return {name: tensor for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.requires_grad}


def versions(module: nn.Module) -> list[tuple[int, int]]:
    """Values that change if a buffer is written to or replaced."""
    return [(id(buffer), buffer._version) for buffer in module.buffers()]
