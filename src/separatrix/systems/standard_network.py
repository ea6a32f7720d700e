"""PyTorch's own recurrent modules as functions of a state vector, layer upon layer, one network or an ensemble."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from separatrix.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.system import Parametric
from separatrix.systems.cells import CELLS, LayerWeights

STANDARD = (nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell)


class StandardNetwork(Parametric):
    """The weights of `nn.RNN`, `nn.GRU`, `nn.LSTM` or their cells, held under PyTorch's names.

    Args:
        modules: one module, or the equal ones of an ensemble.
        is_ensemble: stack their weights to an axis of networks.
    """

    def __init__(self, modules: Sequence[nn.Module], is_ensemble: bool = False) -> None:
        super().__init__()
        first = modules[0]
        shapes = [{name: tuple(p.shape) for name, p in module.named_parameters()} for module in modules]
        if any(shape != shapes[0] for shape in shapes):
            raise ShapeError("an ensemble's networks have equal shapes, but these differ.\nMeasure them one by one.")
        self.is_ensemble = is_ensemble
        for name in shapes[0]:
            tensors = [getattr(module, name) for module in modules]
            check_finite(name, tensors)
            self.hold(rank=tensors[0].ndim, **{name: torch.stack(tensors) if is_ensemble else tensors[0]})
        self.label = describe(first)
        self.is_cell = isinstance(first, nn.RNNCellBase)
        self.batch_first = getattr(first, "batch_first", False)
        self.inputs: int = first.input_size
        self.layers: int = getattr(first, "num_layers", 1)
        self.kind = _kind(first)
        self.widths = [getattr(first, "proj_size", 0) or first.hidden_size] * self.layers
        if self.kind == "LSTM":
            self.widths += [first.hidden_size] * self.layers
        self.dim = sum(self.widths)

    @property
    def input_form(self) -> str:
        """The shapes that the module takes, in words."""
        batched = f"(batch, time, {self.inputs})" if self.batch_first else f"(time, batch, {self.inputs})"
        return f"inputs of shape (time, {self.inputs}) or {batched}"

    def step(self, x: Tensor, u: Tensor) -> Tensor:
        """The state vector after the input u."""
        cell, states = CELLS[self.kind], self._split(x)
        after = []
        for layer, state in enumerate(states):
            after.append(cell.step(self._weights(layer), u, state))
            u = after[-1][0]
        return _join(after)

    def pushforward(self, x: Tensor, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """The state vector after the input u, and its tangents."""
        cell, states, tangents = CELLS[self.kind], self._split(x), self._split(v)
        after, pushed, du = [], [], None
        for layer, (state, tangent) in enumerate(zip(states, tangents, strict=True)):
            new, moved = cell.pushforward(self._weights(layer), u, du, state, tangent)
            after.append(new)
            pushed.append(moved)
            u, du = new[0], moved[0]
        return _join(after), _join(pushed)

    def pack(self, *parts: Tensor) -> Tensor:
        """(h_n) or (h_n, c_n), each (layers, *batch, width), or (*batch, width) for a cell → (*batch, dim)."""
        wanted = 2 if self.kind == "LSTM" else 1
        if len(parts) != wanted:
            names = "hidden and cell" if wanted == 2 else "hidden"
            raise ShapeError(f"{len(parts)} tensors were given but this {self.label}'s state is {wanted}: {names}.")
        layers = [part.unbind(0) if not self.is_cell else (part,) for part in parts]
        x = torch.cat([layer for part in layers for layer in part], dim=-1)
        if x.shape[-1] != self.dim:
            raise ShapeError(f"the state has {x.shape[-1]} numbers but this {self.label}'s state has {self.dim}.")
        return x

    def unpack(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(*batch, dim) → h_n or (h_n, c_n), as the module returns them."""
        parts = x.split(self.widths, dim=-1)
        halves = [parts[: self.layers], parts[self.layers :]] if self.kind == "LSTM" else [parts]
        state = [half[0] if self.is_cell else torch.stack(half) for half in halves]
        return tuple(state) if len(state) > 1 else state[0]

    def _split(self, x: Tensor) -> list[tuple[Tensor, ...]]:
        """Each layer's (h,) or (h, c)."""
        if len(self.widths) == 1:
            return [(x,)]
        parts = x.split(self.widths, dim=-1)
        return list(zip(*(parts[i : i + self.layers] for i in range(0, len(parts), self.layers)), strict=True))

    def _weights(self, layer: int) -> LayerWeights:
        suffix = "" if self.is_cell else f"_l{layer}"
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        return LayerWeights(*(getattr(self, name + suffix) if name + suffix in self._ranks else None for name in names))


def _join(states: list[tuple[Tensor, ...]]) -> Tensor:
    parts = [part for kind in zip(*states, strict=True) for part in kind]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _kind(module: nn.Module) -> str:
    name = type(module).__name__ if type(module) in STANDARD else next(k.__name__ for k in STANDARD if isinstance(module, k))
    if name.startswith("RNN"):
        nonlinearity = module.nonlinearity if isinstance(module, nn.RNNCell) else module.mode.removeprefix("RNN_").lower()
        if nonlinearity not in ("tanh", "relu"):
            raise UnsupportedModuleError(f"an RNN's nonlinearity is tanh or relu, not {nonlinearity!r}.")
        return f"RNN_{nonlinearity.upper()}"
    return name.removesuffix("Cell")


def describe(module: nn.Module) -> str:
    """A module in a few words: GRU(28 → 64, 2 layers)."""
    if not isinstance(module, STANDARD):
        return type(module).__name__
    layers = getattr(module, "num_layers", 1)
    depth = f", {layers} layers" if layers > 1 else ""
    projected = f", projected to {module.proj_size}" if getattr(module, "proj_size", 0) else ""
    return f"{type(module).__name__}({module.input_size} → {module.hidden_size}{depth}{projected})"


def check_finite(name: str, tensors: Sequence[Tensor]) -> None:
    """Refuse weights with NaN or infinity."""
    bad = sum(int((~torch.isfinite(tensor)).sum()) for tensor in tensors)
    if bad:
        total = sum(tensor.numel() for tensor in tensors)
        raise InputError(
            f"the weight {name} has {bad} numbers out of {total} that are not finite.\n"
            "Load a checkpoint from before the training diverged."
        )
