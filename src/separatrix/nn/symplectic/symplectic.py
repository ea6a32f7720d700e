"""Symplectic networks on states (q, p): SympNets, made of shears by gradients, and Hénon-type layers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from separatrix.core.errors import InputError, ShapeError
from separatrix.nn.activation import ActivationLike
from separatrix.nn.block import Block, Sequential
from separatrix.nn.guarantee import Guarantee
from separatrix.nn.shift import OfPotential, OfRidges, Scaled, Shift, Symmetric

SYMPLECTIC = Guarantee(log_det=0.0, symplectic=True)
TURN = 4  # quarter turns that make a whole one


class SymplecticShear(Block):
    r"""A shear of a state (q, p) by a gradient:  p ← p + h ∇V(q),  or  q ← q + h ∇V(p).

    Its Jacobian is (I 0; hS I) or (I hS; 0 I) with the Hessian S of V, which is symmetric; that is what  JᵀΩJ = Ω  asks of it.

    Args:
        gradient: ∇V, of dim / 2 numbers.
        dim: numbers in the state, even.
        moves: the half that moves, "p" or "q".
        dt: h, the step of the flow.
    """

    def __init__(self, gradient: Shift, dim: int, *, moves: str, dt: float) -> None:
        check_moves(moves)
        super().__init__(dim, dt=dt)
        self.gradient = gradient
        self.moves = moves

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The shear."""
        held, moved = self._halves(x)
        return self._state(held, moved + self.dt * self.gradient(held))

    def inverse(self, y: Tensor) -> Tensor:
        """The shear the other way."""
        held, moved = self._halves(y)
        return self._state(held, moved - self.dt * self.gradient(held))

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """In closed form."""
        (held, moved), (dheld, dmoved) = self._halves(x), self._halves(v)
        force, along = self.gradient.pushforward(held, dheld)
        return self._state(held, moved + self.dt * force), self._state(dheld, dmoved + self.dt * along)

    @property
    def guarantee(self) -> Guarantee:
        """Symplectic, so that it keeps volumes too."""
        return SYMPLECTIC

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"{super().extra_repr()}, dt={self.dt:g}, moves={self.moves}"

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The half that is held, and the one that moves."""
        q, p = x.chunk(2, dim=-1)
        return (q, p) if self.moves == "p" else (p, q)

    def _state(self, held: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([held, moved] if self.moves == "p" else [moved, held], dim=-1)


class SymplecticGradient(SymplecticShear):
    r"""A SympNet's gradient module:  p ← p + h Kᵀ diag(a) σ(Kq + b),  or the same with q and p exchanged.

    It moves by the gradient of V(q) = Σ_j a_j S((Kq + b)_j), S' = σ, whose Hessian Kᵀ diag(a σ') K is symmetric: JᵀΩJ = Ω for all
    weights. Subtracting undoes it; as h → 0 it tends to the identity.

    Args:
        dim: numbers in the state (q, p), even.
        hidden: rows of K.
        moves: the half that moves, "p" or "q".
        activation: σ, a function of each number on its own.
        potential: instead of this V, builds one: a function of the number of coordinates, dim / 2, that gives a module
            (…, dim / 2) → (…, 1), such as a deeper network. Its gradient is taken by AD, which `torch.export` does not pass.
        dt: h, the step of the flow.

    Raises:
        ShapeError: dim is odd, or hidden is below 1.
        InputError: the activation mixes numbers; another half than "q" or "p"; the step is no positive number.
    Source: Jin, Zhang, Zhu, Tang & Karniadakis 2020, Neural Networks 132, 166, gradient modules, whose products approximate
        symplectic maps, in C^r on compact sets, with a smooth sigmoidal σ.
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
    ) -> None:
        super().__init__(gradient(half_of(dim), hidden, activation, potential), dim, moves=moves, dt=dt)


class SymplecticActivation(SymplecticShear):
    r"""A SympNet's activation module:  p ← p + h diag(a) σ(q),  or the same with q and p exchanged.

    It is a gradient module with K = I and b = 0, which linear modules before and after it make general.

    Args:
        dim: numbers in the state (q, p), even.
        moves: the half that moves, "p" or "q".
        activation: σ, a function of each number on its own.
        dt: h, the step of the flow.

    Raises:
        ShapeError: dim is odd.
        InputError: the activation mixes numbers; another half than "q" or "p"; the step is no positive number.
    Source: Jin, Zhang, Zhu, Tang & Karniadakis 2020, Neural Networks 132, 166, activation modules.
    """

    def __init__(self, dim: int, *, moves: str = "p", activation: ActivationLike = "tanh", dt: float = 1.0) -> None:
        super().__init__(Scaled(half_of(dim), activation=activation), dim, moves=moves, dt=dt)


class SymplecticLinear(Block):
    r"""A SympNet's linear module: shears by symmetric matrices in turn,  p ← p + h S₁q,  q ← q + h S₂p,  …,  and h b is added.

    Five factors reach every symplectic matrix. With S = (A + Aᵀ)/2 each shear is symplectic for all A.

    Args:
        dim: numbers in the state (q, p), even.
        factors: how many shears.
        moves: the half that the first one moves, "p" or "q".
        dt: h, the step of the flow.

    Raises:
        ShapeError: dim is odd, or there is no factor.
        InputError: another half than "q" or "p"; the step is no positive number.
    Source: Jin, Zhang, Zhu, Tang & Karniadakis 2020, Neural Networks 132, 166, linear modules; five factors: Jin, Lin & Xiao 2021,
        arXiv:2108.00223.
    """

    def __init__(self, dim: int, *, factors: int = 5, moves: str = "p", dt: float = 1.0) -> None:
        half = half_of(dim)
        if factors < 1:
            raise ShapeError(f"a product of shears has at least 1 factor, not {factors}.")
        super().__init__(dim, dt=dt)
        self.shears = nn.ModuleList(
            SymplecticShear(Symmetric(half), dim, moves=half_moved, dt=dt) for half_moved in turns(moves, factors)
        )
        self.b = nn.Parameter(torch.zeros(dim))

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The shears, then the translation."""
        for shear in self.shears:
            x = shear(x)
        return x + self.dt * self.b

    def inverse(self, y: Tensor) -> Tensor:
        """All undone, the last one first."""
        y = y - self.dt * self.b
        for shear in reversed(self.shears):
            y = shear.inverse(y)
        return y

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The shears on the tangents."""
        for shear in self.shears:
            x, v = shear.pushforward(x, v)
        return x + self.dt * self.b, v

    @property
    def guarantee(self) -> Guarantee:
        """Symplectic, so that it keeps volumes too."""
        return SYMPLECTIC


class HenonLayer(Block):
    r"""A Hénon-type layer: the fourth iterate of the map  H(q, p) = (p + η, −q + h ∇V(p)),  ∇V(p) = Kᵀ diag(a) σ(Kp + b).

    H is symplectic for every potential V, and explicit; it is undone by  p = q' − η,  q = h ∇V(p) − p'.  Where V is 0 it is a
    quarter turn about a point, whose fourth iterate is the identity: the layer tends to the identity as h → 0, whatever η is.

    Args:
        dim: numbers in the state (q, p), even.
        hidden: rows of K.
        iterates: how many times H is applied; 1 for the map itself, which is Hénon's own where ∇V is quadratic.
        activation: σ, a function of each number on its own.
        potential: instead of this V, builds one: a function of the number of coordinates, dim / 2, that gives a module
            (…, dim / 2) → (…, 1), such as a deeper network. Its gradient is taken by AD, which `torch.export` does not pass.
        dt: h, the step of the flow.

    Raises:
        ShapeError: dim is odd; hidden or iterates are below 1.
        InputError: the activation mixes numbers, or the step is no positive number.
    Source: Burby, Tang & Maulik 2020, Plasma Phys. Control. Fusion 63, 024001, arXiv:2007.04496. Products of such maps approximate
        symplectic maps: Turaev 2003, Nonlinearity 16, 123.
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
    ) -> None:
        half = half_of(dim)
        if iterates < 1:
            raise ShapeError(f"a layer applies its map at least 1 time, not {iterates}.\nLeave `iterates` at {TURN}.")
        super().__init__(dim, dt=dt)
        self.gradient = gradient(half, hidden, activation, potential)
        self.eta = nn.Parameter(torch.zeros(half))
        self.iterates = iterates

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """H, so many times."""
        q, p = x.chunk(2, dim=-1)
        for _ in range(self.iterates):
            q, p = p + self.eta, self.dt * self.gradient(p) - q
        return torch.cat([q, p], dim=-1)

    def inverse(self, y: Tensor) -> Tensor:
        """H undone as often."""
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
        """Symplectic, so that it keeps volumes too."""
        return SYMPLECTIC

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"{super().extra_repr()}, dt={self.dt:g}, iterates={self.iterates}"


def sympnet(
    dim: int,
    *,
    layers: int = 6,
    modules: str = "gradient",
    hidden: int = 16,
    activation: ActivationLike = "tanh",
    dt: float = 1.0,
) -> Sequential:
    r"""A SympNet on states (q, p), as a sequence of blocks.

    Args:
        dim: numbers in the state, even.
        layers: how many gradient modules, which move p and q in turn; or how many pairs of a linear and an activation module,
            behind which one more linear module follows.
        modules: "gradient" (the paper's G-SympNet) or "linear" (its LA-SympNet).
        hidden: rows of K in each gradient module.
        activation: σ, a function of each number on its own.
        dt: h of every module, and what one step of the network takes: as h → 0 it tends to the identity.

    Returns:
        A `Sequential`, symplectic and invertible.

    Raises:
        InputError: other modules than these two.
        ShapeError: dim is odd, or there is no layer.
    Source: Jin, Zhang, Zhu, Tang & Karniadakis 2020, Neural Networks 132, 166.
    """
    check_layers(layers)
    halves = turns("p", layers)
    if modules == "gradient":
        blocks: list[Block] = [SymplecticGradient(dim, hidden=hidden, moves=m, activation=activation, dt=dt) for m in halves]
    elif modules == "linear":
        pairs = [(SymplecticLinear(dim, dt=dt), SymplecticActivation(dim, moves=m, activation=activation, dt=dt)) for m in halves]
        blocks = [*(block for pair in pairs for block in pair), SymplecticLinear(dim, dt=dt)]
    else:
        raise InputError(f'a SympNet is made of "gradient" or of "linear" modules, not {modules!r}.')
    return Sequential(*blocks, dt=dt)


def henonnet(dim: int, *, layers: int = 4, hidden: int = 16, activation: ActivationLike = "tanh", dt: float = 1.0) -> Sequential:
    r"""A HénonNet on states (q, p): Hénon-type layers one after the other.

    Args:
        dim: numbers in the state, even.
        layers: how many.
        hidden: terms of each layer's potential, rows of K.
        activation: σ, a function of each number on its own.
        dt: h of every layer, and what one step of the network takes: as h → 0 it tends to the identity.

    Returns:
        A `Sequential`, symplectic and invertible.

    Raises:
        ShapeError: dim is odd, or there is no layer.
    Source: Burby, Tang & Maulik 2020, Plasma Phys. Control. Fusion 63, 024001, arXiv:2007.04496.
    """
    check_layers(layers)
    return Sequential(*(HenonLayer(dim, hidden=hidden, activation=activation, dt=dt) for _ in range(layers)), dt=dt)


def gradient(size: int, hidden: int, activation: ActivationLike, potential: Callable[[int], nn.Module] | None) -> Shift:
    """∇V in closed form, or of the potential that is built."""
    return OfRidges(size, hidden=hidden, activation=activation) if potential is None else OfPotential(potential(size))


def half_of(dim: int) -> int:
    """How many positions there are, and momenta."""
    if dim < 2 or dim % 2:
        raise ShapeError(
            f"a symplectic map acts on pairs (q, p), so on an even number of coordinates, not {dim}.\n"
            "For an odd number use sx.nn.VolumePreserving, or add a coordinate."
        )
    return dim // 2


def turns(first: str, count: int) -> list[str]:
    """The halves that move, by turns."""
    check_moves(first)
    second = "q" if first == "p" else "p"
    return [(first, second)[i % 2] for i in range(count)]


def check_moves(moves: str) -> None:
    """A shear moves one half of the state."""
    if moves not in ("q", "p"):
        raise InputError(f'a shear moves "q" or "p", not {moves!r}.')


def check_layers(layers: int) -> None:
    """A network has some."""
    if layers < 1:
        raise ShapeError(f"a network has at least 1 layer, not {layers}.")
