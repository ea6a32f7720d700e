"""A function as a module."""

from torch import Tensor, nn


class Of(nn.Module):
    """A module that computes a function of its input."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)
