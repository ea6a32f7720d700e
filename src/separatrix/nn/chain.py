"""Closed-form tangents through a chain of linear layers and activations, much faster than forward AD."""

import torch
from torch import Tensor, nn

from separatrix.nn.activation import with_slope

ACTIVATIONS = (nn.ELU, nn.GELU, nn.LeakyReLU, nn.Mish, nn.ReLU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Tanh)


def is_chain(module: nn.Module) -> bool:
    """Whether a module consists only of layers with closed-form tangents."""
    if isinstance(module, nn.Sequential):
        return all(map(is_chain, module))
    return type(module) is nn.Linear or type(module) in ACTIVATIONS


def pushed_through(chain: nn.Module, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """g(x) and Dg(x) v of a chain g, for states (*batch, dim) and tangents (*batch, k, dim)."""
    if isinstance(chain, nn.Sequential):
        for layer in chain:
            x, v = pushed_through(layer, x, v)
        return x, v
    if isinstance(chain, nn.Linear):
        return chain(x), v @ chain.weight.mT
    value, slope = _with_slope(chain, x)
    return value, slope[..., None, :] * v


def _with_slope(activation: nn.Module, z: Tensor) -> tuple[Tensor, Tensor]:
    """σ(z) and σ'(z); SiLU is hot and takes its closed form."""
    if isinstance(activation, nn.SiLU):
        gate = torch.sigmoid(z)
        value = z * gate
        return value, gate + value * (1 - gate)
    return with_slope(activation, z)
