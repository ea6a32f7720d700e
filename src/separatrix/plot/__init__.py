"""Result → Matplotlib figure → inline SVG. `PLOTS` maps result classes to the functions that draw them."""

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from separatrix.analysis.along.along import Along, Separate
from separatrix.analysis.along.tracks import Tracks
from separatrix.analysis.attractor.correlation_dimension import CorrelationDimension
from separatrix.analysis.attractor.power_spectrum import PowerSpectrum
from separatrix.analysis.attractor.return_map import ReturnMap
from separatrix.analysis.basins.basins import Basins
from separatrix.analysis.branches.continuation import Branch
from separatrix.analysis.branches.orbit_diagram import OrbitDiagram
from separatrix.analysis.compare.dynamics import DynamicsComparison
from separatrix.analysis.depth.profile import DepthProfile
from separatrix.analysis.driven.echo_state import EchoState
from separatrix.analysis.driven.memory import MemoryCapacity
from separatrix.analysis.driven.stationarity import Stationarity
from separatrix.analysis.fixed.fixed_points import FixedPoints
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
from separatrix.bounds.robustness.adversarial import AdversarialImages
from separatrix.bounds.robustness.robustness import Robustness
from separatrix.core.errors import NoPictureError
from separatrix.core.result import Result
from separatrix.flows.events.arrival import Arrival
from separatrix.flows.solution import Solution
from separatrix.nn.fit.fit_flow import FlowFit
from separatrix.nn.fit.fit_observations import ObservationFit
from separatrix.nn.fit.sparse_terms import SparseTerms
from separatrix.nn.flows.density import LogDensity
from separatrix.plot.adversarial import adversarial_figure
from separatrix.plot.along import along_figure, separate_figure, tracks_figure
from separatrix.plot.arrival import arrival_figure
from separatrix.plot.basins import basins_figure
from separatrix.plot.bifurcations import branch_figure, orbit_diagram_figure
from separatrix.plot.border import border_figure
from separatrix.plot.certificate import certificate_figure
from separatrix.plot.check import check_figure, divergence_figure
from separatrix.plot.comparison import comparison_figure
from separatrix.plot.convergence import convergence_figure
from separatrix.plot.correlation_dimension import correlation_figure
from separatrix.plot.covariant import covariant_figure
from separatrix.plot.depth import depth_figure
from separatrix.plot.depth_portrait import compare_depths, depth_portrait_figure
from separatrix.plot.echo_state import echo_state_figure
from separatrix.plot.finite_time import finite_time_figure
from separatrix.plot.finite_time_field import finite_time_field_figure
from separatrix.plot.fixed_points import fixed_points_figure
from separatrix.plot.flow_fit import flow_fit_figure
from separatrix.plot.flow_map import flow_map_figure
from separatrix.plot.log_density import log_density_figure
from separatrix.plot.memory import memory_figure
from separatrix.plot.observation_fit import observation_fit_figure
from separatrix.plot.phase_portrait import phase_portrait_figure
from separatrix.plot.plane import plane_figure
from separatrix.plot.portrait import panel_figures, portrait_figure
from separatrix.plot.power_spectrum import power_spectrum_figure
from separatrix.plot.propagation import propagation_figure
from separatrix.plot.return_map import return_map_figure
from separatrix.plot.robustness import compare_robustness, robustness_figure
from separatrix.plot.solution import solution_figure
from separatrix.plot.sparse_terms import sparse_terms_figure
from separatrix.plot.spectrum import compare_spectra, pooled_figure, spectrum_figure
from separatrix.plot.stability_region import stability_region_figure
from separatrix.plot.stationarity import stationarity_figure
from separatrix.plot.step_convergence import compare_step_convergence, step_convergence_figure
from separatrix.plot.transient import transient_figure
from separatrix.plot.vector import svg
from separatrix.portrait.depth import DepthPortrait
from separatrix.portrait.portrait import RecurrentPortrait

PLOTS: dict[type[Result], Callable[[Any], Figure]] = {
    AdversarialImages: adversarial_figure,
    Along: along_figure,
    Arrival: arrival_figure,
    Separate: separate_figure,
    CorrelationDimension: correlation_figure,
    Basins: basins_figure,
    Certificate: certificate_figure,
    CovariantVectors: covariant_figure,
    Branch: branch_figure,
    DepthPortrait: depth_portrait_figure,
    DepthProfile: depth_figure,
    DivergenceRate: divergence_figure,
    DynamicsComparison: comparison_figure,
    EchoState: echo_state_figure,
    FixedPoints: fixed_points_figure,
    FiniteTimeField: finite_time_field_figure,
    FlowFit: flow_fit_figure,
    FlowMap: flow_map_figure,
    LogDensity: log_density_figure,
    LyapunovSpectrum: spectrum_figure,
    MemoryCapacity: memory_figure,
    ObservationFit: observation_fit_figure,
    OrbitDiagram: orbit_diagram_figure,
    PhasePortrait: phase_portrait_figure,
    PooledSpectrum: pooled_figure,
    RecurrentPortrait: portrait_figure,
    PowerSpectrum: power_spectrum_figure,
    Propagation: propagation_figure,
    Tracks: tracks_figure,
    Solution: solution_figure,
    StabilityRegion: stability_region_figure,
    SparseTerms: sparse_terms_figure,
    Stationarity: stationarity_figure,
    StepConvergence: step_convergence_figure,
    TransientGrowth: transient_figure,
    ReturnMap: return_map_figure,
    Robustness: robustness_figure,
}


def figure(result: Result) -> Figure:
    """Draw a result with the function of its class, or of its nearest base class that has one.

    Raises:
        NoPictureError: no such class has one.
    """
    for kind in type(result).__mro__:
        if kind in PLOTS:
            return PLOTS[kind](result)
    known = ", ".join(sorted(kind.__name__ for kind in PLOTS))
    raise NoPictureError(
        f"a {type(result).__name__} has no figure; the classes with figures are {known}.\n"
        "Give the class a method plot(self) that returns a Matplotlib figure."
    )


__all__ = [
    "PLOTS",
    "adversarial_figure",
    "along_figure",
    "basins_figure",
    "border_figure",
    "branch_figure",
    "certificate_figure",
    "check_figure",
    "compare_depths",
    "compare_robustness",
    "compare_spectra",
    "compare_step_convergence",
    "comparison_figure",
    "convergence_figure",
    "correlation_figure",
    "covariant_figure",
    "depth_figure",
    "depth_portrait_figure",
    "divergence_figure",
    "echo_state_figure",
    "figure",
    "finite_time_field_figure",
    "finite_time_figure",
    "fixed_points_figure",
    "flow_fit_figure",
    "flow_map_figure",
    "memory_figure",
    "observation_fit_figure",
    "orbit_diagram_figure",
    "panel_figures",
    "phase_portrait_figure",
    "plane_figure",
    "pooled_figure",
    "portrait_figure",
    "power_spectrum_figure",
    "propagation_figure",
    "return_map_figure",
    "robustness_figure",
    "separate_figure",
    "sparse_terms_figure",
    "spectrum_figure",
    "stability_region_figure",
    "stationarity_figure",
    "step_convergence_figure",
    "svg",
    "tracks_figure",
    "transient_figure",
]
