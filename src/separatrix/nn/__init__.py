"""Networks with a guarantee: layers that are discretised flows, each saying what it keeps; one guarantee a file."""

from separatrix.nn.adversarial import AdversarialImages, adversarial_images
from separatrix.nn.block import Block, Residual, Sequential
from separatrix.nn.guarantee import Guarantee, WeightedSum, guarantee_of
from separatrix.nn.mass import (
    MassPreserving,
    MassPreservingLift,
    MassPreservingProjection,
    Weighted,
    mass_preserving_network,
)
from separatrix.nn.certificate import Certificate, certificate
from separatrix.nn.guarantee import Guarantee, guarantee_of
from separatrix.nn.operator_norm import OperatorNorm, operator_norm

BLOCKS: dict[str, type[Block]] = {
    "MassPreserving": MassPreserving,
from separatrix.nn.gradient import Gradient
from separatrix.nn.guarantee import Guarantee, guarantee_of
from separatrix.nn.presnov import Presnov, PresnovNetwork, presnov
from separatrix.nn.sphere import SpherePreserving

BLOCKS: dict[str, type[Block]] = {
    "gradient": Gradient,
    "sphere_preserving": SpherePreserving,
from separatrix.nn.budget import exact_factor, published_factor
from separatrix.nn.gradient_steps import Alternating, Expansive, NonExpansive
from separatrix.nn.gradient_steps_2d import AlternatingConv2d, ExpansiveConv2d, NonExpansiveConv2d
from separatrix.nn.guarantee import Guarantee, guarantee_of
from separatrix.nn.isometry import Coisometry, Isometry, IsometryConv2d
from separatrix.nn.lipschitz_network import LipschitzConvNet, LipschitzNet, Pool2d, ResidualConvNet, ResidualNet
from separatrix.nn.margin import MarginLoss, certified_radii
from separatrix.nn.orthogonal import OrthogonalKernel, OrthogonalMatrix, ScaledKernel, frozen
from separatrix.nn.robustness import Robustness, robustness

BLOCKS: dict[str, type[Block]] = {
    "isometry": Isometry,
    "coisometry": Coisometry,
    "non_expansive": NonExpansive,
    "expansive": Expansive,
    "alternating": Alternating,
    "lipschitz_net": LipschitzNet,
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
    "AdversarialImages",
    "Alternating",
    "AlternatingConv2d",
    "Block",
    "Gradient",
    "Certificate",
    "Guarantee",
    "MassPreserving",
    "MassPreservingLift",
    "MassPreservingProjection",
    "Coisometry",
    "Expansive",
    "ExpansiveConv2d",
    "Guarantee",
    "Isometry",
    "IsometryConv2d",
    "LipschitzConvNet",
    "LipschitzNet",
    "MarginLoss",
    "NonExpansive",
    "NonExpansiveConv2d",
    "OrthogonalKernel",
    "OrthogonalMatrix",
    "Pool2d",
    "Residual",
    "ResidualConvNet",
    "ResidualNet",
    "Robustness",
    "ScaledKernel",
    "Sequential",
    "Weighted",
    "WeightedSum",
    "guarantee_of",
    "mass_preserving_network",
    "Presnov",
    "PresnovNetwork",
    "OperatorNorm",
    "Energy",
    "Guarantee",
    "Hamiltonian",
    "KineticEnergy",
    "Residual",
    "SeparableHamiltonian",
    "Sequential",
    "SpherePreserving",
    "guarantee_of",
    "presnov",
    "adversarial_images",
    "certified_radii",
    "exact_factor",
    "frozen",
    "guarantee_of",
    "published_factor",
    "DivergenceFree",
    "Guarantee",
    "HenonLayer",
    "Residual",
    "Sequential",
    "SymplecticActivation",
    "SymplecticGradient",
    "SymplecticLinear",
    "VolumePreserving",
    "certificate",
    "guarantee_of",
    "henonnet",
    "sympnet",
    "operator_norm",
    "robustness",
]
