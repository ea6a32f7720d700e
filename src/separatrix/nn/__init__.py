"""Networks with a guarantee: layers that are discretised flows, each saying what it keeps; one guarantee a file."""

from separatrix.nn.block import Block, Residual, Sequential
from separatrix.nn.guarantee import Guarantee, guarantee_of
from separatrix.nn.symplectic import HenonLayer, SymplecticActivation, SymplecticGradient, SymplecticLinear, henonnet, sympnet
from separatrix.nn.volume import DivergenceFree, VolumePreserving

BLOCKS: dict[str, type[Block]] = {
    "DivergenceFree": DivergenceFree,
    "HenonLayer": HenonLayer,
    "SymplecticActivation": SymplecticActivation,
    "SymplecticGradient": SymplecticGradient,
    "SymplecticLinear": SymplecticLinear,
    "VolumePreserving": VolumePreserving,
}
"""Every block on vectors by name; `BLOCKS[name](dim)` builds one with defaults, for a dim of at least 4 that is even."""

__all__ = [
    "BLOCKS",
    "Block",
    "DivergenceFree",
    "Guarantee",
    "HenonLayer",
    "Residual",
    "Sequential",
    "SymplecticActivation",
    "SymplecticGradient",
    "SymplecticLinear",
    "VolumePreserving",
    "guarantee_of",
    "henonnet",
    "sympnet",
]
