"""Networks with a guarantee: layers that are steps of structured flows and state what they conserve or bound."""

from separatrix.nn import parts
from separatrix.nn.block import Block, Residual, Sequential
from separatrix.nn.cells import (
    LEM,
    AntisymmetricCell,
    AntisymmetricRNN,
    CoRNN,
    CoRNNCell,
    LEMCell,
    LipschitzCell,
    LipschitzRNN,
)
from separatrix.nn.conserving.gradient_field import Gradient
from separatrix.nn.conserving.mass import MassPreserving, mass_preserving_network
from separatrix.nn.conserving.presnov import Presnov, PresnovNetwork, presnov
from separatrix.nn.conserving.sphere import SpherePreserving
from separatrix.nn.fit.fit_flow import fit_flow
from separatrix.nn.fit.fit_observations import fit_observations
from separatrix.nn.fit.universal import Universal
from separatrix.nn.flows.continuous_depth import ContinuousDepth
from separatrix.nn.flows.damped import Damped, damped
from separatrix.nn.flows.density import ContinuousNormalizingFlow
from separatrix.nn.flows.neural_ode import NeuralODE
from separatrix.nn.guarantee import Guarantee, guarantee_of
from separatrix.nn.latent.latent_ode import LatentODE
from separatrix.nn.nonexpansive.images import NonExpansiveConv2d
from separatrix.nn.nonexpansive.isometry import Coisometry, Isometry, IsometryConv2d
from separatrix.nn.nonexpansive.margin import MarginLoss, certified_radii
from separatrix.nn.nonexpansive.networks import LipschitzConvNet, LipschitzNet, ResidualConvNet, ResidualNet
from separatrix.nn.nonexpansive.vectors import NonExpansive
from separatrix.nn.reversible.reversible import Momentum, Reversible
from separatrix.nn.reversible.reversible_net import MomentumNet, ReversibleNet
from separatrix.nn.symplectic.hamiltonian import Hamiltonian, SeparableHamiltonian
from separatrix.nn.symplectic.networks import henonnet, sympnet
from separatrix.nn.symplectic.volume import DivergenceFree, VolumePreserving

__all__ = [
    "LEM",
    "AntisymmetricCell",
    "AntisymmetricRNN",
    "Block",
    "CoRNN",
    "CoRNNCell",
    "Coisometry",
    "ContinuousDepth",
    "ContinuousNormalizingFlow",
    "Damped",
    "DivergenceFree",
    "Gradient",
    "Guarantee",
    "Hamiltonian",
    "Isometry",
    "IsometryConv2d",
    "LEMCell",
    "LatentODE",
    "LipschitzCell",
    "LipschitzConvNet",
    "LipschitzNet",
    "LipschitzRNN",
    "MarginLoss",
    "MassPreserving",
    "Momentum",
    "MomentumNet",
    "NeuralODE",
    "NonExpansive",
    "NonExpansiveConv2d",
    "Presnov",
    "PresnovNetwork",
    "Residual",
    "ResidualConvNet",
    "ResidualNet",
    "Reversible",
    "ReversibleNet",
    "SeparableHamiltonian",
    "Sequential",
    "SpherePreserving",
    "Universal",
    "VolumePreserving",
    "certified_radii",
    "damped",
    "fit_flow",
    "fit_observations",
    "guarantee_of",
    "henonnet",
    "mass_preserving_network",
    "parts",
    "presnov",
    "sympnet",
]
