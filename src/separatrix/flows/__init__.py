"""Initial value problems: solutions at given times or up to an event, with gradients."""

from separatrix.flows.events.arrival import Arrival
from separatrix.flows.events.solve_until import solve_until
from separatrix.flows.gradients.sensitivity import sensitivities
from separatrix.flows.solution import Solution, StructuredSolution
from separatrix.flows.solve.solve import solve

__all__ = ["Arrival", "Solution", "StructuredSolution", "sensitivities", "solve", "solve_until"]
