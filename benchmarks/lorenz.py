"""Lorenz63 with all three tangents, RK4, 10,000 initial states: nanoseconds per step of one trajectory."""

import io
from collections.abc import Callable
from contextlib import redirect_stderr

import numpy as np
import torch

import separatrix as sx
from timing import Row, Work, interleaved

STATES, STEPS, SETTLE, DT = 10_000, 500, 100, 0.01
TOTAL = STEPS + SETTLE
TRACE = -(10.0 + 1.0 + 8 / 3)  # of the Jacobian, everywhere: what the exponents add up to
GOAL_NS = 100


def rows() -> list[Row]:
    """Ours, plain and compiled, against each of the others that is installed."""
    system = sx.classic.lorenz63(dt=DT)
    x0 = sx.trajectory(system, system.initial_state((STATES,)), 1000, every=1000)[-1]
    ours = {"plain": (own(system, x0), STATES * TOTAL), "compiled": (own(sx.Compiled(system), x0), STATES * TOTAL)}
    rivals, missing = {}, {}
    for name, prepare in RIVALS.items():
        try:
            rivals[name] = prepare(x0.numpy())
        except ImportError as error:
            missing[name] = f"not installed ({error.name})"
    sides = {**ours, **rivals}
    for name, (work, _) in sides.items():
        check_trace(name, work())
    median = interleaved({name: work for name, (work, _) in sides.items()})
    ns = {name: median[name] / count * 1e9 for name, (_, count) in sides.items()}
    return table(ns, missing)


def table(ns: dict[str, float], missing: dict[str, str]) -> list[Row]:
    """Our two ways against the goal, then the compiled one against each rival."""
    work, unit = "Lorenz63 + 3 tangents, RK4, 10,000 initial states", "ns / trajectory-step"
    plain, compiled = f"{work}, as it is", f"{work}, sx.Compiled"
    return [
        Row(plain, ns["plain"], "", None, unit),
        Row(compiled, ns["compiled"], f"goal: {GOAL_NS} ns", GOAL_NS, unit, True, 1.0),
        *(Row(compiled, ns["compiled"], name, ns.get(name), unit, note=missing.get(name, "")) for name in RIVALS),
    ]


def own(system: sx.System, x0: torch.Tensor) -> Work:
    """Our spectrum."""
    return lambda: sx.lyapunov_spectrum(system, x0, steps=STEPS, settle=SETTLE).exponents.numpy()


def check_trace(name: str, exponents: np.ndarray) -> None:
    """Every trajectory's exponents add up to the trace, but for the error of RK4 and what the frame forgot in the settling."""
    gap = np.abs(np.asarray(exponents).sum(-1) - TRACE).max()
    if not gap < 1e-2:
        raise AssertionError(f"{name}: the exponents add up to {TRACE:.4f} but for {gap:.1e}.")


def lyapax(every: int, chunk: int) -> Callable[[np.ndarray], tuple[Work, int]]:
    """Lyapax under jit and vmap, float64, the batch in chunks; compilation falls into the warm-up."""

    def prepare(x0: np.ndarray) -> tuple[Work, int]:
        import jax

        jax.config.update("jax_enable_x64", True)
        from lyapax import lyapunov_spectrum
        from lyapax.integrators import rk4_step
        from lyapax.systems import lorenz

        step = rk4_step(lorenz(), DT)
        spectrum = jax.jit(jax.vmap(lambda x: lyapunov_spectrum(step, x, DT, TOTAL, renorm_every=every).exponents))
        chunks = [jax.numpy.asarray(x0[i : i + chunk]) for i in range(0, STATES, chunk)]
        return lambda: np.concatenate([spectrum(x) for x in chunks]), STATES * TOTAL

    return prepare


def pynamicalsys(x0: np.ndarray) -> tuple[Work, int]:
    """Its compiled Lorenz system; it takes one initial state a call, so 20 of them."""
    from pynamicalsys import ContinuousDynamicalSystem

    system = ContinuousDynamicalSystem(model="lorenz system")
    system.integrator("rk4", time_step=DT)
    parameters = np.array([10.0, 28.0, 8 / 3])
    few = x0[:20]
    return lambda: np.stack([system.lyapunov(x, TOTAL * DT, parameters=parameters) for x in few]), len(few) * TOTAL


def clvlib(x0: np.ndarray) -> tuple[Work, int]:
    """Its NumPy side, the faster one for small systems; QR each step, as its `k_step` fails from an initial state (0.1.5)."""
    from clvlib.numpy import lyap_exp_from_ic

    def field(t: float, x: np.ndarray) -> np.ndarray:
        return np.array([10.0 * (x[1] - x[0]), x[0] * (28.0 - x[2]) - x[1], x[0] * x[1] - 8 / 3 * x[2]])

    def jacobian(t: float, x: np.ndarray) -> np.ndarray:
        return np.array([[-10.0, 10.0, 0.0], [28.0 - x[2], -1.0, -x[0]], [x[1], x[0], -8 / 3]])

    times = np.arange(TOTAL + 1) * DT

    def work() -> np.ndarray:
        with redirect_stderr(io.StringIO()):  # its progress bar
            return lyap_exp_from_ic(field, jacobian, x0[0], times)[0][None]

    return work, TOTAL


RIVALS: dict[str, Callable[[np.ndarray], tuple[Work, int]]] = {
    "lyapax, jit(vmap), QR every 10 steps as its README": lyapax(10, STATES),
    "lyapax, jit(vmap), QR every 20 steps, chunks of 1,000": lyapax(20, 1000),
    "pynamicalsys, one state a call (takes no batch)": pynamicalsys,
    "clvlib, one state a call (takes no batch)": clvlib,
}
