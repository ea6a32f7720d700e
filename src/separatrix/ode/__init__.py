"""Initial value problems: fields followed to asked times, or to an event, with gradients."""

from separatrix.ode.arrival import Arrival
from separatrix.ode.events import solve_until
from separatrix.ode.sensitivity import sensitivities
from separatrix.ode.solution import Solution, StructuredSolution
from separatrix.ode.solve import solve

__all__ = ["Arrival", "Solution", "StructuredSolution", "sensitivities", "solve", "solve_until"]
