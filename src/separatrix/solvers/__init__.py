"""One-step methods for flows, with their exact tangents."""

from separatrix.solvers.cayley import cayley, cayley_midpoint
from separatrix.solvers.composition import Composition, lie, strang
from separatrix.solvers.explicit import ExplicitRungeKutta, euler, heun, midpoint, rk4

SOLVERS = {method.name: method for method in (euler, heun, midpoint, rk4)}
SPLITTINGS = {method.name: method for method in (lie, strang)}

__all__ = [
    "SOLVERS",
    "SPLITTINGS",
    "Composition",
    "ExplicitRungeKutta",
    "cayley",
    "cayley_midpoint",
    "euler",
    "heun",
    "lie",
    "midpoint",
    "rk4",
    "strang",
]
