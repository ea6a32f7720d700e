"""The blocks and the recurrent cells by name: what the command line, the documentation and the tests iterate over."""

from separatrix.nn.block import Block
from separatrix.nn.cells import AntisymmetricCell, CoRNNCell, LEMCell, LipschitzCell, OdeCell
from separatrix.nn.conserving.gradient_field import Gradient
from separatrix.nn.conserving.mass import MassPreserving
from separatrix.nn.conserving.sphere import SpherePreserving
from separatrix.nn.nonexpansive.isometry import Coisometry, Isometry
from separatrix.nn.nonexpansive.networks import LipschitzNet
from separatrix.nn.nonexpansive.vectors import Alternating, Expansive, NonExpansive
from separatrix.nn.reversible.reversible_net import MomentumNet, ReversibleNet
from separatrix.nn.symplectic.hamiltonian import Hamiltonian, SeparableHamiltonian
from separatrix.nn.symplectic.symplectic import HenonLayer, SymplecticActivation, SymplecticGradient, SymplecticLinear
from separatrix.nn.symplectic.volume import DivergenceFree, VolumePreserving

# Blocks on vectors: BLOCKS[name](dim) builds one with defaults for any even dim ≥ 4
BLOCKS: dict[str, type[Block]] = {
    "alternating": Alternating,
    "coisometry": Coisometry,
    "divergence_free": DivergenceFree,
    "expansive": Expansive,
    "gradient": Gradient,
    "hamiltonian": Hamiltonian,
    "henon_layer": HenonLayer,
    "isometry": Isometry,
    "lipschitz_net": LipschitzNet,
    "mass_preserving": MassPreserving,
    "momentum": MomentumNet,
    "non_expansive": NonExpansive,
    "reversible": ReversibleNet,
    "separable_hamiltonian": SeparableHamiltonian,
    "sphere_preserving": SpherePreserving,
    "symplectic_activation": SymplecticActivation,
    "symplectic_gradient": SymplecticGradient,
    "symplectic_linear": SymplecticLinear,
    "volume_preserving": VolumePreserving,
}

# CELLS[name](input_size, hidden_size) builds one with defaults
CELLS: dict[str, type[OdeCell]] = {
    "antisymmetric": AntisymmetricCell,
    "cornn": CoRNNCell,
    "lem": LEMCell,
    "lipschitz": LipschitzCell,
}
