"""What a start costs: processor seconds of fresh processes, in turns. The bytecode is there: a first round compiles it."""

import subprocess
import sys
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

from timing import Row

REPEATS = 5
TORCH = "import torch"
DOOR = "import separatrix, with torch"
LINES = {
    DOOR: "import separatrix as sx, torch",
    "sx.lyapunov_spectrum, first use": "import separatrix as sx; sx.lyapunov_spectrum",
    "sx.nn.NeuralODE, first use": "import separatrix as sx; sx.nn.NeuralODE",
    "sx.depth_profile, first use": "import separatrix as sx; sx.depth_profile",
    "sx.analyze, first use": "import separatrix as sx; sx.analyze",
}
COMMANDS = {"separatrix --version": "--version", "separatrix --help": "--help", "separatrix, a wrong verb": "analise"}
GOAL, SECONDS = 1.1, 0.3  # of the door, over `import torch`; of a command


def rows() -> list[Row]:
    """Imports against that of PyTorch, and commands in seconds."""
    starts = {work: ["-c", line] for work, line in LINES.items()}
    starts |= {work: ["-m", "separatrix", argument] for work, argument in COMMANDS.items()}
    took = processor_seconds({**starts, TORCH: ["-c", TORCH]})
    goals = {DOOR: GOAL}
    imports = [Row(work, took[work], TORCH, took[TORCH], "s", floor=True, goal=goals.get(work)) for work in LINES]
    return imports + [Row(work, took[work], "", None, "s", note=told(took[work])) for work in COMMANDS]


def told(seconds: float) -> str:
    """The goal of a command and whether it was reached."""
    return f"≤ {SECONDS} s {'✓' if seconds <= SECONDS else '✗'}"


def processor_seconds(starts: dict[str, list[str]]) -> dict[str, float]:
    """Median of user and system time of each start, after one that is not counted."""
    seconds: dict[str, list[float]] = {work: [] for work in starts}
    for _ in range(1 + REPEATS):
        for work, arguments in starts.items():
            before = getrusage(RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
            after = getrusage(RUSAGE_CHILDREN)
            seconds[work].append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return {work: median(taken[1:]) for work, taken in seconds.items()}
