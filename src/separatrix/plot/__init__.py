"""Result → Matplotlib figure → inline SVG."""

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
from separatrix.plot.layer_sizes import layer_sizes_figure
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
from separatrix.plot.widths import coordinate_sizes_figure, widths_figure

__all__ = [
    "adversarial_figure",
    "along_figure",
    "arrival_figure",
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
    "coordinate_sizes_figure",
    "correlation_figure",
    "covariant_figure",
    "depth_figure",
    "depth_portrait_figure",
    "divergence_figure",
    "echo_state_figure",
    "finite_time_field_figure",
    "finite_time_figure",
    "fixed_points_figure",
    "flow_fit_figure",
    "flow_map_figure",
    "layer_sizes_figure",
    "log_density_figure",
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
    "solution_figure",
    "sparse_terms_figure",
    "spectrum_figure",
    "stability_region_figure",
    "stationarity_figure",
    "step_convergence_figure",
    "svg",
    "tracks_figure",
    "transient_figure",
    "widths_figure",
]
