"""The records that functions return: values with units, error bars and a status. See `Result`."""

from separatrix.analysis.along.along import Along, Separate
from separatrix.analysis.along.tracks import Event, Tracks
from separatrix.analysis.attractor.correlation_dimension import CorrelationDimension
from separatrix.analysis.attractor.power_spectrum import PowerSpectrum
from separatrix.analysis.attractor.return_map import ReturnMap
from separatrix.analysis.basins.borders import BasinEntropy, UncertaintyExponent
from separatrix.analysis.basins.result import Basins
from separatrix.analysis.branches.branch import Bifurcation, Branch
from separatrix.analysis.branches.orbit_diagram import OrbitDiagram
from separatrix.analysis.compare.result import DynamicsComparison
from separatrix.analysis.depth.result import DepthProfile
from separatrix.analysis.driven.echo_state import EchoState
from separatrix.analysis.driven.memory import MemoryCapacity
from separatrix.analysis.driven.stationarity import Stationarity
from separatrix.analysis.fixed.result import FixedPoints
from separatrix.analysis.gradients.propagation import Propagation
from separatrix.analysis.gradients.transient import TransientGrowth
from separatrix.analysis.lyapunov.covariant import CovariantVectors
from separatrix.analysis.lyapunov.divergence import DivergenceRate
from separatrix.analysis.lyapunov.finite_time import FiniteTimeField
from separatrix.analysis.lyapunov.pooled import PooledSpectrum
from separatrix.analysis.lyapunov.result import LyapunovSpectrum
from separatrix.analysis.pictures.flow_map import FlowMap
from separatrix.analysis.pictures.phase_portrait import PhasePortrait
from separatrix.analysis.stepping.stability_region import StabilityRegion
from separatrix.analysis.stepping.step_convergence import StepConvergence
from separatrix.bounds.certificate.certificate import Certificate
from separatrix.bounds.operator_norm.operator_norm import OperatorNorm
from separatrix.bounds.robustness.adversarial import AdversarialImages
from separatrix.bounds.robustness.robustness import Robustness
from separatrix.flows.events.arrival import Arrival
from separatrix.flows.solution import Solution, StructuredSolution
from separatrix.nn.fit.fit_flow import FlowFit
from separatrix.nn.fit.fit_observations import ObservationFit
from separatrix.nn.fit.sparse_terms import SparseTerms
from separatrix.nn.flows.density import LogDensity
from separatrix.portrait.depth import DepthPortrait
from separatrix.portrait.portrait import Portrait, RecurrentPortrait

__all__ = [
    "AdversarialImages",
    "Along",
    "Arrival",
    "BasinEntropy",
    "Basins",
    "Bifurcation",
    "Branch",
    "Certificate",
    "CorrelationDimension",
    "CovariantVectors",
    "DepthPortrait",
    "DepthProfile",
    "DivergenceRate",
    "DynamicsComparison",
    "EchoState",
    "Event",
    "FiniteTimeField",
    "FixedPoints",
    "FlowFit",
    "FlowMap",
    "LogDensity",
    "LyapunovSpectrum",
    "MemoryCapacity",
    "ObservationFit",
    "OperatorNorm",
    "OrbitDiagram",
    "PhasePortrait",
    "PooledSpectrum",
    "Portrait",
    "PowerSpectrum",
    "Propagation",
    "RecurrentPortrait",
    "ReturnMap",
    "Robustness",
    "Separate",
    "Solution",
    "SparseTerms",
    "StabilityRegion",
    "Stationarity",
    "StepConvergence",
    "StructuredSolution",
    "Tracks",
    "TransientGrowth",
    "UncertaintyExponent",
]
