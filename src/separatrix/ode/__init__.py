"""Initial value problems: fields followed to asked times, or to an event, with gradients."""

from separatrix.ode.sensitivity import sensitivities
from separatrix.ode.solution import Solution
from separatrix.ode.solve import solve

__all__ = ["Solution", "sensitivities", "solve"]
from separatrix.ode.arrival import Arrival
from separatrix.ode.events import solve_until

__all__ = ["Arrival", "Solution", "solve", "solve_until"]
