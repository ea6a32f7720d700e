"""Several networks of one shape as one: layers whose weights have a leading axis."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError


class StackedLinear(nn.Module):
    r"""x ↦ W x + b, as `nn.Linear`; or the same for several networks at once, each with its own W and b.

    Args:
        inputs, outputs: numbers that it takes and gives.
        models: how many networks. Their states have the shape (…, models, items, inputs). Default: one, of any batch shape.

    Weights begin as those of `nn.Linear` do, uniform within ±1/√inputs.
    """

    def __init__(self, inputs: int, outputs: int, models: int | None = None) -> None:
        super().__init__()
        stack = () if models is None else (models,)
        self.weight = nn.Parameter(torch.empty(*stack, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(*stack, outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
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
        """What `print` shows between the parentheses."""
        *stack, outputs, inputs = self.weight.shape
        return f"{inputs} → {outputs}" + (f", models={stack[0]}" if stack else "")


def perceptron(widths: list[int], models: int | None = None) -> nn.Sequential:
    """Linear layers of these widths with tanh between."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [StackedLinear(inputs, outputs, models), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def member(stack: nn.Module, single: nn.Module, i: int) -> None:
    """Copy network i of a stack into a single network of the same shape."""
    count = next(stack.parameters()).shape[0]
    if not 0 <= check_whole("i", i) < count:
        raise InputError(f"there is no model {i}: the {count} models are numbered from 0.")
    single.load_state_dict({name: weights[i] for name, weights in stack.state_dict().items()})
