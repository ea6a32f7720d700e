"""Questions asked of any system: functions from a System to a Result."""

from separatrix.analysis.along.along import Along, Separate, along
from separatrix.analysis.along.tracks import Event, Tracks
from separatrix.analysis.attractor.correlation_dimension import (
    CorrelationDimension,
    correlation_dimension,
    correlation_dimension_of,
)
from separatrix.analysis.attractor.power_spectrum import PowerSpectrum, power_spectrum
from separatrix.analysis.attractor.return_map import ReturnMap, return_map
from separatrix.analysis.basins.basins import basins_of_attraction
from separatrix.analysis.basins.borders import BasinEntropy, UncertaintyExponent
from separatrix.analysis.basins.result import Basins
from separatrix.analysis.branches.continuation import Bifurcation, Branch, continuation
from separatrix.analysis.branches.orbit_diagram import OrbitDiagram, orbit_diagram
from separatrix.analysis.compare.dynamics import compare_dynamics
from separatrix.analysis.compare.result import DynamicsComparison
from separatrix.analysis.depth.profile import depth_profile
from separatrix.analysis.depth.result import DepthProfile
from separatrix.analysis.driven.echo_state import EchoState, echo_state
from separatrix.analysis.driven.memory import MemoryCapacity, memory_capacity
from separatrix.analysis.driven.stationarity import Stationarity, stationarity
from separatrix.analysis.fixed.fixed_points import fixed_points
from separatrix.analysis.fixed.result import FixedPoints
from separatrix.analysis.gradients.propagation import Propagation, gradient_propagation
from separatrix.analysis.gradients.transient import TransientGrowth, transient_growth
from separatrix.analysis.lyapunov.covariant import CovariantVectors, covariant_lyapunov_vectors
from separatrix.analysis.lyapunov.divergence import DivergenceRate, divergence_rate
from separatrix.analysis.lyapunov.finite_time import FiniteTimeField, finite_time_lyapunov, grid
from separatrix.analysis.lyapunov.pooled import PooledSpectrum
from separatrix.analysis.lyapunov.result import LyapunovSpectrum
from separatrix.analysis.lyapunov.spectrum import lyapunov_spectrum
from separatrix.analysis.pictures.flow_map import FlowMap, flow_map
from separatrix.analysis.pictures.phase_portrait import PhasePortrait, phase_portrait
from separatrix.analysis.stepping.stability_region import StabilityRegion, stability_region
from separatrix.analysis.stepping.step_convergence import StepConvergence, step_convergence

ANALYSES = {
    "lyapunov_spectrum": lyapunov_spectrum,
    "covariant_lyapunov_vectors": covariant_lyapunov_vectors,
    "finite_time_lyapunov": finite_time_lyapunov,
    "divergence_rate": divergence_rate,
    "gradient_propagation": gradient_propagation,
    "fixed_points": fixed_points,
    "phase_portrait": phase_portrait,
    "flow_map": flow_map,
    "correlation_dimension": correlation_dimension,
    "power_spectrum": power_spectrum,
    "echo_state": echo_state,
    "transient_growth": transient_growth,
    "memory_capacity": memory_capacity,
    "basins_of_attraction": basins_of_attraction,
    "return_map": return_map,
}

# Questions of a system and one of its parameters:  sweep(system, parameter, …)
SWEEPS = {
    "orbit_diagram": orbit_diagram,
    "continuation": continuation,
}

# Questions of a network as it is, of its checkpoints, or of a drive; of a flow's method
PROFILES = {
    "depth_profile": depth_profile,
    "along": along,
    "stationarity": stationarity,
    "step_convergence": step_convergence,
    "stability_region": stability_region,
}

__all__ = [
    "ANALYSES",
    "PROFILES",
    "SWEEPS",
    "Along",
    "BasinEntropy",
    "Basins",
    "Bifurcation",
    "Branch",
    "CorrelationDimension",
    "CovariantVectors",
    "DepthProfile",
    "DivergenceRate",
    "DynamicsComparison",
    "EchoState",
    "Event",
    "FiniteTimeField",
    "FixedPoints",
    "FlowMap",
    "LyapunovSpectrum",
    "MemoryCapacity",
    "OrbitDiagram",
    "PhasePortrait",
    "PooledSpectrum",
    "PowerSpectrum",
    "Propagation",
    "ReturnMap",
    "Separate",
    "StabilityRegion",
    "Stationarity",
    "StepConvergence",
    "Tracks",
    "TransientGrowth",
    "UncertaintyExponent",
    "along",
    "basins_of_attraction",
    "compare_dynamics",
    "continuation",
    "correlation_dimension",
    "correlation_dimension_of",
    "covariant_lyapunov_vectors",
    "depth_profile",
    "divergence_rate",
    "echo_state",
    "finite_time_lyapunov",
    "fixed_points",
    "flow_map",
    "gradient_propagation",
    "grid",
    "lyapunov_spectrum",
    "memory_capacity",
    "orbit_diagram",
    "phase_portrait",
    "power_spectrum",
    "return_map",
    "stability_region",
    "stationarity",
    "step_convergence",
    "transient_growth",
]
