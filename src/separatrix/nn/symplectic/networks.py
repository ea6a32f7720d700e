"""Symplectic networks on states (q, p): SympNets and HénonNets."""

import torch

from separatrix.core.checks import check_choice, check_whole
from separatrix.core.errors import ShapeError
from separatrix.nn.activation import ActivationLike
from separatrix.nn.block import Block, Sequential
from separatrix.nn.factory import Device, Factory
from separatrix.nn.symplectic.symplectic import HenonLayer, SymplecticActivation, SymplecticGradient, SymplecticLinear, turns


def sympnet(
    dim: int,
    *,
    layers: int = 6,
    modules: str = "gradient",
    hidden: int = 16,
    activation: ActivationLike = "tanh",
    dt: float = 1.0,
    device: Device = None,
    dtype: torch.dtype | None = None,
) -> Sequential:
    r"""A SympNet on states (q, p), a sequence of symplectic modules.

    Args:
        dim: numbers in the state (q, p), even.
        layers: number of gradient modules, which move p and q alternately; or number of pairs of a linear and an activation
            module, followed by one more linear module.
        modules: "gradient" (G-SympNet) or "linear" (LA-SympNet).
        hidden: rows of K in each gradient module.
        activation: σ, elementwise: a name such as "tanh", an `nn.Module` class or instance, or a function.
        dt: h of every module, and the time of one step of the network, which tends to the identity as h → 0.
        device, dtype: of the weights, as in PyTorch.

    Returns:
        Sequential, symplectic and invertible.

    Raises:
        InputError: modules is unknown, the activation is unknown or not elementwise, or dt is not positive.
        ShapeError: dim is odd, or layers or hidden is less than 1.
    Source: Jin, Zhang, Zhu, Tang & Karniadakis 2020, Neural Networks 132, 166.

    Example:
        >>> network, x = sx.nn.sympnet(4).double(), torch.randn(4).double()
        >>> omega = torch.kron(torch.tensor([[0, 1], [-1, 0]]), torch.eye(2)).double()
        >>> jacobian = torch.func.jacrev(network)(x)
        >>> torch.allclose(jacobian.T @ omega @ jacobian, omega)
        True
    """
    check_whole("layers", layers, 1, error=ShapeError)
    check_choice("modules", modules, ("gradient", "linear"))
    factory = Factory(device=device, dtype=dtype)
    halves = turns("p", layers)
    if modules == "gradient":
        blocks: list[Block] = [
            SymplecticGradient(dim, hidden=hidden, moves=m, activation=activation, dt=dt, **factory) for m in halves
        ]
    else:
        pairs = [
            (SymplecticLinear(dim, dt=dt, **factory), SymplecticActivation(dim, moves=m, activation=activation, dt=dt, **factory))
            for m in halves
        ]
        blocks = [*(block for pair in pairs for block in pair), SymplecticLinear(dim, dt=dt, **factory)]
    return Sequential(*blocks, dt=dt)


def henonnet(
    dim: int,
    *,
    layers: int = 4,
    hidden: int = 16,
    activation: ActivationLike = "tanh",
    dt: float = 1.0,
    device: Device = None,
    dtype: torch.dtype | None = None,
) -> Sequential:
    r"""A HénonNet on states (q, p), a sequence of Hénon-type layers.

    Args:
        dim: numbers in the state (q, p), even.
        layers: number of layers.
        hidden: rows of K in each layer.
        activation: σ, elementwise: a name such as "tanh", an `nn.Module` class or instance, or a function.
        dt: h of every layer, and the time of one step of the network, which tends to the identity as h → 0.
        device, dtype: of the weights, as in PyTorch.

    Returns:
        Sequential, symplectic and invertible.

    Raises:
        InputError: the activation is unknown or not elementwise, or dt is not positive.
        ShapeError: dim is odd, or layers or hidden is less than 1.
    Source: Burby, Tang & Maulik 2020, Plasma Phys. Control. Fusion 63, 024001, arXiv:2007.04496.

    Example:
        >>> network, x = sx.nn.henonnet(4).double(), torch.randn(4).double()
        >>> omega = torch.kron(torch.tensor([[0, 1], [-1, 0]]), torch.eye(2)).double()
        >>> jacobian = torch.func.jacrev(network)(x)
        >>> torch.allclose(jacobian.T @ omega @ jacobian, omega)
        True
    """
    check_whole("layers", layers, 1, error=ShapeError)
    factory = Factory(device=device, dtype=dtype)
    return Sequential(*(HenonLayer(dim, hidden=hidden, activation=activation, dt=dt, **factory) for _ in range(layers)), dt=dt)
