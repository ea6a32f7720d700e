"""Networks with a guarantee: layers that are discretised flows, each saying what it keeps; one guarantee a file."""

from separatrix.nn.block import Block, Residual, Sequential
from separatrix.nn.energy import Energy, KineticEnergy
from separatrix.nn.guarantee import Guarantee, guarantee_of
from separatrix.nn.hamiltonian import Hamiltonian, SeparableHamiltonian

BLOCKS: dict[str, type[Block]] = {
    "hamiltonian": Hamiltonian,
    "separable_hamiltonian": SeparableHamiltonian,
}
"""Every block on vectors by name; `BLOCKS[name](dim)` builds one with defaults, for a dim of at least 4 that is even."""

__all__ = [
    "BLOCKS",
    "Block",
    "Energy",
    "Guarantee",
    "Hamiltonian",
    "KineticEnergy",
    "Residual",
    "SeparableHamiltonian",
    "Sequential",
    "guarantee_of",
]
