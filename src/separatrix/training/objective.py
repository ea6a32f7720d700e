"""The loss as a function of the trained parameters, in one vector."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _WeightNorm

from separatrix.core.arguments import default_dtype
from separatrix.core.errors import InputError
from separatrix.core.randomness import drawing
from separatrix.core.tangent import plain_kernels
from separatrix.core.twin import twin

Loss = Callable[[Any, Any], Tensor]

# Note [Training mode]
# The map is that of the model in the mode in which it is given. Parts in training mode normalise by the statistics of the batch
# (BatchNorm) and drop units; parts in evaluation mode do neither. In training mode BatchNorm's running statistics are an output of
# the run that does not act on the parameters, so they are left out. Dropout's masks are a function of the step and a seed, the same
# for all states of a batch. A run's twin is in evaluation mode, so the parts in training mode are kept by name and set to it again.


class Objective(nn.Module):
    """The loss of a model on given data, as a function of its trained parameters, shape (size).

    Args:
        model: the model, which is not changed.
        loss: (outputs, targets) ↦ a number.
        parameters: the trained parameters by name; a tied parameter has one name.
        seed: seed of the masks of dropout. See Note [Training mode].
    """

    def __init__(self, model: nn.Module, loss: Loss, parameters: dict[str, Tensor], seed: int) -> None:
        super().__init__()
        self.in_training = tuple(name for name, part in model.named_modules() if part.training)
        self.model = twin(model)
        self.loss = twin(loss) if isinstance(loss, nn.Module) else loss
        self.names = tuple(parameters)
        self.shapes = tuple(tuple(p.shape) for p in parameters.values())
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.seed, self.draws, self._item_by_item = seed, True, False
        for part in self.model.modules():
            if isinstance(part, _WeightNorm):
                part.__dict__["forward"] = partial(weight_normed, dim=part.dim)
            if isinstance(part, nn.Embedding):
                part.__dict__["sparse"] = False  # the same gradient, in a form that can be differentiated
        for part in self._parts_in_training():
            if isinstance(part, _NormBase) and part.track_running_stats:
                part.__dict__["track_running_stats"] = False
                part._buffers.update(running_mean=None, running_var=None, num_batches_tracked=None)

    def forward(self, theta: Tensor, data: tuple[Any, Any]) -> Tensor:
        """The loss at parameters of shape (size)."""
        pieces = zip(self.names, theta.split(self.sizes), self.shapes, strict=True)
        parameters = {name: p.view(shape) for name, p, shape in pieces}
        return self.value(lambda *args, **kwargs: functional_call(self.model, parameters, args, kwargs), data)

    def value(self, model: Callable[..., Any], data: tuple[Any, Any]) -> Tensor:
        """The loss of a model that is called with the inputs."""
        inputs, targets = data
        args = inputs if isinstance(inputs, tuple) and not hasattr(inputs, "_fields") else (inputs,)
        args, kwargs = ((), inputs) if isinstance(inputs, dict) else (args, {})
        self._set_modes()
        loss = self.loss(model(*args, **kwargs), targets)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise InputError(
                f"expected one number from the loss, got {found}.\nReduce it over the items: reduction='mean', or loss.mean()."
            )
        return loss.reshape(())

    def gradient(self, theta: Tensor, data: tuple[Any, Any], n: int) -> Tensor:
        """The gradient at parameters (*batch, size), with the draws of step n."""
        items = theta.reshape(-1, theta.shape[-1])
        with self.drawn(n), default_dtype(theta.dtype):
            if len(items) == 1:
                return grad(self.forward)(items[0], data).reshape(theta.shape)
            if not self._item_by_item:
                try:
                    return vmap(grad(self.forward), in_dims=(0, None), randomness="same")(items, data).reshape(theta.shape)
                except Exception:  # user code may still work item by item; otherwise its own error is raised
                    pass
        rows = []
        for item in items:
            with self.drawn(n), default_dtype(theta.dtype):
                rows.append(grad(self.forward)(item, data))
        self.__dict__["_item_by_item"] = True
        return torch.stack(rows).reshape(theta.shape)

    @contextmanager
    def drawn(self, n: int) -> Iterator[None]:
        """A context with the draws of step n, in plain kernels: a fused one draws other masks where it is not differentiated."""
        if not self.draws:
            yield
            return
        with drawing(self.seed, "draws of a training step", n), plain_kernels():
            yield

    def _parts_in_training(self) -> list[nn.Module]:
        return [self.model.get_submodule(name) for name in self.in_training]

    def _set_modes(self) -> None:
        if self.in_training and not self.model.get_submodule(self.in_training[0]).training:
            for part in self._parts_in_training():
                part.__dict__["training"] = True


def weight_normed(g: Tensor, v: Tensor, dim: int) -> Tensor:
    """g v / ‖v‖ in plain operators: PyTorch 2.13's own kernel has a wrong second derivative."""
    return v * (g / torch.norm_except_dim(v, 2, dim))
