"""Several networks of equal shape evaluated as one: layers whose weights have a leading axis."""

from itertools import pairwise
from typing import Unpack

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_whole
from separatrix.nn.factory import Factory


class StackedLinear(nn.Module):
    r"""A linear layer  x ↦ W x + b  as `nn.Linear`, or one for each of several networks.

    Args:
        inputs, outputs: numbers in x and in the output.
        models: number of networks, whose states have shape (…, models, items, inputs). Default: a single network, any batch shape.
        factory: device and dtype of the weights.

    Weights are initially uniform in ±1/√inputs, as in `nn.Linear`.
    """

    def __init__(self, inputs: int, outputs: int, models: int | None = None, **factory: Unpack[Factory]) -> None:
        super().__init__()
        stack = () if models is None else (models,)
        self.weight = nn.Parameter(torch.empty(*stack, outputs, inputs, **factory))
        self.bias = nn.Parameter(torch.empty(*stack, outputs, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weights, from the global random generator."""
        bound = self.weight.shape[-1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """W x + b, shape (…, outputs)."""
        if self.weight.ndim == 2:
            return nn.functional.linear(x, self.weight, self.bias)
        bias = self.bias[:, None, :]
        return torch.baddbmm(bias, x, self.weight.mT) if x.ndim == 3 else x @ self.weight.mT + bias

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        *stack, outputs, inputs = self.weight.shape
        return f"{inputs} → {outputs}" + (f", models={stack[0]}" if stack else "")


def perceptron(widths: list[int], models: int | None = None, **factory: Unpack[Factory]) -> nn.Sequential:
    """Linear layers of the given widths with tanh between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [StackedLinear(inputs, outputs, models, **factory), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def member(stack: nn.Module, single: nn.Module, i: int) -> None:
    """Copy network i of a stack into a single network of equal shape."""
    count = next(stack.parameters()).shape[0]
    check_whole("i", i, 0, count - 1)
    single.load_state_dict({name: weights[i] for name, weights in stack.state_dict().items()})
