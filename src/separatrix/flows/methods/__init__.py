"""One-step methods for flows, with their exact tangents."""

from separatrix.core.checks import check_choice
from separatrix.flows.methods.cayley import cayley, cayley_midpoint
from separatrix.flows.methods.composition import Composition, lie, strang
from separatrix.flows.methods.embedded import EmbeddedPair, dopri5, tsit5
from separatrix.flows.methods.explicit import ExplicitRungeKutta, euler, heun, midpoint, rk4
from separatrix.flows.methods.implicit import ImplicitMidpoint, implicit_midpoint
from separatrix.flows.methods.pair import Hermite, Pair
from separatrix.flows.methods.rosenbrock import Rosenbrock, rodas5p
from separatrix.flows.methods.solver import Solver
from separatrix.flows.methods.splitting import Splitting, leapfrog, yoshida4

RUNGE_KUTTA: dict[str, ExplicitRungeKutta] = {method.name: method for method in (euler, heun, midpoint, rk4, dopri5, tsit5)}
SOLVERS: dict[str, Solver] = {
    **RUNGE_KUTTA,
    **{method.name: method for method in (leapfrog, yoshida4, implicit_midpoint, rodas5p)},
}
PAIRS: dict[str, Pair] = {method.name: method for method in (dopri5, tsit5, rodas5p)}
SPLITTINGS: dict[str, Composition] = {method.name: method for method in (lie, strang)}


def runge_kutta(name: str) -> ExplicitRungeKutta:
    """The explicit Runge–Kutta method with this name."""
    check_choice("method", name, RUNGE_KUTTA)
    return RUNGE_KUTTA[name]


__all__ = [
    "PAIRS",
    "RUNGE_KUTTA",
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
    "runge_kutta",
    "strang",
    "tsit5",
    "yoshida4",
]
