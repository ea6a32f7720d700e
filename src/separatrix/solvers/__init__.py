"""One-step methods for flows, with their exact tangents."""

from separatrix.solvers.cayley import cayley, cayley_midpoint
from separatrix.solvers.composition import Composition, lie, strang
from separatrix.solvers.explicit import ExplicitRungeKutta, euler, heun, midpoint, rk4
from separatrix.solvers.implicit import ImplicitMidpoint, implicit_midpoint
from separatrix.solvers.solver import Solver
from separatrix.solvers.splitting import Splitting, leapfrog, yoshida4

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
SOLVERS: dict[str, Solver] = {method.name: method for method in (euler, heun, midpoint, rk4, leapfrog, yoshida4, implicit_midpoint)}

__all__ = [
    "SOLVERS",
    "ExplicitRungeKutta",
    "ImplicitMidpoint",
    "Solver",
    "Splitting",
    "euler",
    "heun",
    "implicit_midpoint",
    "leapfrog",
    "midpoint",
    "rk4",
    "yoshida4",
]
