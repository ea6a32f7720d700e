"""Published and exact Lyapunov exponents beside ours: the table of README.md and docs/benchmarks.md.

Each system is run from many initial states, long enough to forget them; "±" is the standard error of their mean.

Run it:  python benchmarks/reference_values.py [--print]
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import separatrix as sx
from separatrix.core.wording import measured

ROOT = Path(__file__).parents[1]
PLACES = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")
START, END = "<!-- reference-values -->", "<!-- /reference-values -->"
BITS = math.log(2)  # nats


@dataclass(frozen=True)
class Reference:
    """One row of the table.

    Args:
        system: what is measured, in words.
        known: the published or exact numbers, as they are printed.
        source: where those are from.
        measure: ours, one row a run, shape (runs, numbers).
    """

    system: str
    known: str
    source: str
    measure: Callable[[], Tensor]


def runs(system: sx.System, count: int, steps: int, settle: int) -> Tensor:
    """The exponents of many runs from scattered initial states, shape (runs, dim)."""
    return sx.lyapunov_spectrum(system, system.initial_state((count,)), steps=steps, settle=settle).exponents


def runs_on_attractor(system: sx.System, steps: int, settle: int, gap: int) -> Tensor:
    """The same from 1,000 states all over the attractor, for flows, whose phase is forgotten slowly if at all.

    They are 50 states on each of 20 orbits, `gap` steps apart, moved by 1 % so that they are not one orbit, shifted in time.
    """
    orbits = sx.trajectory(system, system.initial_state((20,)), steps=49 * gap, settle=settle, every=gap).flatten(0, 1)
    noise = torch.randn(orbits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return sx.lyapunov_spectrum(system, orbits + 0.01 * orbits.std(0) * noise, steps=steps, settle=settle).exponents


def triangular_map() -> Tensor:
    """A linear map with the eigenvalues 2, 1 and 1/4, far from normal and not in order."""
    matrix = torch.tensor([[0.25, 3.0, -2.0], [0.0, 2.0, 5.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return runs(sx.Map(lambda x: x @ matrix.mT, 3), 1, steps=1_000, settle=100)


def doubling_lattice() -> Tensor:
    """Eight doubling maps f = 2x mod 1 on a ring, each mixed with its neighbours: λ₁, λ₂ and λ₈."""

    def step(x: Tensor) -> Tensor:
        f = (2 * x).remainder(1)
        return 0.7 * f + 0.15 * (f.roll(1, -1) + f.roll(-1, -1))

    return runs(sx.Map(step, 8), 1, steps=1_000, settle=200)[:, [0, 1, 7]]


def doubling_exact(mode: int) -> float:
    """The lattice's exponent of one Fourier mode."""
    return math.log(2) + math.log(abs(0.7 + 0.3 * math.cos(2 * math.pi * mode / 8)))


def gaussian_products() -> Tensor:
    """Products of 32 × 32 Gaussian matrices, as the tangents of a map that stays at 0: λ₁, λ₁₆ and λ₃₂ of eight products."""

    def step(x: Tensor, n: int) -> Tensor:
        matrix = torch.randn(8, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
        return (matrix @ x[..., None])[..., 0]

    return runs(sx.Map(step, 32, time_dependent=True), 8, steps=4_000, settle=50)[:, [0, 15, 31]]


def gaussian_exact(i: int) -> float:
    """Newman's i-th exponent for 32 × 32 matrices of standard normal entries."""
    return float(math.log(2) + torch.special.digamma(torch.tensor((32 - i + 1) / 2, dtype=torch.float64))) / 2


def tanh_network() -> Tensor:
    """The mean exponent of x' = tanh(W x), less ⟨ln tanh'⟩ + ln|det W|/N along the same orbit; N = 100, g = 3, four runs."""
    weight = 0.3 * torch.randn(100, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    module = torch.nn.RNN(1, 100, bias=False, dtype=torch.float64)
    module.weight_hh_l0.data = weight
    system = sx.Recurrent(module)
    x0 = system.initial_state((4,))
    spectrum = sx.lyapunov_spectrum(system, x0, steps=1_000, settle=200)
    with torch.no_grad():
        orbit = sx.trajectory(system, x0, steps=1_000, settle=200)[1:]
    exact = torch.log1p(-orbit.square()).mean((0, -1)) + torch.linalg.slogdet(weight).logabsdet / 100
    return (spectrum.exponents.mean(-1) - exact)[:, None]


def lorenz96() -> Tensor:
    """λ₁ and the sum of all 40."""
    exponents = runs(sx.classic.lorenz96(), 32, steps=10_000, settle=1_500)
    return torch.stack([exponents[:, 0], exponents.sum(-1)], dim=-1)


def table() -> list[Reference]:
    """The rows, exact ones first."""
    classic = sx.classic
    return [
        Reference(
            "linear map with eigenvalues 2, 1, ¼",
            _numbers([math.log(2), 0.0, math.log(1 / 4)], 6),
            "exact: ln of their moduli",
            triangular_map,
        ),
        Reference(
            "coupled doubling maps, 8 sites: λ₁, λ₂, λ₈",
            _numbers([doubling_exact(0), doubling_exact(1), doubling_exact(4)], 6),
            "exact: ln 2 + ln∣1 − ε + ε cos(2πq/8)∣, ε = 0.3",
            doubling_lattice,
        ),
        Reference(
            "products of Gaussian 32 × 32 matrices: λ₁, λ₁₆, λ₃₂",
            _numbers([gaussian_exact(i) for i in (1, 16, 32)], 4),
            "exact: Newman 1986, Commun. Math. Phys. 103, 121",
            gaussian_products,
        ),
        Reference(
            "random tanh network, N = 100: mean exponent − (⟨ln tanh′⟩ + ln∣det W∣/N)",
            "0",
            "exact, along the same orbit",
            tanh_network,
        ),
        Reference(
            "logistic map, r = 4",
            _numbers([math.log(2)], 6),
            "exact: ln 2",
            lambda: runs(classic.logistic(4.0), 1_000, steps=10_000, settle=500),
        ),
        Reference(
            "Hénon map",
            "0.419217<br>−1.623190",
            "Sprott 2005, Lyapunov Exponent Spectrum Software",
            lambda: runs(classic.henon(), 1_000, steps=20_000, settle=500),
        ),
        Reference(
            "Lorenz 1963, σ = 10, ρ = 28, β = 8/3",
            "0.90563<br>0<br>−14.57219",
            "Sprott 2005, Lyapunov Exponent Spectrum Software",
            lambda: runs_on_attractor(classic.lorenz63(dt=0.005), steps=20_000, settle=5_000, gap=37),
        ),
        Reference(
            "Lorenz 1963, σ = 16, ρ = 45.92, β = 4",
            _numbers([2.16 * BITS, 0.0, -32.4 * BITS], 2),
            "Wolf et al. 1985, Physica D 16, 285 (2.16, 0, −32.4 bits)",
            lambda: runs_on_attractor(classic.lorenz63(16.0, 45.92, 4.0, dt=0.0025), steps=20_000, settle=5_000, gap=37),
        ),
        Reference(
            "Rössler, a = b = 0.2, c = 5.7",
            "0.0714<br>0<br>−5.3943",
            "Sprott 2003, Chaos and Time-Series Analysis",
            lambda: runs_on_attractor(classic.rossler(dt=0.02), steps=20_000, settle=10_000, gap=101),
        ),
        Reference(
            "towel map",
            "0.43078 ± 0.00015<br>0.37773 ± 0.00027<br>−3.3017 ± 0.0004",
            "independent computation, batch means",
            lambda: runs(classic.towel(), 1_000, steps=10_000, settle=500),
        ),
        Reference(
            "Lorenz 1996, N = 40, F = 8: λ₁, Σλ",
            "1.687 ± 0.009<br>−40",
            "independent computation, fixed-step RK4, batch means; Σλ exact",
            lorenz96,
        ),
    ]


def row(reference: Reference) -> str:
    """The table's line, measured."""
    each = reference.measure()
    mean, error = each.mean(0), each.std(0) / len(each) ** 0.5 if len(each) > 1 else torch.full_like(each[0], math.nan)
    ours = "<br>".join(_ours(*pair) for pair in zip(mean.tolist(), error.tolist(), strict=True))
    return f"| {reference.system} | {reference.known} | {reference.source} | {ours} |"


def _ours(value: float, error: float) -> str:
    """With an error bar, or, where nothing fluctuates, to so many digits."""
    if math.isnan(error):
        return _numbers([value], 6)
    return _numbers([value], 4) if 0 < error < 1e-6 * abs(value) else measured(value, error)


def _numbers(values: Sequence[float], digits: int) -> str:
    return "<br>".join(f"{0.0 if abs(value) < 0.5 * 10**-digits else value:.{digits}f}".replace("-", "−") for value in values)


def main(argv: list[str] | None = None) -> None:
    """Measure every row, print the table, and put it between the markers of README.md and docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", help="only print the table")
    asked = parser.parse_args(argv)
    lines = ["| system | published or exact [nats per unit time] | source | Separatrix |", "|---|---|---|---|"]
    print("\n".join(lines))
    begun = time.perf_counter()
    for reference in table():
        lines.append(row(reference))
        print(lines[-1], flush=True)
    print(f"{time.perf_counter() - begun:.0f} s")
    for place in () if asked.print else PLACES:
        before, rest = place.read_text(encoding="utf-8").split(START)
        after = rest.split(END)[1]
        place.write_text(before + "\n".join([START, *lines, END]) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
