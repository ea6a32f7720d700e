"""Volume-preserving networks: shears, each of which moves some numbers of the state by a function of what it leaves as it is."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_whole
from separatrix.core.errors import InputError, ShapeError
from separatrix.nn.activation import ActivationLike
from separatrix.nn.block import Block
from separatrix.nn.guarantee import Guarantee
from separatrix.nn.shift import Network, shifted_along

Partition = Sequence[Sequence[int]]


class VolumePreserving(Block):
    r"""Shears  xᵢ ← xᵢ + h sᵢ(the other groups),  one for each group of a partition of the coordinates.

    With two halves and no hidden layer it is

        x' = x + h Σ(A v + a),    v' = v + h Σ(B x' + b).

    Each shear's Jacobian is triangular with ones on its diagonal, so that  log |det J| = 0  for all weights; it is undone exactly
    by subtracting what it added. In the plane it is symplectic too. As h → 0 it tends to the identity.

    Args:
        dim: numbers in the state, at least 2; it may be odd.
        partition: the groups in the order in which they are moved, such as [[0, 2], [1, 3, 4]]; two or more, which hold each
            coordinate once. Default: the first half, which is the longer one, and the rest.
        hidden: widths of the hidden layers of each sᵢ, behind which a linear layer follows; none for Σ(A v + a).
        activation: Σ, a function of each number on its own, such as `torch.tanh` or an `nn.Softplus()`.
        shift: instead of these perceptrons, builds each sᵢ: a function of two numbers, (inputs, outputs), that gives a module on
            the last axis. Any will do; one that is periodic makes the block a map of the torus.
        dt: h, the step of the flow.

    Raises:
        InputError: groups overlap or leave a coordinate out; there is one group alone; the activation mixes numbers; the step is no
            positive number.
        ShapeError: there is one coordinate alone.
    Limits: without hidden layers a bounded Σ moves no number by more than h; deep stacks of few coordinates need `hidden`.
    Source: Celledoni, Murari, Owren, Schönlieb & Sherry 2023, SIAM J. Sci. Comput. 45(6), arXiv:2210.02373; the shears are those of
        Dinh, Krueger & Bengio 2015, arXiv:1410.8516. Their products approximate bounded injective volume-preserving maps, in Lᵖ on
        compact sets: Zhu, Jin, Zhu & Tang 2021, arXiv:2106.10911.
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
    ) -> None:
        super().__init__(dim, dt=dt)
        self.partition = checked(halves(dim) if partition is None else partition, dim)
        order = torch.tensor([i for group in self.partition for i in group])
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)
        build = partial(Network, hidden=hidden, activation=activation) if shift is None else shift
        self.shifts = nn.ModuleList(build(dim - len(group), len(group)) for group in self.partition)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """One shear after the other."""
        groups = self._groups(x)
        for i, shift in enumerate(self.shifts):
            groups[i] = groups[i] + self.dt * _fitting(shift(_others(groups, i)), groups[i])
        return self._state(groups)

    def inverse(self, y: Tensor) -> Tensor:
        """The shears undone, the last one first."""
        groups = self._groups(y)
        for i in reversed(range(len(groups))):
            groups[i] = groups[i] - self.dt * self.shifts[i](_others(groups, i))
        return self._state(groups)

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """In closed form; through a module of your own, by forward AD."""
        groups, tangents = self._groups(x), self._groups(v)
        for i, shift in enumerate(self.shifts):
            moved, along = shifted_along(shift, _others(groups, i), _others(tangents, i))
            groups[i], tangents[i] = groups[i] + self.dt * moved, tangents[i] + self.dt * along
        return self._state(groups), self._state(tangents)

    @property
    def guarantee(self) -> Guarantee:
        """Volume; in the plane also the symplectic form, which is the area."""
        return keeps_volume(self.dim)

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"{super().extra_repr()}, dt={self.dt:g}, partition={[list(group) for group in self.partition]}"

    def _groups(self, x: Tensor) -> list[Tensor]:
        return list(x.index_select(-1, self.order).split([len(group) for group in self.partition], dim=-1))

    def _state(self, groups: list[Tensor]) -> Tensor:
        return torch.cat(groups, dim=-1).index_select(-1, self.back)


class DivergenceFree(Block):
    r"""The divergence-free splitting: a shear in each plane of neighbouring coordinates, along a direction that is learned.

    In the plane (k, k + 1), k = 0 … dim − 2,

        (xₖ, xₖ₊₁) ← (xₖ, xₖ₊₁) + h g(s, the other coordinates) (β, −α),    s = α xₖ + β xₖ₊₁.

    Every divergence-free field is a sum of fields, one a plane, that are Hamiltonian in their plane with the other coordinates
    held. A shear is the exact flow of the Hamiltonian G(s, …), ∂G/∂s = g: it moves along a line on which s stays as it is, and so
    does g. Hence  log |det J| = 0,  and subtracting undoes it. Each plane's direction (α, β) is learned; stack blocks for more.

    Args:
        dim: numbers in the state, at least 2; it may be odd.
        hidden: widths of the hidden layers of g.
        activation: of g, a function of each number on its own.
        dt: h, the step of the flow.

    Raises:
        ShapeError: there is one coordinate alone.
        InputError: the activation mixes numbers, or the step is no positive number.
    Source: Feng & Shang 1995, Numer. Math. 71, 451 (the splitting); Bajārs 2023, J. Comput. Phys. 476, 111911 (as a network).
    """

    def __init__(self, dim: int, *, hidden: Sequence[int] = (16,), activation: ActivationLike = "tanh", dt: float = 1.0) -> None:
        check_dim(dim)
        super().__init__(dim, dt=dt)
        self.normals = nn.Parameter(nn.init.normal_(torch.empty(dim - 1, 2)))
        self.shifts = nn.ModuleList(Network(dim - 1, 1, hidden=hidden, activation=activation) for _ in range(dim - 1))

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        """One plane after the other."""
        for k, shift in enumerate(self.shifts):
            x = self._moved(x, k, self.dt * shift(self._held(x, k)))
        return x

    def inverse(self, y: Tensor) -> Tensor:
        """The planes' shears undone, the last one first."""
        for k in reversed(range(len(self.shifts))):
            y = self._moved(y, k, -self.dt * self.shifts[k](self._held(y, k)))
        return y

    def pushforward(self, x: Tensor, v: Tensor, n: int = 0) -> tuple[Tensor, Tensor]:
        """In closed form."""
        for k, shift in enumerate(self.shifts):
            moved, along = shift.pushforward(self._held(x, k), self._held(v, k))
            x, v = self._moved(x, k, self.dt * moved), self._moved(v, k, self.dt * along)
        return x, v

    @property
    def guarantee(self) -> Guarantee:
        """Volume; in the plane also the symplectic form, which is the area."""
        return keeps_volume(self.dim)

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"{super().extra_repr()}, dt={self.dt:g}"

    def _held(self, x: Tensor, k: int) -> Tensor:
        """What plane k's shear leaves as it is: s, and the coordinates outside of the plane; linear in x."""
        s = x[..., k : k + 2] @ self.normals[k]
        return torch.cat([s[..., None], x[..., :k], x[..., k + 2 :]], dim=-1)

    def _moved(self, x: Tensor, k: int, far: Tensor) -> Tensor:
        """The state, or tangents, moved so far along plane k's line; `far` has shape (…, 1)."""
        alpha, beta = self.normals[k]
        plane = x[..., k : k + 2] + far * torch.stack([beta, -alpha])
        return torch.cat([x[..., :k], plane, x[..., k + 2 :]], dim=-1)


def keeps_volume(dim: int) -> Guarantee:
    """Of a product of shears; in the plane JᵀΩJ = det J · Ω, and det J is 1."""
    return Guarantee(log_det=0.0, symplectic=dim == 2)


def halves(dim: int) -> Partition:
    """The first half of the coordinates, which is the longer one, and the rest."""
    middle = (dim + 1) // 2
    return range(middle), range(middle, dim)


def checked(partition: Partition, dim: int) -> tuple[tuple[int, ...], ...]:
    """The groups, each coordinate in one of two or more."""
    check_dim(dim)
    if not isinstance(partition, Iterable) or not all(isinstance(group, Iterable) for group in partition):
        raise InputError(f"a partition is a list of groups of coordinates, as in {_shown(halves(dim))}, not {partition}.")
    groups = tuple(tuple(check_whole("a coordinate of the partition", i) for i in group) for group in partition)
    if len(groups) < 2 or not all(groups):
        raise InputError(
            f"the partition {_shown(groups)} is not of two or more groups: each is moved by the others, so there must be some.\n"
            f"Split the {dim} coordinates, as in {_shown(halves(dim))}."
        )
    held = [i for group in groups for i in group]
    if sorted(held) != list(range(dim)):
        raise InputError(
            f"the partition {_shown(groups)} does not hold each of the coordinates 0 … {dim - 1} once: {_wrong(held, dim)}.\n"
            f"Put each into one group, as in {_shown(halves(dim))}."
        )
    return groups


def check_dim(dim: int) -> None:
    """A shear moves some coordinates by others."""
    if dim < 2:
        raise ShapeError(f"a volume is kept by moving some coordinates by others, and there is {dim} alone.\nGive at least 2.")


def _fitting(far: Tensor, group: Tensor) -> Tensor:
    """How far a group moves, one number for each of its own."""
    if far.shape[-1] != group.shape[-1]:
        raise ShapeError(
            f"a shift gives {far.shape[-1]} numbers for a group of {group.shape[-1]}.\n"
            "Have `shift(inputs, outputs)` build a module that gives as many as `outputs`."
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
    told = ((twice, "twice"), (missing, "missing"), (beyond, "no coordinate"))
    return "; ".join(f"{', '.join(map(str, which))} {word}" for which, word in told if which)
