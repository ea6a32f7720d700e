"""Initial value problems: fields followed to asked times, with gradients."""

from separatrix.ode.sensitivity import sensitivities
from separatrix.ode.solution import Solution
from separatrix.ode.solve import solve

__all__ = ["Solution", "sensitivities", "solve"]
