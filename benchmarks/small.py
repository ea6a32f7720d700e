"""Plain functions of two numbers, one orbit: the spectrum against its own trajectory, and that against a loop in NumPy.

NumPy's loop over a flow takes four fields a step, that over the Hénon map one line of floats: it is the floor of a call.
"""

from collections.abc import Callable

import numpy as np
import torch

import separatrix as sx
from timing import Row, interleaved

STEPS, DT = 5_000, 0.01


def van_der_pol(x: torch.Tensor) -> torch.Tensor:
    """As a person writes it."""
    return torch.stack([x[..., 1], (1 - x[..., 0] ** 2) * x[..., 1] - x[..., 0]], -1)


def in_numpy() -> np.ndarray:
    """The same flow, by RK4 in NumPy."""

    def field(x: np.ndarray) -> np.ndarray:
        return np.array([x[1], (1 - x[0] ** 2) * x[1] - x[0]])

    x = np.array([1.0, 0.0])
    for _ in range(STEPS):
        a = field(x)
        b = field(x + DT / 2 * a)
        c = field(x + DT / 2 * b)
        d = field(x + DT * c)
        x = x + DT / 6 * (a + 2 * b + 2 * c + d)
    return x


def henon(x: torch.Tensor) -> torch.Tensor:
    """As a person writes it."""
    return torch.stack([1 - 1.4 * x[..., 0] ** 2 + x[..., 1], 0.3 * x[..., 0]], -1)


def henon_in_numpy(steps: int = STEPS) -> np.ndarray:
    """The same map in NumPy."""
    x = np.zeros(2)
    for _ in range(steps):
        x = np.array([1 - 1.4 * x[0] ** 2 + x[1], 0.3 * x[0]])
    return x


def rows() -> list[Row]:
    """Both sides end at the same state; of the chaotic map they are compared for 30 steps."""
    flow, start = sx.Flow(van_der_pol, 2, DT), torch.tensor([1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(sx.trajectory(flow, start, STEPS)[-1], torch.from_numpy(in_numpy()), rtol=1e-9, atol=1e-9)
    mapped, zero = sx.Map(henon, 2), torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(sx.trajectory(mapped, zero, 30)[-1], torch.from_numpy(henon_in_numpy(30)), rtol=1e-9, atol=1e-9)
    return [
        *of("flow of a plain function of 2 numbers, RK4, 1 orbit", flow, start, "RK4 in NumPy", in_numpy, goal=5.0),
        *of("Hénon map as a plain function, 1 orbit", mapped, zero, "a loop in NumPy", henon_in_numpy),
    ]


def of(
    work: str, system: sx.System, x0: torch.Tensor, against: str, numpy: Callable[[], np.ndarray], goal: float | None = None
) -> list[Row]:
    """The spectrum over the trajectory of a system, and that over a loop in NumPy."""
    sides = {
        "spectrum": lambda: sx.lyapunov_spectrum(system, x0, steps=STEPS, settle=0),
        "trajectory": lambda: sx.trajectory(system, x0, STEPS),
        "NumPy": numpy,
    }
    spectrum, trajectory, loop = (1e3 * seconds / STEPS for seconds in interleaved(sides).values())
    return [
        Row(f"{work}: both exponents", spectrum, "its own trajectory", trajectory, "ms / step", floor=True, goal=3.0),
        Row(f"{work}: trajectory", trajectory, against, loop, "ms / step", floor=True, goal=goal),
    ]
