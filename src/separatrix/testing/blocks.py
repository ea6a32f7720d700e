"""Conformance of blocks: a guarantee is held to what dense Jacobians say, at random weights and after training."""

import copy
import math

import torch
from torch import Tensor, nn

from separatrix.core.errors import UnsupportedModuleError
from separatrix.core.randomness import torch_generator
from separatrix.core.tangent import jacobian
from separatrix.nn.block import Block
from separatrix.nn.guarantee import NORM, NOTHING, SUM, Guarantee, WeightedSum, guarantee_of
from separatrix.testing.statements import require

STATES = 8  # random states at each size
SIZES = (0.1, 1.0, 10.0)  # of the states
STEPS = 20  # of training
KNOWN = 1e-3  # how well a determinant or an inverse must be known at one state at least


def check_block(block: nn.Module, *, tol: float = 1e-12, seed: int = 0) -> None:
    """Compare a block's guarantee with dense Jacobians in float64: as it is, with other weights, and after training.

    Returns nothing if the guarantee holds.

    Args:
        block: a `Block`, which is not changed.
        tol: largest error of a conserved quantity, of log |det J| or of JᵀΩJ, relative to the size of what is compared.
        seed: seed of the weights and the states.

    Raises:
        UnsupportedModuleError: the module has no guarantee.
        AssertionError: the guarantee fails at some state, or the inverse does not invert; the message has both numbers.

    Example:
        >>> sx.testing.check_block(sx.nn.Isometry(3))  # returns nothing: the guarantee holds
    """
    if not isinstance(getattr(block, "guarantee", None), Guarantee) or not hasattr(block, "dim"):
        raise UnsupportedModuleError(
            f"expected a block with a guarantee, got a {type(block).__name__}.\nGive it dim and guarantee, as sx.nn.Block has."
        )
    _regular(copy.deepcopy(block).double(), tol, seed)
    for change in (lambda kept, _: kept, scrambled, trained):
        held = change(copy.deepcopy(block).double(), seed)
        for size in SIZES:
            _hold(held, size, tol, seed)


def scrambled(block: nn.Module, seed: int) -> nn.Module:
    """The same block with other weights: standard normal numbers in the place of every parameter."""
    random = torch_generator(seed, "weights")
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=parameter.dtype))
    return block


def trained(block: nn.Module, seed: int) -> nn.Module:
    """The same block after some large steps of Adam towards random targets."""
    parameters = [parameter for parameter in block.parameters() if parameter.requires_grad]
    if not parameters:
        return block
    random = torch_generator(seed, "training")
    x = torch.randn(64, block.dim, generator=random, dtype=torch.float64)
    target = torch.randn(64, block.out, generator=random, dtype=torch.float64)
    optimiser = torch.optim.Adam(parameters, lr=0.05)
    for _ in range(STEPS):
        optimiser.zero_grad()
        nn.functional.mse_loss(block(x), target).backward()
        optimiser.step()
    return block


@torch.no_grad()
def _hold(block: nn.Module, size: float, tol: float, seed: int) -> None:
    x = _states(block, size, seed)
    y, jac, promised, undone = block(x), jacobian(block, x), guarantee_of(block), _undone(block)
    if promised == NOTHING and not undone:
        return
    finite = bool(y.isfinite().all() and jac.isfinite().all())
    require(finite, f"the block or its Jacobian is not finite at states of size {size}.")
    for check in (_lipschitz, _sum, _weighted_sums, _norm, _log_det, _symplectic):
        check(promised, x, y, jac, tol)
    if undone:
        spread = torch.linalg.cond(jac).clamp(min=1e3)  # rounding in y comes back that much larger
        off = (block.inverse(y) - x).abs().amax(-1)
        _small("the inverse of the block's value is off by", off, spread * tol * (1 + x.abs().amax(-1)))


@torch.no_grad()
def _regular(block: nn.Module, tol: float, seed: int) -> None:
    """Somewhere a determinant or an inverse must be known better than its condition number leaves it, or nothing would be held."""
    promised = guarantee_of(block)
    if promised.log_det is None and not _undone(block):
        return
    jacs = torch.cat([jacobian(block, _states(block, size, seed)) for size in SIZES])
    rows, columns = jacs.shape[-2:]
    require(rows == columns, f"a Jacobian of {rows} × {columns} numbers has no determinant and no inverse.")
    require(bool(jacs.isfinite().all()), "the block's Jacobian is not finite.")
    least = float(torch.linalg.cond(jacs).nan_to_num(math.inf).min())
    told = "an inverse is promised" if promised.log_det is None else f"log |det J| = {promised.log_det:g} is promised"
    require(least * tol <= KNOWN, f"{told}, but J is singular to rounding at every state: condition numbers from {least:.1e}.")


def _states(block: nn.Module, size: float, seed: int) -> Tensor:
    return size * torch.randn(STATES, block.dim, generator=torch_generator(seed, "states"), dtype=torch.float64)


def _undone(block: nn.Module) -> bool:
    return isinstance(block, Block) and block.invertible


def _lipschitz(promised: Guarantee, x: Tensor, y: Tensor, jac: Tensor, tol: float) -> None:
    if math.isfinite(promised.lipschitz):
        measured = float(torch.linalg.matrix_norm(jac, 2).max())
        require(measured <= promised.lipschitz * (1 + 1e-10), f"‖J‖ = {measured}, but the block promises {promised.lipschitz}.")


def _sum(promised: Guarantee, x: Tensor, y: Tensor, jac: Tensor, tol: float) -> None:
    if SUM in promised.conserves:
        _small("the sum changed by", (y.sum(-1) - x.sum(-1)).abs().max(), tol * max(1.0, float(y.abs().sum(-1).max())))


def _weighted_sums(promised: Guarantee, x: Tensor, y: Tensor, jac: Tensor, tol: float) -> None:
    for kept in (kept for kept in promised.conserves if isinstance(kept, WeightedSum)):
        w = x.new_tensor(kept.weights)
        before, after = (x * w).sum(-1), (y * w).sum(-1)
        _small(f"the {kept} changed by", (after - before).abs().max(), tol * max(1.0, float((y * w).abs().sum(-1).max())))


def _norm(promised: Guarantee, x: Tensor, y: Tensor, jac: Tensor, tol: float) -> None:
    if NORM in promised.conserves:
        change = (torch.linalg.vector_norm(y, dim=-1) / torch.linalg.vector_norm(x, dim=-1) - 1).abs().max()
        _small("the norm changed by the fraction", change, tol)


def _log_det(promised: Guarantee, x: Tensor, y: Tensor, jac: Tensor, tol: float) -> None:
    if promised.log_det is not None:
        spread = torch.linalg.cond(jac)  # the determinant of an ill-conditioned matrix is known that much worse
        off = (torch.linalg.slogdet(jac).logabsdet - promised.log_det).abs()
        _small(f"log |det J| differs from {promised.log_det} by", off, tol * spread.clamp(min=1.0))


def _symplectic(promised: Guarantee, x: Tensor, y: Tensor, jac: Tensor, tol: float) -> None:
    if promised.symplectic:
        require(jac.shape[-1] % 2 == 0, f"a map of {jac.shape[-1]} numbers, which are no pairs (q, p), is not symplectic.")
        omega = poisson(jac.shape[-1] // 2)
        scale = torch.linalg.matrix_norm(jac, 2).square().clamp(min=1.0)
        _small("JᵀΩJ differs from Ω by", (jac.mT @ omega @ jac - omega).abs().amax((-1, -2)), tol * scale)


def poisson(half: int) -> Tensor:
    """Ω = (0 I; −I 0) of size 2 · half, float64."""
    zero, one = torch.zeros(half, half, dtype=torch.float64), torch.eye(half, dtype=torch.float64)
    return torch.cat([torch.cat([zero, one], -1), torch.cat([-one, zero], -1)])


def _small(what: str, value: Tensor, most: Tensor | float) -> None:
    """At every state; the worst one is told."""
    most = torch.as_tensor(most, dtype=value.dtype).expand(value.shape)
    worst = int((value / most).nan_to_num(math.inf, math.inf).argmax())
    off, allowed = float(value.flatten()[worst]), float(most.flatten()[worst])
    require(math.isfinite(off) and off <= allowed, f"{what} {off:.3g}, more than {allowed:.3g}.")
