"""Questions asked of any system: functions from a System to a Result."""

from separatrix.analysis.divergence import DivergenceRate, divergence_rate
from separatrix.analysis.finite_time import FiniteTimeField, finite_time_lyapunov, grid
from separatrix.analysis.lyapunov import LyapunovSpectrum, PooledSpectrum, lyapunov_spectrum
from separatrix.analysis.propagation import Propagation, gradient_propagation

ANALYSES = {
    "lyapunov_spectrum": lyapunov_spectrum,
    "divergence_rate": divergence_rate,
    "gradient_propagation": gradient_propagation,
    "finite_time_lyapunov": finite_time_lyapunov,
}

__all__ = [
    "ANALYSES",
    "DivergenceRate",
    "FiniteTimeField",
    "LyapunovSpectrum",
    "PooledSpectrum",
    "Propagation",
    "divergence_rate",
    "finite_time_lyapunov",
    "gradient_propagation",
    "grid",
    "lyapunov_spectrum",
]
