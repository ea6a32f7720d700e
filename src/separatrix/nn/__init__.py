"""Networks with a guarantee: layers that are discretised flows, each saying what it keeps; one guarantee a file."""

from separatrix.nn.adversarial import AdversarialImages, adversarial_images
from separatrix.nn.block import Block, Residual, Sequential
from separatrix.nn.budget import exact_factor, published_factor
from separatrix.nn.cells import (
    CELLS,
    LEM,
    AntisymmetricCell,
    AntisymmetricRNN,
    CoRNN,
    CoRNNCell,
    LEMCell,
    LipschitzCell,
    LipschitzRNN,
)
from separatrix.nn.certificate import Certificate, certificate
from separatrix.nn.continuous_depth import ContinuousDepth
from separatrix.nn.continuous_normalizing_flow import ContinuousNormalizingFlow
from separatrix.nn.damped import Damped, damped
from separatrix.nn.dense_field import DenseField
from separatrix.nn.energy import Energy, KineticEnergy
from separatrix.nn.fit_flow import FlowFit, fit_flow
from separatrix.nn.fit_observations import ObservationFit, fit_observations
from separatrix.nn.gradient import Gradient
from separatrix.nn.gradient_steps import Alternating, Expansive, NonExpansive
from separatrix.nn.gradient_steps_2d import AlternatingConv2d, ExpansiveConv2d, NonExpansiveConv2d
from separatrix.nn.guarantee import Guarantee, WeightedSum, guarantee_of
from separatrix.nn.hamiltonian import Hamiltonian, SeparableHamiltonian
from separatrix.nn.isometry import Coisometry, Isometry, IsometryConv2d
from separatrix.nn.latent_ode import LatentODE
from separatrix.nn.lipschitz_network import LipschitzConvNet, LipschitzNet, Pool2d, ResidualConvNet, ResidualNet
from separatrix.nn.log_density import LogDensity
from separatrix.nn.margin import MarginLoss, certified_radii
from separatrix.nn.mass import MassPreserving, MassPreservingLift, MassPreservingProjection, Weighted, mass_preserving_network
from separatrix.nn.neural_ode import NeuralODE
from separatrix.nn.normalized import Normalized
from separatrix.nn.operator_norm import OperatorNorm, operator_norm
from separatrix.nn.orthogonal import OrthogonalKernel, OrthogonalMatrix, ScaledKernel, frozen
from separatrix.nn.presnov import Presnov, PresnovNetwork, presnov
from separatrix.nn.reversible import Momentum, Reversible
from separatrix.nn.reversible_net import MomentumNet, ReversibleNet
from separatrix.nn.robustness import Robustness, robustness
from separatrix.nn.sphere import SpherePreserving
from separatrix.nn.symplectic import HenonLayer, SymplecticActivation, SymplecticGradient, SymplecticLinear, henonnet, sympnet
from separatrix.nn.universal import Universal, zero_output_
from separatrix.nn.volume import DivergenceFree, VolumePreserving

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
"""Every block on vectors by name; `BLOCKS[name](dim)` builds one with defaults, for a dim of at least 4 that is even."""

__all__ = [
    "BLOCKS",
    "CELLS",
    "LEM",
    "AdversarialImages",
    "Alternating",
    "AlternatingConv2d",
    "AntisymmetricCell",
    "AntisymmetricRNN",
    "Block",
    "Certificate",
    "CoRNN",
    "CoRNNCell",
    "Coisometry",
    "ContinuousDepth",
    "ContinuousNormalizingFlow",
    "Damped",
    "DenseField",
    "DivergenceFree",
    "Energy",
    "Expansive",
    "ExpansiveConv2d",
    "FlowFit",
    "Gradient",
    "Guarantee",
    "Hamiltonian",
    "HenonLayer",
    "Isometry",
    "IsometryConv2d",
    "KineticEnergy",
    "LEMCell",
    "LatentODE",
    "LipschitzCell",
    "LipschitzConvNet",
    "LipschitzNet",
    "LipschitzRNN",
    "LogDensity",
    "MarginLoss",
    "MassPreserving",
    "MassPreservingLift",
    "MassPreservingProjection",
    "Momentum",
    "MomentumNet",
    "NeuralODE",
    "NonExpansive",
    "NonExpansiveConv2d",
    "Normalized",
    "ObservationFit",
    "OperatorNorm",
    "OrthogonalKernel",
    "OrthogonalMatrix",
    "Pool2d",
    "Presnov",
    "PresnovNetwork",
    "Residual",
    "ResidualConvNet",
    "ResidualNet",
    "Reversible",
    "ReversibleNet",
    "Robustness",
    "ScaledKernel",
    "SeparableHamiltonian",
    "Sequential",
    "SpherePreserving",
    "SymplecticActivation",
    "SymplecticGradient",
    "SymplecticLinear",
    "Universal",
    "VolumePreserving",
    "Weighted",
    "WeightedSum",
    "adversarial_images",
    "certificate",
    "certified_radii",
    "damped",
    "exact_factor",
    "fit_flow",
    "fit_observations",
    "frozen",
    "guarantee_of",
    "henonnet",
    "mass_preserving_network",
    "operator_norm",
    "presnov",
    "published_factor",
    "robustness",
    "sympnet",
    "zero_output_",
]
