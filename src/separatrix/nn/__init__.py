"""Networks with a guarantee: layers that are discretised flows, each saying what it keeps; one guarantee a file."""

from separatrix.nn.block import Block, Residual, Sequential
from separatrix.nn.certificate import Certificate, certificate
from separatrix.nn.guarantee import Guarantee, guarantee_of
from separatrix.nn.operator_norm import OperatorNorm, operator_norm

BLOCKS: dict[str, type[Block]] = {}
"""Every block on vectors by name; `BLOCKS[name](dim)` builds one with defaults, for a dim of at least 4 that is even."""

__all__ = [
    "BLOCKS",
    "Block",
    "Certificate",
    "Guarantee",
    "OperatorNorm",
    "Residual",
    "Sequential",
    "certificate",
    "guarantee_of",
    "operator_norm",
]
