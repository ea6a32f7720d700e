"""Networks with a guarantee: layers that are discretised flows, each saying what it keeps; one guarantee a file."""

from separatrix.nn.block import Block, Residual, Sequential
from separatrix.nn.guarantee import Guarantee, guarantee_of
from separatrix.nn.margin import MarginLoss, certified_radii
from separatrix.nn.robustness import Robustness, robustness

BLOCKS: dict[str, type[Block]] = {}
"""Every block on vectors by name; `BLOCKS[name](dim)` builds one with defaults, for a dim of at least 4 that is even."""

__all__ = [
    "BLOCKS",
    "Block",
    "Guarantee",
    "MarginLoss",
    "Residual",
    "Robustness",
    "Sequential",
    "certified_radii",
    "guarantee_of",
    "robustness",
]
