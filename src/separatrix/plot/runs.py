"""The runs of a batched result as plain arrays, one row per run, without those that diverged."""

import numpy as np
from torch import Tensor

from separatrix.analysis.lyapunov.pooled import PooledSpectrum
from separatrix.analysis.lyapunov.result import LyapunovSpectrum
from separatrix.core.result import Result, Status


def array(value: Tensor) -> np.ndarray:
    """A tensor as a float64 array."""
    return value.detach().cpu().double().numpy()


def alive(result: Result) -> np.ndarray:
    """Mask of the runs that did not diverge, shape (runs)."""
    return (result.codes != Status.DIVERGED).reshape(-1).cpu().numpy()


def of_runs(result: Result, value: Tensor, before: int = 0, kept: np.ndarray | None = None) -> np.ndarray:
    """A field with its batch axes flattened: (*before, runs, *after). Without `kept`, the runs that did not diverge."""
    lead, after = value.shape[:before], value.shape[before + len(result.batch) :]
    return np.compress(alive(result) if kept is None else kept, array(value).reshape(*lead, -1, *after), axis=before)


def headline(spectrum: LyapunovSpectrum) -> PooledSpectrum | None:
    """The mean over the runs, or None if all of them diverged."""
    return spectrum.pooled() if alive(spectrum).any() else None
