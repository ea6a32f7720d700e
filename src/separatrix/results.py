"""The records that functions return: values with units, error bars and a status. See `Result`."""

# made by docs/tables.py from the classes of results
from separatrix.analysis.along.along import Along as Along
from separatrix.analysis.along.along import Separate as Separate
from separatrix.analysis.along.tracks import Event as Event
from separatrix.analysis.along.tracks import Tracks as Tracks
from separatrix.analysis.along.widths import WidthScaling as WidthScaling
from separatrix.analysis.attractor.correlation_dimension import CorrelationDimension as CorrelationDimension
from separatrix.analysis.attractor.power_spectrum import PowerSpectrum as PowerSpectrum
from separatrix.analysis.attractor.return_map import ReturnMap as ReturnMap
from separatrix.analysis.basins.borders import BasinEntropy as BasinEntropy
from separatrix.analysis.basins.borders import UncertaintyExponent as UncertaintyExponent
from separatrix.analysis.basins.result import Basins as Basins
from separatrix.analysis.branches.branch import Bifurcation as Bifurcation
from separatrix.analysis.branches.branch import Branch as Branch
from separatrix.analysis.branches.orbit_diagram import OrbitDiagram as OrbitDiagram
from separatrix.analysis.compare.result import DynamicsComparison as DynamicsComparison
from separatrix.analysis.depth.coordinates import CoordinateSizes as CoordinateSizes
from separatrix.analysis.depth.result import DepthProfile as DepthProfile
from separatrix.analysis.driven.echo_state import EchoState as EchoState
from separatrix.analysis.driven.memory import MemoryCapacity as MemoryCapacity
from separatrix.analysis.driven.stationarity import Stationarity as Stationarity
from separatrix.analysis.fixed.result import FixedPoints as FixedPoints
from separatrix.analysis.gradients.propagation import Propagation as Propagation
from separatrix.analysis.gradients.transient import TransientGrowth as TransientGrowth
from separatrix.analysis.lyapunov.covariant import CovariantVectors as CovariantVectors
from separatrix.analysis.lyapunov.divergence import DivergenceRate as DivergenceRate
from separatrix.analysis.lyapunov.finite_time import FiniteTimeField as FiniteTimeField
from separatrix.analysis.lyapunov.pooled import PooledSpectrum as PooledSpectrum
from separatrix.analysis.lyapunov.result import LyapunovSpectrum as LyapunovSpectrum
from separatrix.analysis.pictures.flow_map import FlowMap as FlowMap
from separatrix.analysis.pictures.phase_portrait import PhasePortrait as PhasePortrait
from separatrix.analysis.stepping.stability_region import StabilityRegion as StabilityRegion
from separatrix.analysis.stepping.step_convergence import StepConvergence as StepConvergence
from separatrix.bounds.certificate.certificate import Certificate as Certificate
from separatrix.bounds.operator_norm.operator_norm import OperatorNorm as OperatorNorm
from separatrix.bounds.robustness.adversarial import AdversarialImages as AdversarialImages
from separatrix.bounds.robustness.robustness import Robustness as Robustness
from separatrix.flows.events.arrival import Arrival as Arrival
from separatrix.flows.solution import Solution as Solution
from separatrix.flows.solution import StructuredSolution as StructuredSolution
from separatrix.nn.fit.fit_flow import FlowFit as FlowFit
from separatrix.nn.fit.fit_observations import ObservationFit as ObservationFit
from separatrix.nn.fit.sparse_terms import SparseTerms as SparseTerms
from separatrix.nn.flows.density import LogDensity as LogDensity
from separatrix.portrait.depth import DepthPortrait as DepthPortrait
from separatrix.portrait.portrait import Portrait as Portrait
from separatrix.portrait.portrait import RecurrentPortrait as RecurrentPortrait
from separatrix.training.result import Curvature as Curvature

__all__ = [
    "AdversarialImages",
    "Along",
    "Arrival",
    "BasinEntropy",
    "Basins",
    "Bifurcation",
    "Branch",
    "Certificate",
    "CoordinateSizes",
    "CorrelationDimension",
    "CovariantVectors",
    "Curvature",
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
    "WidthScaling",
]
