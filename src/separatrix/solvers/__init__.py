"""One-step methods for flows, with their exact tangents."""

from separatrix.solvers.explicit import ExplicitRungeKutta, euler, heun, midpoint, rk4

SOLVERS = {method.name: method for method in (euler, heun, midpoint, rk4)}

__all__ = ["SOLVERS", "ExplicitRungeKutta", "euler", "heun", "midpoint", "rk4"]
