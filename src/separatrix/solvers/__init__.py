"""One-step methods for flows, with their exact tangents."""

from separatrix.solvers.cayley import cayley, cayley_midpoint
from separatrix.solvers.composition import Composition, lie, strang
from separatrix.solvers.embedded import EmbeddedPair, dopri5, tsit5
from separatrix.solvers.explicit import ExplicitRungeKutta, euler, heun, midpoint, rk4
from separatrix.solvers.implicit import ImplicitMidpoint, implicit_midpoint
from separatrix.solvers.pair import Hermite, Pair
from separatrix.solvers.rosenbrock import Rosenbrock, rodas5p
from separatrix.solvers.solver import Solver
from separatrix.solvers.splitting import Splitting, leapfrog, yoshida4

SOLVERS: dict[str, Solver] = {
    method.name: method for method in (euler, heun, midpoint, rk4, dopri5, tsit5, leapfrog, yoshida4, implicit_midpoint, rodas5p)
}
PAIRS: dict[str, Pair] = {method.name: method for method in (dopri5, tsit5, rodas5p)}
SPLITTINGS: dict[str, Composition] = {method.name: method for method in (lie, strang)}

__all__ = [
    "PAIRS",
    "SOLVERS",
    "SPLITTINGS",
    "Composition",
    "EmbeddedPair",
    "ExplicitRungeKutta",
    "Hermite",
    "ImplicitMidpoint",
    "Pair",
    "Rosenbrock",
    "Solver",
    "Splitting",
    "cayley",
    "cayley_midpoint",
    "dopri5",
    "euler",
    "heun",
    "implicit_midpoint",
    "leapfrog",
    "lie",
    "midpoint",
    "rk4",
    "rodas5p",
    "strang",
    "tsit5",
    "yoshida4",
]
