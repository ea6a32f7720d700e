"""Any neural network is a dynamical system: measure it, build it, train it and see it as one.

Three nouns: a `System` is a state and one pure step; an analysis is a function from any System to a `Result`; a Result carries
values, units, error bars and a status, and saves and plots itself.

    import separatrix as sx

    portrait = sx.analyze(model, inputs)                     # the main job: on which side of the border is this network?
    spectrum = sx.lyapunov_spectrum(sx.classic.lorenz63())   # any analysis of any system
"""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

from separatrix import bounds, nn, results, testing
from separatrix.analysis import (
    ANALYSES,
    PROFILES,
    SWEEPS,
    along,
    basins_of_attraction,
    compare_dynamics,
    continuation,
    correlation_dimension,
    correlation_dimension_of,
    covariant_lyapunov_vectors,
    depth_profile,
    divergence_rate,
    echo_state,
    finite_time_lyapunov,
    fixed_points,
    flow_map,
    gradient_propagation,
    grid,
    lyapunov_spectrum,
    memory_capacity,
    orbit_diagram,
    phase_portrait,
    power_spectrum,
    return_map,
    stability_region,
    stationarity,
    step_convergence,
    transient_growth,
)
from separatrix.bounds import certificate, operator_norm
from separatrix.core import errors as errors
from separatrix.core.compiled import Compiled
from separatrix.core.derived import Iterate
from separatrix.core.driven import Driven
from separatrix.core.errors import (
    ContradictionError,
    DivergedError,
    HorizonError,
    InputError,
    MissingExtraError,
    ModelError,
    NotConvergedError,
    SeparatrixError,
    ShapeError,
    UnsupportedModuleError,
)
from separatrix.core.evolve import trajectory
from separatrix.core.result import Result, Status, load
from separatrix.core.system import Map, System
from separatrix.flows import sensitivities, solve, solve_until
from separatrix.flows.field import Field
from separatrix.flows.flow import Flow
from separatrix.nn.fit.sparse_terms import sparse_terms
from separatrix.portrait import analyze
from separatrix.systems import SYSTEMS, classic
from separatrix.systems.drives import Stream
from separatrix.systems.layers import Layers
from separatrix.systems.noisy import Noisy
from separatrix.systems.recurrent.closed_loop import ClosedLoop
from separatrix.systems.recurrent.recurrent import Recurrent
from separatrix.systems.section import Section
from separatrix.systems.seeded import Seeded
from separatrix.systems.stroboscopic import Stroboscopic
from separatrix.systems.surrogate import surrogate

if TYPE_CHECKING:
    from separatrix.report import write_report

__all__ = [
    "ANALYSES",
    "PROFILES",
    "SWEEPS",
    "SYSTEMS",
    "ClosedLoop",
    "Compiled",
    "ContradictionError",
    "DivergedError",
    "Driven",
    "Field",
    "Flow",
    "HorizonError",
    "InputError",
    "Iterate",
    "Layers",
    "Map",
    "MissingExtraError",
    "ModelError",
    "Noisy",
    "NotConvergedError",
    "Recurrent",
    "Result",
    "Section",
    "Seeded",
    "SeparatrixError",
    "ShapeError",
    "Status",
    "Stream",
    "Stroboscopic",
    "System",
    "UnsupportedModuleError",
    "along",
    "analyze",
    "basins_of_attraction",
    "bounds",
    "certificate",
    "classic",
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
    "load",
    "lyapunov_spectrum",
    "memory_capacity",
    "nn",
    "operator_norm",
    "orbit_diagram",
    "phase_portrait",
    "power_spectrum",
    "results",
    "return_map",
    "sensitivities",
    "solve",
    "solve_until",
    "sparse_terms",
    "stability_region",
    "stationarity",
    "step_convergence",
    "surrogate",
    "testing",
    "trajectory",
    "transient_growth",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """`write_report`, which brings Matplotlib and Zarr along, is imported when it is asked for."""
    if name == "write_report":
        from separatrix.report import write_report

        return write_report
    raise AttributeError(f"module 'separatrix' has no attribute {name!r}")
