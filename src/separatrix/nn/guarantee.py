"""Proven properties of a map, as records that compose through sequences, sums and multiples."""

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

SUM, NORM = "sum", "norm"


@dataclass(frozen=True)
class WeightedSum:
    """The conserved function  Q(x) = Σ wᵢxᵢ.

    Args:
        weights: w.

    Example:
        >>> print(sx.nn.Guarantee(conserves=frozenset({sx.nn.parts.WeightedSum((18.0, 2.0))})))
        conserves the weighted sum of weights 18, 2
    """

    weights: tuple[float, ...]

    def __str__(self) -> str:
        """The name and the weights."""
        return f"weighted sum of weights {', '.join(f'{weight:g}' for weight in self.weights)}"


@dataclass(frozen=True)
class Guarantee:
    r"""Proven properties of a map f, valid at every state; none of them is measured.

    Args:
        lipschitz: an upper bound on the Lipschitz constant,  ‖f(x) − f(y)‖₂ ≤ L ‖x − y‖₂;  inf if none is known.
        conserves: functions Q with Q(f(x)) = Q(x): "sum" for Σxᵢ, "norm" for ‖x‖₂, a `WeightedSum` for Σ wᵢxᵢ.
        log_det: log |det Df(x)| if it is the same at every state, else None.
        symplectic: whether  Df(x)ᵀ Ω Df(x) = Ω  with Ω = (0 I; −I 0) and the state (q, p).

    Example:
        >>> half = sx.nn.Guarantee(lipschitz=0.5, conserves=frozenset({"sum"}))
        >>> print(half.then(half))
        0.25-Lipschitz, conserves the sum
    """

    lipschitz: float = math.inf
    conserves: frozenset[str | WeightedSum] = frozenset()
    log_det: float | None = None
    symplectic: bool = False

    def then(self, after: "Guarantee") -> "Guarantee":
        """The guarantee of the composition: this map, then `after`."""
        if self is IDENTITY or after is IDENTITY:  # the identity conserves every function, not only the named ones
            return after if self is IDENTITY else self
        dets = (self.log_det, after.log_det)
        return Guarantee(
            lipschitz=product(self.lipschitz, after.lipschitz),
            conserves=self.conserves & after.conserves,
            log_det=None if None in dets else sum(dets),
            symplectic=self.symplectic and after.symplectic,
        )

    def plus(self, other: "Guarantee") -> "Guarantee":
        """The guarantee of the sum  x ↦ f(x) + g(x):  Lipschitz factors add, nothing else carries over."""
        return Guarantee(lipschitz=self.lipschitz + other.lipschitz)

    def times(self, factor: float) -> "Guarantee":
        """The guarantee of  x ↦ factor · f(x)."""
        return Guarantee(lipschitz=product(self.lipschitz, abs(factor)))

    def words(self) -> str:
        """The guarantee in words."""
        said = [f"{self.lipschitz:.6g}-Lipschitz"] if math.isfinite(self.lipschitz) else []
        said += [f"conserves the {name}" for name in sorted(map(str, self.conserves))]
        said += [f"log |det J| = {self.log_det:.6g}"] if self.log_det is not None else []
        said += ["symplectic"] if self.symplectic else []
        return ", ".join(said) or "nothing is guaranteed"

    def __str__(self) -> str:
        """The guarantee in words."""
        return self.words()


NOTHING = Guarantee()
IDENTITY = Guarantee(lipschitz=1.0, conserves=frozenset({SUM, NORM}), log_det=0.0, symplectic=True)


def identity(dim: int) -> Guarantee:
    """The guarantee of the identity; in odd dimension there are no pairs (q, p), so it is not symplectic."""
    return IDENTITY if dim % 2 == 0 else replace(IDENTITY, symplectic=False)


def product(*factors: float) -> float:
    """The product of Lipschitz factors, with 0 · inf = 0: a constant map stays constant."""
    return 0.0 if 0.0 in factors else math.prod(factors)


def guarantee_of(module: nn.Module | Any) -> Guarantee:
    """The guarantee of a module: its own `guarantee` attribute, or that of PyTorch's identity, flattening and sequences.

    Any other module has none. Bounds for PyTorch's other layers depend on the input shape; `sx.certificate` computes them.

    Args:
        module: any object.

    Returns:
        Guarantee.

    Example:
        >>> sx.nn.guarantee_of(nn.Sequential(nn.Flatten(), sx.nn.Isometry(3))).lipschitz
        1.0
        >>> sx.nn.guarantee_of(nn.Linear(3, 3)).lipschitz  # none: use sx.certificate
        inf
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
    """The guarantee of modules applied in order."""
    total = IDENTITY
    for module in modules:
        total = total.then(guarantee_of(module))
    return total
