"""Damped residual blocks: one learned number between a residual network and a plain one."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from separatrix.core.errors import InputError, ShapeError, UnsupportedModuleError
from separatrix.core.parametric import Number
from separatrix.nn.block import Residual
from separatrix.nn.guarantee import Guarantee, guarantee_of
from separatrix.nn.replay import called

M = TypeVar("M", bound=nn.Module)
START = (0.20, 0.25)  # of λ, as published; for 164 layers (0.1, 0.2)


@dataclass(frozen=True)
class Rule:
    """How λ is learned and weighs the block.

    Args:
        learned: the number ν that is learned, of λ; where λ > 0 it is its own inverse.
        weight: of b(x), of λ.
    """

    learned: Callable[[Tensor], Tensor]
    weight: Callable[[Number], Number]


RULES = {
    "in": Rule(learned=lambda lam: 1 - lam, weight=lambda lam: 1.0),
    "lambda-in": Rule(learned=lambda lam: lam, weight=lambda lam: 1 + lam),
}


class Damped(nn.Module):
    r"""A damped residual block,  x ↦ b(x) + (1 − λ) x  ("in")  or  x ↦ (1 + λ) b(x) + (1 − λ) x  ("lambda-in").

    They are unit Euler steps of  ẋ = −λx + b(x)  and  ẋ = −λx + (1 + λ) b(x). At λ = 0 both are a residual block; at λ = 1 the
    first is the plain b(x), and the second twice that. λ is learned, one number a block: λ = ReLU(1 − ν) by the first rule, and
    λ = ReLU(ν) by the second. So weight decay, which draws ν to 0, draws λ to 1 by the first rule and to 0 by the second; and a λ
    that has come to 0 has no gradient and stays there.

    Args:
        block: b, any module that keeps the shape: of vectors, of images, of anything.
        rule: "in" or "lambda-in".
        damping: λ, kept. Default: learned.
        start: the interval from which a learned λ is drawn to begin with.

    Raises:
        InputError: another rule; a λ that is negative or not finite; an interval that is none.
        ShapeError: when it is called: the block changes the shape.
    Limits: b does not write to its input, and is the block without the way around it; for networks whose blocks have one of their
        own, see `damped`.
    Source: Yang et al. 2020, ICML, arXiv:2006.05749, "In-ResNet" and "λ-In-ResNet".
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
        if rule not in RULES:
            raise InputError(f"there is no rule {rule!r}; choose one of {', '.join(map(repr, RULES))}.")
        if not isinstance(block, nn.Module):
            raise InputError(f"a block is an nn.Module x ↦ b(x), not a {type(block).__name__}.")
        self.block, self.rule, self.given = block, rule, None if damping is None else check_damping(damping)
        low, high = check_start(start)
        drawn = torch.empty((), **kind_of(block)).uniform_(low, high)
        self.raw = nn.Parameter(RULES[rule].learned(drawn)) if damping is None else None

    @property
    def damping(self) -> Tensor:
        """λ as it is, one number, with its graph where it is learned."""
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
                f"{type(block).__name__} takes a tensor of shape {tuple(x.shape)} to {got}.\n"
                "A damped block keeps the shape: leave those that change it undamped, `blocks` may be a function that chooses."
            )
        lam = self.damping.to(x) if self.given is None else self.given
        return RULES[self.rule].weight(lam) * value + (1 - lam) * x

    @property
    def guarantee(self) -> Guarantee:
        """Factor |1 − λ| + Lip b, or |1 − λ| + (1 + λ) Lip b."""
        lam = self.damping.item()
        return Guarantee(lipschitz=abs(1 - lam)).plus(guarantee_of(self.block).times(RULES[self.rule].weight(lam)))

    def extra_repr(self) -> str:
        """What `print` shows between the parentheses."""
        return f"rule={self.rule!r}" + ("" if self.given is None else f", damping={self.given:g}")


class Branch(nn.Module):
    """What a residual block adds to its input,  b(x) = r(x) − x.

    Args:
        block: r.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """The difference; of a block that changes the shape, what it gives."""
        value = called(self.block, x)
        return value - x if isinstance(value, Tensor) and value.shape == x.shape else value

    @property
    def guarantee(self) -> Guarantee:
        """Factor Lip r + 1."""
        return guarantee_of(self.block).plus(Guarantee(lipschitz=1.0))


def damped(
    network: M,
    blocks: type[nn.Module] | Callable[[str, nn.Module], bool] = Residual,
    *,
    rule: str = "in",
    damping: float | None = None,
    start: tuple[float, float] = START,
) -> M:
    r"""A copy of a network in which residual blocks  x ↦ x + b(x)  are damped, each with a λ of its own; see `Damped`.

    Args:
        network: any module, which is not changed.
        blocks: the class of the residual blocks; or which modules are, given their names and themselves. Of blocks within blocks
            the outer ones. Default: `sx.nn.Residual`.
        rule, damping, start: as of `Damped`. A block that is called in several places has one λ.

    Returns:
        A deep copy, in which each of these modules r is `Damped` with b(x) = r(x) − x. At λ = 0 it computes what the network does.

    Raises:
        InputError: there are no such blocks in the network.
    Limits: the blocks must have the identity as their way around, and nothing behind the sum, as pre-activation blocks have:
        choose those that keep the shape.
    Source: as `Damped`.
    """
    if not isinstance(network, nn.Module):
        raise UnsupportedModuleError(f"what is damped is an nn.Module, not a {type(network).__name__}.")
    chosen = (lambda _, module: isinstance(module, blocks)) if isinstance(blocks, type) else blocks
    model = copy.deepcopy(network)
    places = model.named_modules(remove_duplicate=False)
    names = outermost([name for name, module in places if name and chosen(name, module)])
    if not names:
        raise InputError(f"{type(network).__name__} has no block to damp.\nPass the class of its residual blocks.")
    options = {"rule": rule, "damping": damping, "start": start}
    found = {name: model.get_submodule(name) for name in names}
    new = {block: Damped(branch(block), **options) for block in found.values()}  # one for each block, wherever it is called
    for name, block in found.items():
        model.set_submodule(name, new[block])
    return model


def branch(block: nn.Module) -> nn.Module:
    """The module b of a residual block x ↦ x + b(x)."""
    plain = type(block) is Residual and block.skip == block.scale == 1
    return block.get_submodule("module") if plain else Branch(block)


def kind_of(block: nn.Module) -> dict[str, Any]:
    """Type and device of a block's weights, where it has any."""
    like = next((p for p in block.parameters() if p.is_floating_point()), torch.empty(()))
    return {"dtype": like.dtype, "device": like.device}


def outermost(names: list[str]) -> list[str]:
    """Those that are within no other."""
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def check_damping(damping: float) -> float:
    """Refuse a λ that accelerates."""
    if not (isinstance(damping, Real) and 0 <= damping < float("inf")):
        raise InputError(f"damping is {damping!r}; λ is at least 0, where the block is a residual one.")
    return float(damping)


def check_start(start: tuple[float, float]) -> tuple[float, float]:
    """Refuse what is no interval of λ above 0, below which ReLU has no gradient."""
    low, high = start if isinstance(start, Sequence) and len(start) == 2 else (0.0, 0.0)
    if not 0 < low <= high < float("inf"):
        raise InputError(f"start is {start}; λ begins between two numbers above 0, the smaller one first.")
    return low, high
