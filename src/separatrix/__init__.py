"""Any neural network is a dynamical system: measure it, build it, train it and see it as one.

Three nouns: a `System` is a state and one pure step; an analysis is a function from any System to a `Result`; a Result carries
values, units, error bars and a status, and saves and plots itself.

    import separatrix as sx

    portrait = sx.analyze(model, inputs)                     # the main job: on which side of the border is this network?
    spectrum = sx.lyapunov_spectrum(sx.classic.lorenz63())   # any analysis of any system
"""

__version__ = "0.1.0"

from separatrix import testing
from separatrix.analysis import (
    ANALYSES,
    DivergenceRate,
    FiniteTimeField,
    LyapunovSpectrum,
    PooledSpectrum,
    Propagation,
    divergence_rate,
    finite_time_lyapunov,
    gradient_propagation,
    grid,
    lyapunov_spectrum,
)
from separatrix.analyze import Portrait, analyze
from separatrix.errors import (
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
from separatrix.evolve import trajectory
from separatrix.flow import Field, Flow
from separatrix.result import Result, Status, load
from separatrix.system import Compiled, Driven, Iterate, Map, System
from separatrix.systems import SYSTEMS, classic
from separatrix.systems.drives import Stream
from separatrix.systems.recurrent import Recurrent

__all__ = [
    "ANALYSES",
    "SYSTEMS",
    "Compiled",
    "DivergedError",
    "DivergenceRate",
    "Driven",
    "Field",
    "FiniteTimeField",
    "Flow",
    "HorizonError",
    "InputError",
    "Iterate",
    "LyapunovSpectrum",
    "Map",
    "MissingExtraError",
    "ModelError",
    "NotConvergedError",
    "PooledSpectrum",
    "Portrait",
    "Propagation",
    "Recurrent",
    "Result",
    "SeparatrixError",
    "ShapeError",
    "Status",
    "Stream",
    "System",
    "UnsupportedModuleError",
    "analyze",
    "classic",
    "divergence_rate",
    "finite_time_lyapunov",
    "gradient_propagation",
    "grid",
    "load",
    "lyapunov_spectrum",
    "testing",
    "trajectory",
]
