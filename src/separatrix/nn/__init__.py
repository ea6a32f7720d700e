"""Networks with a guarantee: layers that are discretised flows, each saying what it keeps; one guarantee a file."""

from separatrix.nn.block import Block, Residual, Sequential
from separatrix.nn.guarantee import Guarantee, WeightedSum, guarantee_of
from separatrix.nn.mass import (
    MassPreserving,
    MassPreservingLift,
    MassPreservingProjection,
    Weighted,
    mass_preserving_network,
)

BLOCKS: dict[str, type[Block]] = {
    "MassPreserving": MassPreserving,
from separatrix.nn.gradient import Gradient
from separatrix.nn.guarantee import Guarantee, guarantee_of
from separatrix.nn.presnov import Presnov, PresnovNetwork, presnov
from separatrix.nn.sphere import SpherePreserving

BLOCKS: dict[str, type[Block]] = {
    "gradient": Gradient,
    "sphere_preserving": SpherePreserving,
}
"""Every block on vectors by name; `BLOCKS[name](dim)` builds one with defaults, for a dim of at least 4 that is even."""

__all__ = [
    "BLOCKS",
    "Block",
    "Gradient",
    "Guarantee",
    "MassPreserving",
    "MassPreservingLift",
    "MassPreservingProjection",
    "Residual",
    "Sequential",
    "Weighted",
    "WeightedSum",
    "guarantee_of",
    "mass_preserving_network",
    "Presnov",
    "PresnovNetwork",
    "Residual",
    "Sequential",
    "SpherePreserving",
    "guarantee_of",
    "presnov",
]
