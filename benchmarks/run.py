"""All speed benchmarks: prints a table, and writes RESULTS.md and results.json beside this file.

`python benchmarks/run.py` runs all of them, some twenty minutes on two idle cores; `python benchmarks/run.py lorenz gru` those two
(the names are in BENCHMARKS), and the others keep their last results.
What is done is written down at once, so that a run that is stopped keeps it.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

import basins
import cost
import covariant
import depth
import everyday
import gru
import imports
import lipschitz
import lorenz
import memory
import neural_ode
import operator_norm
import rest_points
import reversible
import small
from timing import Row, machine

HERE = Path(__file__).parent
BENCHMARKS = {
    "everyday": everyday.rows,
    "small": small.rows,
    "gru": gru.rows,
    "covariant": covariant.rows,
    "rest_points": rest_points.rows,
    "depth": depth.rows,
    "basins": basins.rows,
    "lipschitz": lipschitz.rows,
    "lorenz": lorenz.rows,
    "operator_norm": operator_norm.rows,
    "neural_ode": neural_ode.rows,
    "imports": imports.rows,
    "cost": cost.row,
    "memory": memory.row,
    "reversible": reversible.row,
}
TOLD = ("cost", "memory", "reversible")  # in words, below the table
HEAD = ("work", "ours", "against", "theirs", "ratio", "goal")


def main(names: list[str]) -> None:
    """Run what was asked for and write it down."""
    file = HERE / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    where, console = machine(), Console()
    for name in names or BENCHMARKS:
        with console.status(f"{name} …"):
            outcome = BENCHMARKS[name]()
        results[name] = {"machine": where, "results": outcome if name in TOLD else [asdict(row) for row in outcome]}
        file.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        (HERE / "RESULTS.md").write_text(as_markdown(results))
    console.print(as_table(results))


def lines(results: dict) -> list[tuple[str, ...]]:
    """The cells of the table."""
    rows = [Row(**row) for name in BENCHMARKS if name in results and name not in TOLD for row in results[name]["results"]]
    return [cells(row) for row in rows]


def cells(row: Row) -> tuple[str, ...]:
    """A row in words and three digits."""
    ratio = "" if row.ratio is None else f"{row.ratio:.3g} ×{'' if row.floor else ' faster'}"
    theirs = "" if row.theirs is None else f"{row.theirs:.3g}"
    return row.work, f"{row.ours:.3g} {row.unit}", row.against, theirs, ratio, row.verdict


def as_table(results: dict) -> Table:
    """For the terminal."""
    table = Table(*HEAD, title="Speed, median of 5")
    for line in lines(results):
        table.add_row(*line)
    return table


def as_markdown(results: dict) -> str:
    """For the repository."""
    body = [f"| {' | '.join(line)} |" for line in (HEAD, ["---"] * len(HEAD), *lines(results))]
    parts = [ABOUT, "\n".join(body)]
    if "cost" in results:
        parts += ["### Cost against size", cost.as_markdown(results["cost"]["results"])]
    if "memory" in results:
        parts += ["### Memory", MEMORY.format(**results["memory"]["results"])]
    if "reversible" in results:
        parts += ["### Memory against depth", against_depth(results["reversible"]["results"])]
    parts += ["### Machines", *(f"- {name}: {describe(result['machine'])}" for name, result in results.items())]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"


def against_depth(found: dict) -> str:
    """What networks hold between the passes, and their peaks, by the number of layers."""
    held, peaks, price = found["held bytes per number"], found["peak beyond one item, MiB"], found["time over stored"]
    head = ["network", *(f"held, {depth:,} layers" for depth in found["depths"]), *(f"peak, {d:,} layers" for d in found["depths"])]
    body = [[kind, *(f"{b:g} B" for b in held[kind]), *(f"{m:g} MiB" for m in peaks[kind])] for kind in held]
    table = "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body))
    told = ", ".join(f"{kind} {ratio:g} ×" for kind, ratio in price.items())
    return f"{DEPTH}\n\n{table}\n\nTime of both passes over that with stored activations, at {found['timed depth']} layers: {told}."


def describe(where: dict) -> str:
    """A machine in a line."""
    return ", ".join(f"{key} {value}" for key, value in where.items())


ABOUT = """Written by `make bench` (`benchmarks/run.py`). Both sides run in one process, in turns, after a warm-up that takes the
compilation; times are the median of 5 and include all that a user waits for, settling steps too. All in float64, training steps
in float32. A ratio to a *floor* is ours over the floor, so smaller is better; a ratio to another way is theirs over ours. Before
timing, the sides are checked to give the same exponents (GRU: to 1e-9 nats per step from the same frame; Lorenz: each
trajectory's sum to 1e-2). Rest points are sought once by each side, by the rules that each stops at of itself.

The closed-form tangents of a GRU add its gates up to one Jacobian before they multiply, which is a third of the product that
the design called irreducible: hence ratios below 1, and the smaller floor beside it."""

MEMORY = """Peak memory does not grow with the number of steps: {states} Hénon orbits, both exponents, a QR each step. The peak
after {few steps:,} steps is {peak after few, MiB} MiB, most of it PyTorch; {many steps:,} steps need {growth, MiB} MiB more.
Keeping every QR would need {every QR kept would need, MiB} MiB."""

DEPTH = """A forward and a backward pass in float32: bytes that the graph holds between them for each number of the state, without
the weights; and how far the peak of a process rises from 1 item to 1,024 of 64 numbers. Each layer is one product with a matrix of
64 × 64, so that the sums of whole numbers weigh much against it."""


if __name__ == "__main__":
    main(sys.argv[1:])
