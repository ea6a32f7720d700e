"""The public names and where each lives: what type checkers read, and what `separatrix` imports on first use."""

from . import bounds as bounds
from . import errors as errors
from . import nn as nn
from . import parts as parts
from . import results as results
from . import tables as tables
from . import testing as testing
from . import training as training
from .analysis.attractor.correlation_dimension import correlation_dimension_of as correlation_dimension_of
from .analysis.compare.dynamics import compare_dynamics as compare_dynamics
from .analysis.lyapunov.finite_time import grid as grid
from .bounds import certificate as certificate
from .bounds import operator_norm as operator_norm
from .core.compiled import Compiled as Compiled
from .core.derived import Iterate as Iterate
from .core.errors import SeparatrixError as SeparatrixError
from .core.evolve import trajectory as trajectory
from .core.result import Result as Result
from .core.result import Status as Status
from .core.result import load as load
from .core.system import Map as Map
from .core.system import System as System
from .flows import sensitivities as sensitivities
from .flows import solve as solve
from .flows import solve_until as solve_until
from .flows.field import Field as Field
from .flows.flow import Flow as Flow
from .nn.fit.sparse_terms import sparse_terms as sparse_terms
from .portrait import analyze as analyze
from .report import write_report as write_report
from .systems import classic as classic
from .systems.drives import Stream as Stream
from .systems.layers import Layers as Layers
from .systems.noisy import Noisy as Noisy
from .systems.recurrent.closed_loop import ClosedLoop as ClosedLoop
from .systems.recurrent.recurrent import Recurrent as Recurrent
from .systems.section import Section as Section
from .systems.seeded import Seeded as Seeded
from .systems.stroboscopic import Stroboscopic as Stroboscopic
from .systems.surrogate import surrogate as surrogate
from .training.curvature import curvature as curvature
from .training.training import Training as Training

# made by docs/tables.py from ANALYSES, SWEEPS and PROFILES
from .analysis.along.along import along as along
from .analysis.attractor.correlation_dimension import correlation_dimension as correlation_dimension
from .analysis.attractor.power_spectrum import power_spectrum as power_spectrum
from .analysis.attractor.return_map import return_map as return_map
from .analysis.basins.basins import basins_of_attraction as basins_of_attraction
from .analysis.branches.continuation import continuation as continuation
from .analysis.branches.orbit_diagram import orbit_diagram as orbit_diagram
from .analysis.depth.coordinates import coordinate_sizes as coordinate_sizes
from .analysis.depth.profile import depth_profile as depth_profile
from .analysis.driven.echo_state import echo_state as echo_state
from .analysis.driven.memory import memory_capacity as memory_capacity
from .analysis.driven.stationarity import stationarity as stationarity
from .analysis.fixed.fixed_points import fixed_points as fixed_points
from .analysis.gradients.propagation import gradient_propagation as gradient_propagation
from .analysis.gradients.transient import transient_growth as transient_growth
from .analysis.lyapunov.covariant import covariant_lyapunov_vectors as covariant_lyapunov_vectors
from .analysis.lyapunov.divergence import divergence_rate as divergence_rate
from .analysis.lyapunov.finite_time import finite_time_lyapunov as finite_time_lyapunov
from .analysis.lyapunov.spectrum import lyapunov_spectrum as lyapunov_spectrum
from .analysis.pictures.flow_map import flow_map as flow_map
from .analysis.pictures.phase_portrait import phase_portrait as phase_portrait
from .analysis.stepping.stability_region import stability_region as stability_region
from .analysis.stepping.step_convergence import step_convergence as step_convergence
# end of what docs/tables.py made

__version__: str
__all__: list[str]
