"""Damped residual blocks: one learned number per block interpolates between a residual and a plain network."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from separatrix.core.checks import check_choice, check_not_negative, refused
from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.core.parametric import Number
from separatrix.nn.block import Residual
from separatrix.nn.guarantee import Guarantee, guarantee_of
from separatrix.nn.replay import called

M = TypeVar("M", bound=nn.Module)
START = (0.20, 0.25)  # initial λ as published; (0.1, 0.2) for 164 layers


@dataclass(frozen=True)
class Rule:
    """How λ depends on the learned number ν, and the weight of the block.

    Args:
        learned: λ ↦ ν, and ν ↦ λ before the ReLU: the map is its own inverse.
        weight: λ ↦ the factor of b(x).
    """

    learned: Callable[[Tensor], Tensor]
    weight: Callable[[Number], Number]


RULES = {
    "in": Rule(learned=lambda lam: 1 - lam, weight=lambda lam: 1.0),
    "lambda-in": Rule(learned=lambda lam: lam, weight=lambda lam: 1 + lam),
}


class Damped(nn.Module):
    r"""A damped residual block,  x ↦ b(x) + (1 − λ) x  ("in")  or  x ↦ (1 + λ) b(x) + (1 − λ) x  ("lambda-in").

    These are unit Euler steps of  ẋ = −λx + b(x)  and  ẋ = −λx + (1 + λ) b(x). At λ = 0 both are residual blocks; at λ = 1 the
    first is b(x) and the second is 2 b(x). Each block learns one number ν, with λ = ReLU(1 − ν) for "in" and λ = ReLU(ν) for
    "lambda-in". Weight decay pulls ν to 0, hence λ to 1 for "in" and to 0 for "lambda-in". At λ = 0 the gradient vanishes, so λ
    stays there.

    Args:
        block: b, any module that keeps the shape of its input, which may be vectors, images or any other tensor.
        rule: "in" or "lambda-in".
        damping: λ ≥ 0, fixed. Default: learned.
        start: interval from which the initial λ is drawn, 0 < low ≤ high. λ takes the dtype and device of the block.

    Raises:
        InputError: rule is unknown, block is not a module, damping is negative or not finite, or start is not an interval above 0.
        ShapeError: in a call, if the block changes the shape.
    Limits: b must not write to its input and must not contain the skip connection itself; for networks whose blocks do, see
        `damped`.
    Source: Yang et al. 2020, ICML, arXiv:2006.05749, "In-ResNet" and "λ-In-ResNet".

    Example:
        >>> sx.nn.Damped(nn.Identity(), damping=0.25)(torch.ones(2))  # x + (1 − λ) x
        tensor([1.7500, 1.7500])
    """

    def __init__(
        self,
        block: nn.Module,
        *,
        rule: str = "in",
        damping: float | None = None,
        start: tuple[float, float] = START,
    ) -> None:
        super().__init__()
        check_choice("rule", rule, RULES)
        if not isinstance(block, nn.Module):
            raise InputError(f"expected an nn.Module x ↦ b(x) as block, got a {type(block).__name__}.")
        self.block, self.rule, self.given = block, rule, None if damping is None else check_not_negative("damping", damping)
        low, high = check_start(start)
        drawn = torch.empty((), **kind_of(block)).uniform_(low, high)
        self.raw = nn.Parameter(RULES[rule].learned(drawn)) if damping is None else None

    @property
    def damping(self) -> Tensor:
        """The present λ, a tensor without axes, with its graph if it is learned."""
        if self.raw is None:
            return torch.tensor(self.given, dtype=torch.float64)
        return RULES[self.rule].learned(self.raw).relu()

    def forward(self, x: Tensor) -> Tensor:
        """The damped step."""
        value = called(self.block, x)
        got = tuple(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"
        if got != tuple(x.shape):
            block = self.block.block if isinstance(self.block, Branch) else self.block
            raise ShapeError(
                f"{type(block).__name__} maps a tensor of shape {tuple(x.shape)} to {got}; a damped block keeps the shape.\n"
                "Pass a function as `blocks` that selects only blocks that keep the shape."
            )
        lam = self.damping.to(x) if self.given is None else self.given
        return RULES[self.rule].weight(lam) * value + (1 - lam) * x

    @property
    def guarantee(self) -> Guarantee:
        """Lipschitz factor |1 − λ| + Lip b ("in") or |1 − λ| + (1 + λ) Lip b ("lambda-in")."""
        lam = self.damping.item()
        return Guarantee(lipschitz=abs(1 - lam)).plus(guarantee_of(self.block).times(RULES[self.rule].weight(lam)))

    def extra_repr(self) -> str:
        """Options shown by `repr`."""
        return f"rule={self.rule!r}" + ("" if self.given is None else f", damping={self.given:g}")


class Branch(nn.Module):
    """The branch of a residual block r,  b(x) = r(x) − x.

    Args:
        block: r.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """The difference, or r(x) itself if r changes the shape."""
        value = called(self.block, x)
        return value - x if isinstance(value, Tensor) and value.shape == x.shape else value

    @property
    def guarantee(self) -> Guarantee:
        """Lipschitz factor Lip r + 1."""
        return guarantee_of(self.block).plus(Guarantee(lipschitz=1.0))


def damped(
    network: M,
    blocks: type[nn.Module] | Callable[[str, nn.Module], bool] = Residual,
    *,
    rule: str = "in",
    damping: float | None = None,
    start: tuple[float, float] = START,
) -> M:
    r"""A copy of a network whose residual blocks  x ↦ x + b(x)  are damped, each with its own λ; see `Damped`.

    Args:
        network: any module; it is not changed.
        blocks: the class of the residual blocks, or a function (name, module) ↦ bool that selects them. Of nested blocks the
            outermost are damped. Default: `sx.nn.Residual`.
        rule, damping, start: as for `Damped`. A block that is used in several places has one λ.

    Returns:
        A deep copy in which each selected module r is replaced by `Damped` with b(x) = r(x) − x. At λ = 0 it computes the same
        function as the network.

    Raises:
        InputError: the network has no such block.
        UnsupportedModuleError: network is not an nn.Module.
    Limits: the blocks must have an identity skip connection and nothing after the sum, as in pre-activation networks; select blocks
        that keep the shape.
    Source: as `Damped`.

    Example:
        >>> network = sx.nn.damped(nn.Sequential(sx.nn.Residual(nn.Linear(2, 2))), damping=1.0)
        >>> x = torch.ones(1, 2)
        >>> torch.equal(network(x), network[0].block(x))  # λ = 1 removes the skip connection
        True
    """
    if not isinstance(network, nn.Module):
        raise UnsupportedModuleError(f"expected an nn.Module, got a {type(network).__name__}.")
    chosen = (lambda _, module: isinstance(module, blocks)) if isinstance(blocks, type) else blocks
    model = copy.deepcopy(network)
    places = model.named_modules(remove_duplicate=False)
    names = outermost([name for name, module in places if name and chosen(name, module)])
    if not names:
        raise InputError(f"{type(network).__name__} has no block to damp.\nPass the class of its residual blocks as `blocks`.")
    options = {"rule": rule, "damping": damping, "start": start}
    found = {name: model.get_submodule(name) for name in names}
    new = {block: Damped(branch(block), **options) for block in found.values()}  # one per block, even if used in several places
    for name, block in found.items():
        model.set_submodule(name, new[block])
    return model


def branch(block: nn.Module) -> nn.Module:
    """The branch b of a residual block x ↦ x + b(x)."""
    plain = type(block) is Residual and block.skip == block.scale == 1
    return block.get_submodule("module") if plain else Branch(block)


def kind_of(block: nn.Module) -> dict[str, Any]:
    """Dtype and device of the weights of a block, if it has any."""
    like = next((p for p in block.parameters() if p.is_floating_point()), torch.empty(()))
    return {"dtype": like.dtype, "device": like.device}


def outermost(names: list[str]) -> list[str]:
    """The names that are not inside another one."""
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def check_start(start: tuple[float, float]) -> tuple[float, float]:
    """Refuse an interval not above 0, where the ReLU has no gradient."""
    low, high = start if isinstance(start, Sequence) and len(start) == 2 else (0.0, 0.0)
    if not 0 < low <= high < float("inf"):
        raise refused("start", start, "an interval (low, high) with 0 < low ≤ high")
    return low, high
