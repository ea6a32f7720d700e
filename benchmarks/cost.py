"""Time and peak memory of k leading exponents against the size of the state, k, batch and steps, with the exponents of growth.

Each point is a process of its own, because a peak, once reached, stays.
"""

import json
import math
import subprocess
import sys
import time

from memory import peak

BASE = {"dim": 300_000, "k": 2, "batch": 1, "steps": 8}
GRID = {"dim": (100, 1_000, 10_000, 100_000, 1_000_000), "k": (1, 2, 4, 8), "batch": (1, 2, 4, 8), "steps": (8, 16, 32)}
LARGEST = {"dim": 10_000_000, "k": 4, "batch": 1, "steps": 3}


def row() -> dict[str, dict]:
    """Seconds and MiB at each point, how they grow between the last two, and the largest state in units of (k + 4) states."""
    found = {}
    for name, values in GRID.items():
        points = [measured(**{**BASE, name: value}) for value in values]
        span = math.log(values[-1] / values[-2])
        seconds, mebibytes = ([round(point[key], 4) for point in points] for key in ("seconds", "MiB"))
        growth = {key: round(math.log(points[-1][key] / points[-2][key]) / span, 2) for key in ("seconds", "MiB")}
        found[name] = {"values": values, "seconds": seconds, "MiB": mebibytes, "growth": growth}
    last = measured(**LARGEST)
    share = last["MiB"] * 2**20 / (8 * LARGEST["dim"] * (LARGEST["k"] + 4))
    return {**found, "largest": {**LARGEST, **last, "times (k + 4) states": round(share, 2)}}


def as_markdown(found: dict[str, dict]) -> str:
    """A table of each range, and the largest state in words."""
    base = ", ".join(f"{name} {value:,}" for name, value in BASE.items())
    rows = ["| varied | values | seconds | MiB | growth of seconds, MiB |", "|---|---|---|---|---|"]
    for name in GRID:
        part = found[name]
        columns = (part["values"], part["seconds"], part["MiB"])
        cells = [", ".join(f"{value:,.3g}" if value < 1_000 else f"{value:,.0f}" for value in column) for column in columns]
        rows.append(f"| {name} | {' | '.join(cells)} | {part['growth']['seconds']:g}, {part['growth']['MiB']:g} |")
    last = found["largest"]
    return (
        f"`lyapunov_spectrum` of a ring of coupled tanh units in float64, one number varied at a time from {base}. Seconds and "
        "peak memory beyond that of the loaded library; growth is the exponent between the last two values.\n\n"
        + "\n".join(rows)
        + f"\n\n{last['dim']:,} numbers, k = {last['k']}, {last['steps']} steps: {last['MiB']:,.0f} MiB, which is "
        f"{last['times (k + 4) states']:.1f} × (k + 4) states; {last['seconds']:.0f} s."
    )


def measured(**sizes: int) -> dict[str, float]:
    """Seconds and MiB of a run in a process of its own."""
    printed = subprocess.run([sys.executable, __file__, json.dumps(sizes)], check=True, capture_output=True, text=True).stdout
    return json.loads(printed)


def measure(dim: int, k: int, batch: int, steps: int) -> dict[str, float]:
    """A ring of coupled tanh units; the peak is that beyond what was in use before the run."""
    import torch

    import separatrix as sx

    def ring(numbers: int) -> sx.Map:
        return sx.Map(lambda x: torch.tanh(1.6 * x - 0.9 * x.roll(1, -1)), numbers)

    for few in (100, 5_000):  # what is loaded on first use
        sx.lyapunov_spectrum(ring(few), torch.ones(few).double(), k=2, steps=4, settle=0)
    system, draws = ring(dim), torch.Generator().manual_seed(0)
    x0 = torch.randn(batch, dim, dtype=torch.float64, generator=draws)
    before, begun = peak(), time.perf_counter()
    sx.lyapunov_spectrum(system, x0, k=k, steps=steps, settle=0)
    return {"seconds": time.perf_counter() - begun, "MiB": peak() - before + x0.numel() * 8 / 2**20}


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1])) if len(sys.argv) > 1 else row(), indent=1))
