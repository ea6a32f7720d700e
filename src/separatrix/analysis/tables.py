"""The analyses by name: what the command line, the report, the documentation and the tests iterate over."""

from separatrix.analysis.along.along import along
from separatrix.analysis.attractor.correlation_dimension import correlation_dimension
from separatrix.analysis.attractor.power_spectrum import power_spectrum
from separatrix.analysis.attractor.return_map import return_map
from separatrix.analysis.basins.basins import basins_of_attraction
from separatrix.analysis.branches.continuation import continuation
from separatrix.analysis.branches.orbit_diagram import orbit_diagram
from separatrix.analysis.depth.coordinates import coordinate_sizes
from separatrix.analysis.depth.profile import depth_profile
from separatrix.analysis.driven.echo_state import echo_state
from separatrix.analysis.driven.memory import memory_capacity
from separatrix.analysis.driven.stationarity import stationarity
from separatrix.analysis.fixed.fixed_points import fixed_points
from separatrix.analysis.gradients.propagation import gradient_propagation
from separatrix.analysis.gradients.transient import transient_growth
from separatrix.analysis.lyapunov.covariant import covariant_lyapunov_vectors
from separatrix.analysis.lyapunov.divergence import divergence_rate
from separatrix.analysis.lyapunov.finite_time import finite_time_lyapunov
from separatrix.analysis.lyapunov.spectrum import lyapunov_spectrum
from separatrix.analysis.pictures.flow_map import flow_map
from separatrix.analysis.pictures.phase_portrait import phase_portrait
from separatrix.analysis.stepping.stability_region import stability_region
from separatrix.analysis.stepping.step_convergence import step_convergence

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
    "coordinate_sizes": coordinate_sizes,
    "along": along,
    "stationarity": stationarity,
    "step_convergence": step_convergence,
    "stability_region": stability_region,
}
