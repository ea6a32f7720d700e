"""Symplectic layers on states (q, p): the modules of SympNets, which are shears by gradients, and Hénon-type layers."""

from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_choice, check_whole
from separatrix.core.errors import ShapeError
from separatrix.nn.activation import ActivationLike
from separatrix.nn.block import Block
from separatrix.nn.factory import Device, Factory
from separatrix.nn.guarantee import Guarantee
from separatrix.nn.shift import OfPotential, OfRidges, Scaled, Shift, Symmetric

SYMPLECTIC = Guarantee(log_det=0.0, symplectic=True)
TURN = 4  # quarter turns in a full turn


class SymplecticShear(Block):
    r"""A shear of a state (q, p) by a gradient:  p ← p + h ∇V(q),  or  q ← q + h ∇V(p).

    Its Jacobian is (I 0; hS I) or (I hS; 0 I) with the Hessian S of V; JᵀΩJ = Ω because S is symmetric.

    Args:
        gradient: ∇V on dim / 2 coordinates.
        dim: numbers in the state (q, p), even.
        moves: the half that moves, "p" or "q".
        dt: h, the step size of the flow.
    """

    def __init__(self, gradient: Shift, dim: int, *, moves: str, dt: float) -> None:
        check_choice("moves", moves, ("q", "p"))
        super().__init__(dim, dt=dt)
        self.gradient = gradient
        self.moves = moves

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The shear of x."""
        held, moved = self._halves(x)
        return self._state(held, moved + self.dt * self.gradient(held))

    def inverse(self, y: Tensor) -> Tensor:
        """The opposite shear."""
        held, moved = self._halves(y)
        return self._state(held, moved - self.dt * self.gradient(held))

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """In closed form."""
        (held, moved), (dheld, dmoved) = self._halves(x), self._halves(v)
        force, along = self.gradient.pushforward(held, dheld)
        return self._state(held, moved + self.dt * force), self._state(dheld, dmoved + self.dt * along)

    @property
    def guarantee(self) -> Guarantee:
        """Symplectic, hence volume-preserving."""
        return SYMPLECTIC

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return f"{super().extra_repr()}, dt={self.dt:g}, moves={self.moves}"

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The fixed half and the moved half."""
        q, p = x.chunk(2, dim=-1)
        return (q, p) if self.moves == "p" else (p, q)

    def _state(self, held: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([held, moved] if self.moves == "p" else [moved, held], dim=-1)


class SymplecticGradient(SymplecticShear):
    r"""The gradient module of a SympNet,  p ← p + h Kᵀ diag(a) σ(Kq + b),  or the same with q and p exchanged.

    The shift is the gradient of V(q) = Σ_j a_j S((Kq + b)_j) with S' = σ. Its Hessian Kᵀ diag(a σ') K is symmetric, so JᵀΩJ = Ω for
    all weights. The inverse subtracts the shift; as h → 0 the module tends to the identity.

    Args:
        dim: numbers in the state (q, p), even.
        hidden: rows of K, the hidden width.
        moves: the half that moves, "p" or "q".
        activation: σ, elementwise: a name such as "tanh", an `nn.Module` class or instance, or a function.
        potential: builds V instead: a function of the number of coordinates, dim / 2, that returns a module
            (…, dim / 2) → (…, 1), such as a deeper network. Its gradient is taken by AD, which `torch.export` does not support.
        dt: h, the step size of the flow.
        device, dtype: of the weights, as in PyTorch; a module from `potential` keeps its own.

    Raises:
        ShapeError: dim is odd, or hidden is less than 1.
        InputError: the activation is unknown or not elementwise, moves is not "q" or "p", or dt is not positive.
    Source: Jin, Zhang, Zhu, Tang & Karniadakis 2020, Neural Networks 132, 166, gradient modules, whose products approximate
        symplectic maps in C^r on compact sets if σ is smooth and sigmoidal.

    Example:
        >>> layer, x = sx.nn.parts.SymplecticGradient(4).double(), torch.randn(4).double()
        >>> torch.equal(layer(x)[:2], x[:2]), torch.allclose(layer.inverse(layer(x)), x)  # q does not move
        (True, True)
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: int = 16,
        moves: str = "p",
        activation: ActivationLike = "tanh",
        potential: Callable[[int], nn.Module] | None = None,
        dt: float = 1.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shift = gradient(half_of(dim), hidden, activation, potential, device=device, dtype=dtype)
        super().__init__(shift, dim, moves=moves, dt=dt)


class SymplecticActivation(SymplecticShear):
    r"""The activation module of a SympNet,  p ← p + h diag(a) σ(q),  or the same with q and p exchanged.

    It is a gradient module with K = I and b = 0; linear modules before and after it make it general.

    Args:
        dim: numbers in the state (q, p), even.
        moves: the half that moves, "p" or "q".
        activation: σ, elementwise: a name such as "tanh", an `nn.Module` class or instance, or a function.
        dt: h, the step size of the flow.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        ShapeError: dim is odd.
        InputError: the activation is unknown or not elementwise, moves is not "q" or "p", or dt is not positive.
    Source: Jin, Zhang, Zhu, Tang & Karniadakis 2020, Neural Networks 132, 166, activation modules.

    Example:
        >>> layer, x = sx.nn.parts.SymplecticActivation(4).double(), torch.randn(4).double()
        >>> torch.equal(layer(x)[:2], x[:2]), torch.allclose(layer.inverse(layer(x)), x)  # q does not move
        (True, True)
    """

    def __init__(
        self,
        dim: int,
        *,
        moves: str = "p",
        activation: ActivationLike = "tanh",
        dt: float = 1.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shift = Scaled(half_of(dim), activation=activation, device=device, dtype=dtype)
        super().__init__(shift, dim, moves=moves, dt=dt)


class SymplecticLinear(Block):
    r"""The linear module of a SympNet: alternating shears  p ← p + h S₁q,  q ← q + h S₂p,  …,  then a translation by h b.

    With S = (A + Aᵀ)/2 each shear is symplectic for all A. Five factors suffice for every symplectic matrix.

    Args:
        dim: numbers in the state (q, p), even.
        factors: number of shears.
        moves: the half that the first shear moves, "p" or "q".
        dt: h, the step size of the flow.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        ShapeError: dim is odd, or factors is less than 1.
        InputError: moves is not "q" or "p", or dt is not positive.
    Source: Jin, Zhang, Zhu, Tang & Karniadakis 2020, Neural Networks 132, 166, linear modules; five factors: Jin, Lin & Xiao 2021,
        arXiv:2108.00223.

    Example:
        >>> layer, x = sx.nn.parts.SymplecticLinear(4).double(), torch.randn(4).double()
        >>> torch.allclose(layer.inverse(layer(x)), x)
        True
    """

    def __init__(
        self,
        dim: int,
        *,
        factors: int = 5,
        moves: str = "p",
        dt: float = 1.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        half = half_of(dim)
        check_whole("factors", factors, 1, error=ShapeError)
        super().__init__(dim, dt=dt)
        factory = Factory(device=device, dtype=dtype)
        self.shears = nn.ModuleList(
            SymplecticShear(Symmetric(half, **factory), dim, moves=half_moved, dt=dt) for half_moved in turns(moves, factors)
        )
        self.b = nn.Parameter(torch.zeros(dim, **factory))

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The shears, then the translation."""
        for shear in self.shears:
            x = shear(x)
        return x + self.dt * self.b

    def inverse(self, y: Tensor) -> Tensor:
        """The opposite translation, then the opposite shears in reverse order."""
        y = y - self.dt * self.b
        for shear in reversed(self.shears):
            y = shear.inverse(y)
        return y

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The shears of state and tangents."""
        for shear in self.shears:
            x, v = shear.pushforward(x, v)
        return x + self.dt * self.b, v

    @property
    def guarantee(self) -> Guarantee:
        """Symplectic, hence volume-preserving."""
        return SYMPLECTIC


class HenonLayer(Block):
    r"""A Hénon-type layer, the fourth iterate of  H(q, p) = (p + η, −q + h ∇V(p))  with  ∇V(p) = Kᵀ diag(a) σ(Kp + b).

    H is explicit and symplectic for every potential V; its inverse is  p = q' − η,  q = h ∇V(p) − p'.  For V = 0 it is a
    quarter turn about a point, and its fourth iterate is the identity. The layer therefore tends to the identity as h → 0, for
    every η.

    Args:
        dim: numbers in the state (q, p), even.
        hidden: rows of K, the hidden width.
        iterates: number of times that H is applied; 1 for H itself, which is the Hénon map if ∇V is quadratic.
        activation: σ, elementwise: a name such as "tanh", an `nn.Module` class or instance, or a function.
        potential: builds V instead: a function of the number of coordinates, dim / 2, that returns a module
            (…, dim / 2) → (…, 1), such as a deeper network. Its gradient is taken by AD, which `torch.export` does not support.
        dt: h, the step size of the flow.
        device, dtype: of the weights, as in PyTorch; a module from `potential` keeps its own.

    Raises:
        ShapeError: dim is odd, or hidden or iterates is less than 1.
        InputError: the activation is unknown or not elementwise, or dt is not positive.
    Source: Burby, Tang & Maulik 2020, Plasma Phys. Control. Fusion 63, 024001, arXiv:2007.04496. Products of such maps approximate
        symplectic maps: Turaev 2003, Nonlinearity 16, 123.

    Example:
        >>> layer, x = sx.nn.parts.HenonLayer(4).double(), torch.randn(4).double()
        >>> torch.allclose(layer.inverse(layer(x)), x)
        True
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: int = 16,
        iterates: int = TURN,
        activation: ActivationLike = "tanh",
        potential: Callable[[int], nn.Module] | None = None,
        dt: float = 1.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        half = half_of(dim)
        check_whole("iterates", iterates, 1, way_out=f"The default is {TURN}.", error=ShapeError)
        super().__init__(dim, dt=dt)
        factory = Factory(device=device, dtype=dtype)
        self.gradient = gradient(half, hidden, activation, potential, **factory)
        self.eta = nn.Parameter(torch.zeros(half, **factory))
        self.iterates = iterates

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """H, applied `iterates` times."""
        q, p = x.chunk(2, dim=-1)
        for _ in range(self.iterates):
            q, p = p + self.eta, self.dt * self.gradient(p) - q
        return torch.cat([q, p], dim=-1)

    def inverse(self, y: Tensor) -> Tensor:
        """The inverse of H, applied `iterates` times."""
        q, p = y.chunk(2, dim=-1)
        for _ in range(self.iterates):
            before = q - self.eta
            q, p = self.dt * self.gradient(before) - p, before
        return torch.cat([q, p], dim=-1)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """In closed form."""
        (q, p), (dq, dp) = x.chunk(2, dim=-1), v.chunk(2, dim=-1)
        for _ in range(self.iterates):
            force, along = self.gradient.pushforward(p, dp)
            (q, p), (dq, dp) = (p + self.eta, self.dt * force - q), (dp, self.dt * along - dq)
        return torch.cat([q, p], dim=-1), torch.cat([dq, dp], dim=-1)

    @property
    def guarantee(self) -> Guarantee:
        """Symplectic, hence volume-preserving."""
        return SYMPLECTIC

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return f"{super().extra_repr()}, dt={self.dt:g}, iterates={self.iterates}"


def gradient(
    size: int,
    hidden: int,
    activation: ActivationLike,
    potential: Callable[[int], nn.Module] | None,
    **factory: Unpack[Factory],
) -> Shift:
    """∇V in closed form, or the gradient of the potential that `potential` builds."""
    if potential is not None:
        return OfPotential(potential(size))
    return OfRidges(size, hidden=hidden, activation=activation, **factory)


def half_of(dim: int) -> int:
    """Number of positions, equal to that of momenta."""
    if dim < 2 or dim % 2:
        raise ShapeError(
            f"dim is {dim}; a symplectic map needs pairs (q, p), an even number of at least 2.\n"
            "For an odd number use sx.nn.VolumePreserving, or add a coordinate."
        )
    return dim // 2


def turns(first: str, count: int) -> list[str]:
    """The halves that move, alternating."""
    check_choice("moves", first, ("q", "p"))
    second = "q" if first == "p" else "p"
    return [(first, second)[i % 2] for i in range(count)]
