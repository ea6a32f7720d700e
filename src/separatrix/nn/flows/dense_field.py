"""A vector field given by a network of dense layers, with closed-form tangents."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_whole
from separatrix.core.errors import ShapeError
from separatrix.flows.field import Field
from separatrix.flows.methods.solver import Time
from separatrix.nn.activation import ActivationLike, as_activation, with_slope
from separatrix.nn.factory import Device, Factory


class DenseField(Field):
    r"""A vector field given by a dense network,  ẋ = W_m σ(… σ(W_1 (x, t) + b_1) …) + b_m.

    Tangents are products with the same weights, so traces, spectra and log-densities need no forward AD.

    Args:
        dim: numbers in the state.
        hidden: widths of the hidden layers.
        activation: σ, elementwise: a name such as "tanh", an `nn.Module` class or instance, or a function.
        time_dependent: whether t is an additional input of the first layer.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        ShapeError: there is no hidden layer, or one without units.
        InputError: the activation is unknown or not elementwise.

    Example:
        >>> field = sx.nn.parts.DenseField(3, hidden=(8,))
        >>> value, pushed = field.pushforward(torch.zeros(3), torch.eye(3), 0.0)
        >>> torch.allclose(pushed.T, torch.func.jacrev(field)(torch.zeros(3), 0.0), atol=1e-6)
        True
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (64, 64),
        *,
        activation: ActivationLike = "tanh",
        time_dependent: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if isinstance(hidden, int):
            raise ShapeError(f"hidden is {hidden}; expected the widths of all hidden layers.\nPass ({hidden},) for a single one.")
        if not hidden:
            raise ShapeError("hidden is empty; expected at least 1 hidden layer.")
        for name, width in (("dim", dim), *(("a width of hidden", width) for width in hidden)):
            check_whole(name, width, 1, error=ShapeError)
        self.dim, self.time_dependent = dim, time_dependent
        self.activation = as_activation(activation)
        widths = (dim + time_dependent, *hidden, dim)
        factory = Factory(device=device, dtype=dtype)
        self.layers = nn.ModuleList(nn.Linear(taken, given, **factory) for taken, given in pairwise(widths))

    def forward(self, x: Tensor, t: Time = 0.0) -> Tensor:
        """ẋ, shape (*batch, dim)."""
        x = self.layers[0](self._with_time(x, t))
        for layer in self.layers[1:]:
            x = layer(self.activation(x))
        return x

    def pushforward(self, x: Tensor, v: Tensor, t: Time = 0.0) -> tuple[Tensor, Tensor]:
        """ẋ and its derivative along tangents, shape (*batch, k, dim)."""
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
        """Options shown by `repr`."""
        return f"dim={self.dim}, time_dependent={self.time_dependent}"
