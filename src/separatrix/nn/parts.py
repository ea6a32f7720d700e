"""Parts of which the networks of `sx.nn` are made, for networks of your own."""

from separatrix.nn.conserving.mass import MassPreservingLift, MassPreservingProjection
from separatrix.nn.energy import Energy, KineticEnergy
from separatrix.nn.fit.normalized import Normalized
from separatrix.nn.fit.universal import zero_output_
from separatrix.nn.flows.dense_field import DenseField
from separatrix.nn.guarantee import WeightedSum
from separatrix.nn.nonexpansive.budget import exact_factor, published_factor
from separatrix.nn.nonexpansive.networks import Pool2d
from separatrix.nn.nonexpansive.orthogonal import OrthogonalKernel, OrthogonalMatrix, ScaledKernel, frozen

__all__ = [
    "DenseField",
    "Energy",
    "KineticEnergy",
    "MassPreservingLift",
    "MassPreservingProjection",
    "Normalized",
    "OrthogonalKernel",
    "OrthogonalMatrix",
    "Pool2d",
    "ScaledKernel",
    "WeightedSum",
    "exact_factor",
    "frozen",
    "published_factor",
    "zero_output_",
]
