"""Parts of which the networks of `sx.nn` are made, for networks of your own."""

from separatrix.nn.conserving.mass import MassPreservingLift, MassPreservingProjection, Weighted
from separatrix.nn.energy import Energy, KineticEnergy
from separatrix.nn.fit.normalized import Normalized
from separatrix.nn.fit.universal import zero_output_
from separatrix.nn.flows.dense_field import DenseField
from separatrix.nn.guarantee import WeightedSum
from separatrix.nn.nonexpansive.budget import exact_factor, published_factor
from separatrix.nn.nonexpansive.images import AlternatingConv2d, ExpansiveConv2d
from separatrix.nn.nonexpansive.networks import Pool2d
from separatrix.nn.nonexpansive.orthogonal import OrthogonalKernel, OrthogonalMatrix, ScaledKernel, frozen
from separatrix.nn.nonexpansive.vectors import Alternating, Expansive
from separatrix.nn.symplectic.symplectic import HenonLayer, SymplecticActivation, SymplecticGradient, SymplecticLinear

__all__ = [
    "Alternating",
    "AlternatingConv2d",
    "DenseField",
    "Energy",
    "Expansive",
    "ExpansiveConv2d",
    "HenonLayer",
    "KineticEnergy",
    "MassPreservingLift",
    "MassPreservingProjection",
    "Normalized",
    "OrthogonalKernel",
    "OrthogonalMatrix",
    "Pool2d",
    "ScaledKernel",
    "SymplecticActivation",
    "SymplecticGradient",
    "SymplecticLinear",
    "Weighted",
    "WeightedSum",
    "exact_factor",
    "frozen",
    "published_factor",
    "zero_output_",
]
