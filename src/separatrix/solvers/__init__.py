"""One-step methods for flows, with their exact tangents."""

from separatrix.solvers.cayley import cayley, cayley_midpoint
from separatrix.solvers.explicit import ExplicitRungeKutta, euler, heun, midpoint, rk4
from separatrix.solvers.splitting import Splitting, lie, strang

SOLVERS = {method.name: method for method in (euler, heun, midpoint, rk4)}
SPLITTINGS = {method.name: method for method in (lie, strang)}

__all__ = [
    "SOLVERS",
    "SPLITTINGS",
    "ExplicitRungeKutta",
    "Splitting",
    "cayley",
    "cayley_midpoint",
    "euler",
    "heun",
    "lie",
    "midpoint",
    "rk4",
    "strang",
]
