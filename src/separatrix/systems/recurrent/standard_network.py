"""PyTorch's recurrent modules as functions of a state vector: stacked layers, one network or an ensemble."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import type_before_parametrizations
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.core.parametric import Parametric
from separatrix.core.twin import twin
from separatrix.systems.recurrent.cells import CELLS, LayerWeights

STANDARD = (nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell)
WEIGHT_HOOKS = (WeightNorm, SpectralNorm, BasePruningMethod)  # PyTorch's hooks that compute a weight and leave the call unchanged


class StandardNetwork(Parametric):
    """Standard network: the weights of `nn.RNN`, `nn.GRU`, `nn.LSTM` or their cells, under PyTorch's names.

    Args:
        modules: one module, or the equal ones of an ensemble.
        is_ensemble: stack their weights along an axis of networks.
    """

    def __init__(self, modules: Sequence[nn.Module], is_ensemble: bool = False) -> None:
        super().__init__()
        first = modules[0]
        weights = [weights_of(module) for module in modules]
        shapes = [{name: tuple(weight.shape) for name, weight in own.items()} for own in weights]
        if any(shape != shapes[0] for shape in shapes):
            raise ShapeError("expected an ensemble of networks with equal shapes, but they differ.\nMeasure them one by one.")
        self.is_ensemble = is_ensemble
        for name in shapes[0]:
            tensors = [own[name] for own in weights]
            check_finite(name, tensors)
            self.hold(rank=tensors[0].ndim, **{name: torch.stack(tensors) if is_ensemble else tensors[0]})
        self.label = describe(first)
        self.is_cell = isinstance(first, nn.RNNCellBase)
        self._any_weight = next(iter(shapes[0]))
        self.batch_first = getattr(first, "batch_first", False)
        self.inputs: int = first.input_size
        self.layers: int = getattr(first, "num_layers", 1)
        self.kind = _kind(first)
        self.widths = [getattr(first, "proj_size", 0) or first.hidden_size] * self.layers
        if self.kind == "LSTM":
            self.widths += [first.hidden_size] * self.layers
        self.dim = sum(self.widths)

    @property
    def into_ball(self) -> bool:
        """Whether some ball of states is mapped into itself: tanh and convex mixtures of it are bounded, and a cell state decays.

        For an LSTM, |c'| ≤ f |c| + 1, and under a constant input the forget gates f stay below 1, because h is bounded.
        """
        return self.kind != "RNN_RELU"

    @property
    def input_form(self) -> str:
        """The input shapes that the module accepts, as text."""
        batched = f"(batch, time, {self.inputs})" if self.batch_first else f"(time, batch, {self.inputs})"
        return f"inputs of shape (time, {self.inputs}) or {batched}"

    def step(self, x: Tensor, u: Tensor) -> Tensor:
        """The state vector after the input u."""
        if self._needs_cast(x):
            return twin(self, dtype=x.dtype).step(x, u)
        cell, states = CELLS[self.kind], self._split(x)
        after = []
        for layer, state in enumerate(states):
            after.append(cell.step(self._weights(layer), u, state))
            u = after[-1][0]
        return _join(after)

    def pushforward(self, x: Tensor, v: Tensor, u: Tensor, du: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The state vector after the input u and its tangents; `du` are the tangents of the input, if it has any."""
        if self._needs_cast(x):
            return twin(self, dtype=x.dtype).pushforward(x, v, u, du)
        cell, states, tangents = CELLS[self.kind], self._split(x), self._split(v)
        after, pushed = [], []
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
            raise ShapeError(f"the state of this {self.label} consists of {wanted} tensors ({names}), got {len(parts)}.")
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

    def _needs_cast(self, x: Tensor) -> bool:
        """Whether the weights must be cast to the dtype of the state; within a run they already are."""
        return getattr(self, self._any_weight).dtype != x.dtype and x.is_floating_point()

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
    name = next(kind.__name__ for kind in STANDARD if isinstance(module, kind))
    if name.startswith("RNN"):
        nonlinearity = module.nonlinearity if isinstance(module, nn.RNNCell) else module.mode.removeprefix("RNN_").lower()
        if nonlinearity not in ("tanh", "relu"):
            raise UnsupportedModuleError(f"expected an RNN with nonlinearity 'tanh' or 'relu', got {nonlinearity!r}.")
        return f"RNN_{nonlinearity.upper()}"
    return name.removesuffix("Cell")


def is_standard(module: nn.Module) -> bool:
    """Whether a module computes what PyTorch's class does: it has no forward of its own and no hook that could change the call."""
    return isinstance(module, STANDARD) and _change(module) is None


def refuse_changed_layer(module: nn.Module) -> None:
    """Raise an error for a recurrent layer (not a cell) that differs from PyTorch's: its step is not accessible."""
    change = _change(module) if isinstance(module, nn.RNNBase) else None
    if change is not None:
        way = "Remove the hook, or write" if "hook" in change else "Write"
        raise UnsupportedModuleError(
            f"this {kind_of(module)} has {change}, so it may differ from PyTorch's recurrence.\n"
            f"{way} the step as a cell, (u, state) → state, and measure that."
        )


def _change(module: nn.Module) -> str | None:
    """How a module differs from PyTorch's class, as text; None if it does not."""
    kind = next((kind for kind in STANDARD if isinstance(module, kind)), None)
    if kind is None or type(module).forward is not kind.forward or "forward" in vars(module):
        return "a forward of its own"
    if module._forward_hooks:
        return "a forward hook"
    if any(not isinstance(hook, WEIGHT_HOOKS) for hook in module._forward_pre_hooks.values()):
        return "a forward pre-hook"
    return None


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """The weights of a standard module as its next forward pass in evaluation mode uses them, including normalisation or pruning.

    Raises:
        UnsupportedModuleError: a tensor has no numbers yet.
    """
    check_initialised(module)
    view = twin(module)  # in evaluation mode, in which a spectral norm is not updated
    if isinstance(module, nn.RNNCellBase):
        names = [name for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if getattr(view, name) is not None]
    else:
        names = list(getattr(module, "_flat_weights_names"))  # noqa: B009  (its type is nn.Module's guess)
    return {name: _weight(view, name) for name in names}


def _weight(module: nn.Module, name: str) -> Tensor:
    """One weight; weights computed by a hook are computed again, because those of the last forward pass may be stale."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == name:
            return hook.compute_weight(module)
        if isinstance(hook, SpectralNorm) and hook.name == name:
            return hook.compute_weight(module, do_power_iteration=False)
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == name:
            return hook.apply_mask(module)
    return getattr(module, name)


def kind_of(module: nn.Module) -> str:
    """The name of a module's class, ignoring the classes that PyTorch's parametrisations create."""
    return type_before_parametrizations(module).__name__


def describe(module: nn.Module) -> str:
    """A short description of a module: GRU(28 → 64, 2 layers)."""
    if not isinstance(module, STANDARD):
        return kind_of(module)
    layers = getattr(module, "num_layers", 1)
    depth = f", {layers} layers" if layers > 1 else ""
    projected = f", projected to {module.proj_size}" if getattr(module, "proj_size", 0) else ""
    return f"{kind_of(module)}({module.input_size} → {module.hidden_size}{depth}{projected})"


def check_initialised(module: nn.Module) -> None:
    """Raise an error for a module whose tensors have no values: on the meta device, or lazy and never called."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise UnsupportedModuleError(
                f"the weight {name} is lazy and not initialised yet.\nCall the module once before measuring it."
            )
        if tensor.is_meta:
            raise UnsupportedModuleError(
                f"the weight {name} is on the meta device, where tensors have no values.\n"
                'Allocate it with module.to_empty(device="cpu") and load its weights.'
            )


def check_finite(name: str, tensors: Sequence[Tensor]) -> None:
    """Raise an error for weights with NaN or infinite values."""
    bad = sum(int((~torch.isfinite(tensor)).sum()) for tensor in tensors)
    if bad:
        total = sum(tensor.numel() for tensor in tensors)
        raise InputError(
            f"the weight {name} has {bad} numbers out of {total} that are not finite.\n"
            "Load a checkpoint from before training diverged."
        )
