"""A vector field that is a network of dense layers, with tangents in closed form."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from separatrix.core.errors import ShapeError
from separatrix.flows.field import Field
from separatrix.flows.methods.solver import Time
from separatrix.nn.activation import ActivationLike, as_activation, with_slope


class DenseField(Field):
    r"""The field  ẋ = W_m σ(… σ(W_1 (x, t) + b_1) …) + b_m.

    Its tangents are products with the same weights, so that traces, spectra and log-densities cost no forward AD.

    Args:
        dim: numbers in the state.
        hidden: width of each layer between.
        activation: σ, of each number by itself.
        time_dependent: whether t is one more input of the first layer.

    Raises:
        ShapeError: there is no hidden layer, or one without units.
        InputError: the activation mixes the numbers it is given.
    """

    def __init__(
        self, dim: int, hidden: Sequence[int] = (64, 64), *, activation: ActivationLike = "tanh", time_dependent: bool = False
    ) -> None:
        super().__init__()
        if isinstance(hidden, int):
            raise ShapeError(f"hidden is {hidden}; it is the width of each layer between.\nPass ({hidden},) for a single one.")
        if not hidden or min(dim, *hidden) < 1:
            raise ShapeError(f"a field of {dim} numbers has hidden layers of at least 1 unit each, not {tuple(hidden)}.")
        self.dim, self.time_dependent = dim, time_dependent
        self.activation = as_activation(activation)
        widths = (dim + time_dependent, *hidden, dim)
        self.layers = nn.ModuleList(nn.Linear(taken, given) for taken, given in pairwise(widths))

    def forward(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """ẋ, shape (*batch, dim)."""
        x = self.layers[0](self._with_time(x, t))
        for layer in self.layers[1:]:
            x = layer(self.activation(x))
        return x

    def pushforward(self, x: Tensor, v: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """ẋ and its derivative along tangents, rows of shape (*batch, k, dim)."""
        x, v = self.layers[0](self._with_time(x, t)), v @ self.layers[0].weight[:, : self.dim].mT
        for layer in self.layers[1:]:
            x, slope = with_slope(self.activation, x)
            x, v = layer(x), (slope[..., None, :] * v) @ layer.weight.mT
        return x, v

    def _with_time(self, x: Tensor, t: Time) -> Tensor:
        if not self.time_dependent:
            return x
        return torch.cat([x, torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(x.shape[:-1])[..., None]], dim=-1)

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"dim={self.dim}, time_dependent={self.time_dependent}"
