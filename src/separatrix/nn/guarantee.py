"""What is proven of a map, as data that composes through sequences, sums and repetitions."""

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

SUM, NORM = "sum", "norm"


@dataclass(frozen=True)
class WeightedSum:
    """The function Q(x) = Σ wᵢxᵢ, which some maps conserve.

    Args:
        weights: w.
    """

    weights: tuple[float, ...]

    def __str__(self) -> str:
        """Its name, with the weights."""
        return f"weighted sum of weights {', '.join(f'{weight:g}' for weight in self.weights)}"


@dataclass(frozen=True)
class Guarantee:
    r"""What is proven of a map f, for every state; not what was measured of it.

    Args:
        lipschitz: an upper bound of the Lipschitz constant,  ‖f(x) − f(y)‖₂ ≤ L ‖x − y‖₂;  inf where none is known.
        conserves: functions Q with Q(f(x)) = Q(x): "sum" is Σxᵢ, "norm" is ‖x‖₂, a `WeightedSum` is Σ wᵢxᵢ.
        log_det: log |det Df(x)|, where it is the same at every state; else None.
        symplectic: whether  Df(x)ᵀ Ω Df(x) = Ω,  with Ω = (0 I; −I 0) and the state (q, p).
    """

    lipschitz: float = math.inf
    conserves: frozenset[str | WeightedSum] = frozenset()
    log_det: float | None = None
    symplectic: bool = False

    def then(self, after: "Guarantee") -> "Guarantee":
        """Of the composition: this map first, then `after`."""
        if self is IDENTITY or after is IDENTITY:  # which conserves every function, not only those it can name
            return after if self is IDENTITY else self
        dets = (self.log_det, after.log_det)
        return Guarantee(
            lipschitz=product(self.lipschitz, after.lipschitz),
            conserves=self.conserves & after.conserves,
            log_det=None if None in dets else sum(dets),
            symplectic=self.symplectic and after.symplectic,
        )

    def plus(self, other: "Guarantee") -> "Guarantee":
        """Of the sum  x ↦ f(x) + g(x),  as in residual wiring: Lipschitz factors add, and nothing else outlives a sum."""
        return Guarantee(lipschitz=self.lipschitz + other.lipschitz)

    def times(self, factor: float) -> "Guarantee":
        """Of  x ↦ factor · f(x)."""
        return Guarantee(lipschitz=product(self.lipschitz, abs(factor)))

    def words(self) -> str:
        """What is guaranteed, in words."""
        said = [f"{self.lipschitz:.6g}-Lipschitz"] if math.isfinite(self.lipschitz) else []
        said += [f"conserves the {name}" for name in sorted(map(str, self.conserves))]
        said += [f"log |det J| = {self.log_det:.6g}"] if self.log_det is not None else []
        said += ["symplectic"] if self.symplectic else []
        return ", ".join(said) or "nothing is guaranteed"

    def __str__(self) -> str:
        """The same words."""
        return self.words()


NOTHING = Guarantee()
IDENTITY = Guarantee(lipschitz=1.0, conserves=frozenset({SUM, NORM}), log_det=0.0, symplectic=True)


def identity(dim: int) -> Guarantee:
    """Of the identity on states of so many numbers; an odd number has no pairs (q, p)."""
    return IDENTITY if dim % 2 == 0 else replace(IDENTITY, symplectic=False)


def product(*factors: float) -> float:
    """The product of bounds, where a map that is constant stays so whatever follows: 0 · inf = 0."""
    return 0.0 if 0.0 in factors else math.prod(factors)


def guarantee_of(module: nn.Module | Any) -> Guarantee:
    """A module's own `guarantee`; of PyTorch's identity, flattening and sequences too; else nothing.

    Bounds for PyTorch's other layers need the shape of their input: `sx.certificate` gives them.
    """
    own = getattr(module, "guarantee", None)
    if isinstance(own, Guarantee):
        return own
    if isinstance(module, nn.Identity) or (isinstance(module, nn.modules.dropout._DropoutNd) and not module.training):
        return IDENTITY
    if isinstance(module, nn.Flatten | nn.Unflatten):
        return Guarantee(lipschitz=1.0, conserves=frozenset({SUM, NORM}))
    if isinstance(module, nn.Sequential):
        return composed(module)
    return NOTHING


def composed(modules: Any) -> Guarantee:
    """Of modules one after the other."""
    total = IDENTITY
    for module in modules:
        total = total.then(guarantee_of(module))
    return total
