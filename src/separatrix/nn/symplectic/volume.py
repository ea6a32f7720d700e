"""Volume-preserving networks: shears that move part of the state by a function of the rest."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.nn.activation import ActivationLike
from separatrix.nn.block import Block
from separatrix.nn.factory import Device, Factory
from separatrix.nn.guarantee import Guarantee
from separatrix.nn.shift import Network, shifted_along

Partition = Sequence[Sequence[int]]


class VolumePreserving(Block):
    r"""A volume-preserving layer of shears  xᵢ ← xᵢ + h sᵢ(other groups),  one for each group of a partition of the coordinates.

    With two halves and no hidden layer,

        x' = x + h Σ(A v + a),    v' = v + h Σ(B x' + b).

    The Jacobian of each shear is triangular with unit diagonal, so  log |det J| = 0  for all weights. The inverse subtracts the
    shifts in reverse order. In the plane the layer is also symplectic. As h → 0 it tends to the identity.

    Args:
        dim: numbers in the state, at least 2, even or odd.
        partition: two or more groups of coordinates in the order in which they move, such as [[0, 2], [1, 3, 4]]; together they
            contain each coordinate once. Default: the first half, rounded up, and the rest.
        hidden: widths of the hidden layers of each sᵢ, followed by a linear layer. Default: none, sᵢ = Σ(A v + a).
        activation: Σ, elementwise: a name such as "tanh", an `nn.Module` class or instance, or a function.
        shift: builds each sᵢ instead: a function (inputs, outputs) ↦ module acting on the last axis. Periodic modules make the
            layer a map of the torus.
        dt: h, the step size of the flow.
        device, dtype: of the weights, as in PyTorch; modules from `shift` keep their own.

    Raises:
        InputError: the partition has fewer than two groups or does not contain each coordinate once, the activation is unknown or
            not elementwise, or dt is not positive.
        ShapeError: dim is 1.
    Limits: without hidden layers a bounded Σ moves no coordinate by more than h times its bound; deep stacks on few coordinates
        need `hidden`.
    Source: Celledoni, Murari, Owren, Schönlieb & Sherry 2023, SIAM J. Sci. Comput. 45(6), arXiv:2210.02373; the shears are those of
        Dinh, Krueger & Bengio 2015, arXiv:1410.8516. Their products approximate bounded injective volume-preserving maps, in Lᵖ on
        compact sets: Zhu, Jin, Zhu & Tang 2021, arXiv:2106.10911.

    Example:
        >>> layer, x = sx.nn.VolumePreserving(3).double(), torch.randn(3).double()
        >>> print(f"{torch.func.jacrev(layer)(x).det():.6f}")
        1.000000
        >>> torch.allclose(layer.inverse(layer(x)), x)
        True
    """

    def __init__(
        self,
        dim: int,
        *,
        partition: Partition | None = None,
        hidden: Sequence[int] = (),
        activation: ActivationLike = "tanh",
        shift: Callable[[int, int], nn.Module] | None = None,
        dt: float = 1.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dim, dt=dt)
        self.partition = checked(halves(dim) if partition is None else partition, dim)
        order = torch.tensor([i for group in self.partition for i in group], device=device)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)
        own = partial(Network, hidden=hidden, activation=activation, device=device, dtype=dtype)
        build = own if shift is None else shift
        self.shifts = nn.ModuleList(build(dim - len(group), len(group)) for group in self.partition)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """All shears in order."""
        groups = self._groups(x)
        for i, shift in enumerate(self.shifts):
            groups[i] = groups[i] + self.dt * _fitting(shift(_others(groups, i)), groups[i])
        return self._state(groups)

    def inverse(self, y: Tensor) -> Tensor:
        """The inverse shears in reverse order."""
        groups = self._groups(y)
        for i in reversed(range(len(groups))):
            groups[i] = groups[i] - self.dt * self.shifts[i](_others(groups, i))
        return self._state(groups)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The shears of state and tangents, in closed form, or by forward AD through a module from `shift`."""
        groups, tangents = self._groups(x), self._groups(v)
        for i, shift in enumerate(self.shifts):
            moved, along = shifted_along(shift, _others(groups, i), _others(tangents, i))
            groups[i], tangents[i] = groups[i] + self.dt * moved, tangents[i] + self.dt * along
        return self._state(groups), self._state(tangents)

    @property
    def guarantee(self) -> Guarantee:
        """Volume; in the plane also the symplectic form, the area."""
        return keeps_volume(self.dim)

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return f"{super().extra_repr()}, dt={self.dt:g}, partition={[list(group) for group in self.partition]}"

    def _groups(self, x: Tensor) -> list[Tensor]:
        return list(x.index_select(-1, self.order).split([len(group) for group in self.partition], dim=-1))

    def _state(self, groups: list[Tensor]) -> Tensor:
        return torch.cat(groups, dim=-1).index_select(-1, self.back)


class DivergenceFree(Block):
    r"""A divergence-free splitting step: one shear along a learned direction in each plane of neighbouring coordinates.

    In the plane (k, k + 1), k = 0 … dim − 2,

        (xₖ, xₖ₊₁) ← (xₖ, xₖ₊₁) + h g(s, the other coordinates) (β, −α),    s = α xₖ + β xₖ₊₁.

    Every divergence-free field is a sum of fields, one for each plane, that are Hamiltonian in their plane with the other
    coordinates fixed. A shear is the exact flow of the Hamiltonian G(s, …) with ∂G/∂s = g: it moves along a line on which s and
    g are constant. Hence  log |det J| = 0,  and the inverse subtracts the shift. The direction (α, β) of each plane is learned;
    stack layers for more directions.

    Args:
        dim: numbers in the state, at least 2, even or odd.
        hidden: widths of the hidden layers of g.
        activation: elementwise function of g's hidden layers: a name such as "tanh", an `nn.Module` class or instance, or a
            function.
        dt: h, the step size of the flow.
        device, dtype: of the weights, as in PyTorch.

    Raises:
        ShapeError: dim is 1.
        InputError: the activation is unknown or not elementwise, or dt is not positive.
    Source: Feng & Shang 1995, Numer. Math. 71, 451 (the splitting); Bajārs 2023, J. Comput. Phys. 476, 111911 (as a network).

    Example:
        >>> layer, x = sx.nn.DivergenceFree(3).double(), torch.randn(3).double()
        >>> print(f"{torch.func.jacrev(layer)(x).det():.6f}")
        1.000000
        >>> torch.allclose(layer.inverse(layer(x)), x)
        True
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: Sequence[int] = (16,),
        activation: ActivationLike = "tanh",
        dt: float = 1.0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_whole("dim", dim, 2, error=ShapeError)
        super().__init__(dim, dt=dt)
        factory = Factory(device=device, dtype=dtype)
        self.normals = nn.Parameter(nn.init.normal_(torch.empty(dim - 1, 2, **factory)))
        shifts = (Network(dim - 1, 1, hidden=hidden, activation=activation, **factory) for _ in range(dim - 1))
        self.shifts = nn.ModuleList(shifts)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """The shears of all planes in order."""
        for k, shift in enumerate(self.shifts):
            x = self._moved(x, k, self.dt * shift(self._held(x, k)))
        return x

    def inverse(self, y: Tensor) -> Tensor:
        """The inverse shears in reverse order."""
        for k in reversed(range(len(self.shifts))):
            y = self._moved(y, k, -self.dt * self.shifts[k](self._held(y, k)))
        return y

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """The shears of state and tangents in closed form."""
        for k, shift in enumerate(self.shifts):
            moved, along = shift.pushforward(self._held(x, k), self._held(v, k))
            x, v = self._moved(x, k, self.dt * moved), self._moved(v, k, self.dt * along)
        return x, v

    @property
    def guarantee(self) -> Guarantee:
        """Volume; in the plane also the symplectic form, the area."""
        return keeps_volume(self.dim)

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return f"{super().extra_repr()}, dt={self.dt:g}"

    def _held(self, x: Tensor, k: int) -> Tensor:
        """The inputs of shear k, which it leaves fixed: s, and the coordinates outside of the plane; linear in x."""
        s = x[..., k : k + 2] @ self.normals[k]
        return torch.cat([s[..., None], x[..., :k], x[..., k + 2 :]], dim=-1)

    def _moved(self, x: Tensor, k: int, far: Tensor) -> Tensor:
        """States or tangents moved by a distance `far`, shape (…, 1), along the line of plane k."""
        alpha, beta = self.normals[k]
        plane = x[..., k : k + 2] + far * torch.stack([beta, -alpha])
        return torch.cat([x[..., :k], plane, x[..., k + 2 :]], dim=-1)


def keeps_volume(dim: int) -> Guarantee:
    """The guarantee of a product of shears; in the plane JᵀΩJ = det J · Ω with det J = 1."""
    return Guarantee(log_det=0.0, symplectic=dim == 2)


def halves(dim: int) -> Partition:
    """The first half of the coordinates, rounded up, and the rest."""
    middle = (dim + 1) // 2
    return range(middle), range(middle, dim)


def checked(partition: Partition, dim: int) -> tuple[tuple[int, ...], ...]:
    """The groups, after a check that there are two or more and that they contain each coordinate once."""
    check_whole("dim", dim, 2, error=ShapeError)
    if not isinstance(partition, Iterable) or not all(isinstance(group, Iterable) for group in partition):
        raise InputError(f"expected a partition into groups of coordinates such as {_shown(halves(dim))}, got {partition}.")
    groups = tuple(tuple(check_whole("a coordinate of the partition", i) for i in group) for group in partition)
    if len(groups) < 2 or not all(groups):
        raise InputError(
            f"expected a partition into two or more groups, each moved by the others, got {_shown(groups)}.\n"
            f"Split the {dim} coordinates, as in {_shown(halves(dim))}."
        )
    held = [i for group in groups for i in group]
    if sorted(held) != list(range(dim)):
        raise InputError(
            f"expected each of the coordinates 0 … {dim - 1} once in the partition, got {_shown(groups)}: {_wrong(held, dim)}.\n"
            f"Put each into one group, as in {_shown(halves(dim))}."
        )
    return groups


def _fitting(far: Tensor, group: Tensor) -> Tensor:
    """The shift of a group, after a check that it has one number for each coordinate of the group."""
    if far.shape[-1] != group.shape[-1]:
        raise ShapeError(
            f"expected a shift of {group.shape[-1]} numbers for its group, got {far.shape[-1]}.\n"
            "Let `shift(inputs, outputs)` build a module with `outputs` outputs."
        )
    return far


def _others(groups: list[Tensor], i: int) -> Tensor:
    return torch.cat([*groups[:i], *groups[i + 1 :]], dim=-1)


def _shown(groups: Iterable[Iterable[int]]) -> str:
    return str([list(group) for group in groups])


def _wrong(held: list[int], dim: int) -> str:
    twice = sorted({i for i in held if held.count(i) > 1})
    missing = [i for i in range(dim) if i not in held]
    beyond = sorted({i for i in held if i not in range(dim)})
    problems = ((twice, "twice"), (missing, "missing"), (beyond, "out of range"))
    return "; ".join(f"{', '.join(map(str, which))} {word}" for which, word in problems if which)
