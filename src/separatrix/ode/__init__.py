"""Initial value problems: fields followed to asked times, with gradients."""

from separatrix.ode.solution import Solution
from separatrix.ode.solve import solve

__all__ = ["Solution", "solve"]
