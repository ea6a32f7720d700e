"""Peak memory of a run against its number of steps. A process of its own: a peak, once reached, stays."""

import json
import resource
import subprocess
import sys
from pathlib import Path

FEW, MANY, STATES = 2_000, 200_000, 500


def row() -> dict[str, float]:
    """What the long run needed beyond the short one, in MiB, beside what keeping every QR would need."""
    printed = subprocess.run([sys.executable, __file__], check=True, capture_output=True, text=True).stdout
    return json.loads(printed)


def measure() -> dict[str, float]:
    """Run few steps, then many, and see how far the peak moves."""
    import separatrix as sx

    system = sx.classic.henon()
    x0 = system.initial_state((STATES,))
    peaks = []
    for steps in (FEW, MANY):
        sx.lyapunov_spectrum(system, x0, steps=steps, every=1)
        peaks.append(peak())
    return {
        "states": STATES,
        "few steps": FEW,
        "many steps": MANY,
        "peak after few, MiB": round(peaks[0], 1),
        "growth, MiB": round(peaks[1] - peaks[0], 1),
        "every QR kept would need, MiB": round(MANY * STATES * 2 * 8 / 2**20, 1),
    }


def peak() -> float:
    """The process's largest resident size so far, MiB (from /proc where there is one: getrusage may count the parent's)."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (1024 if sys.platform != "darwin" else 1024**2)


if __name__ == "__main__":
    print(json.dumps(measure()))
