"""Two systems held against each other by their dynamics: a learned flow and the true one, or data of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from scipy.special import stdtr, stdtrit
from torch import Tensor

from separatrix.analysis.correlation_dimension import CorrelationDimension, correlation_dimension_of
from separatrix.analysis.lyapunov import LyapunovSpectrum, lyapunov_spectrum
from separatrix.analysis.maxima import sampled_return_map
from separatrix.analysis.resampled import Difference, curve_distance, permuted, spectrum_distance
from separatrix.analysis.return_map import ReturnMap
from separatrix.errors import InputError, ShapeError
from separatrix.evolve import begin, check_seed, check_system_type, check_whole, trajectory
from separatrix.flow import Flow
from separatrix.result import Result, Status
from separatrix.system import System
from separatrix.wording import counted, measured, plain

ORBITS = 32  # of each system, by default
DURATION = 100.0  # units of time of each
FEWEST = 4  # orbits left, of which an error bar can be told
POINTS = 10_000  # of an attractor, for its correlation dimension
FAR = 10  # extents of the truth: an orbit so far from its mean has left
STILL = 1e-6  # of the truth's extent, within which an orbit that moves no more than that is at rest
ROUNDING = 1e-9  # relative error below which two numbers are one
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DynamicsComparison(Result):
    r"""What a learned system does beside what the true one does, number by number, in units of the error of their difference.

    Args:
        names: of the quantities, in the order of the tensors below.
        true, learned: (quantity), what was measured. Of the return map and the power spectrum: the distance that two halves of
            all orbits, mixed, have on average; and that of the two systems.
        true_stderr, learned_stderr: (quantity), their standard errors; of a distance: NaN.
        stderr: (quantity), of the difference.
        z: (quantity), difference / stderr.
        p_value: (quantity), how often a difference is this large by chance alone.
        limit: (quantity), the z above which a quantity is told apart.
        level: chance that any quantity is told apart although none differs.
        orbits, left, resting: of the (true, learned) system: orbits followed, and how many left for infinity or came to rest.
        spectra, dimensions, maps: of "true" and "learned", where they were measured.
    """

    names: tuple[str, ...]
    true: Tensor
    learned: Tensor
    true_stderr: Tensor
    learned_stderr: Tensor
    stderr: Tensor
    z: Tensor
    p_value: Tensor
    limit: Tensor
    level: float
    orbits: tuple[int, ...]
    left: tuple[int, ...]
    resting: tuple[int, ...]
    spectra: dict[str, LyapunovSpectrum]
    dimensions: dict[str, CorrelationDimension]
    maps: dict[str, ReturnMap]

    layout: ClassVar[dict[str, str]] = dict.fromkeys(
        ("true", "learned", "true_stderr", "learned_stderr", "stderr", "z", "p_value", "limit"), "quantity"
    )

    @property
    def difference(self) -> Tensor:
        """Learned less true, shape (quantity)."""
        return self.learned - self.true

    @property
    def differs(self) -> Tensor:
        """Which quantities are told apart, shape (quantity), bool."""
        return self.p_value < self.level / len(self.names)

    @property
    def agrees(self) -> bool:
        """Whether no quantity is told apart, and as many orbits stay."""
        return not bool(self.differs.any()) and self.left[1] <= self.left[0] and bool(self.codes == Status.OK)

    def __getitem__(self, name: str) -> dict[str, float]:
        """All numbers of one quantity."""
        if name not in self.names:
            raise InputError(f"there is no quantity {name!r}; there are {', '.join(self.names)}.")
        i = self.names.index(name)
        return {part: float(getattr(self, part)[i]) for part in self.layout}
