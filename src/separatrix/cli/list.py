"""`separatrix list`: the built-in systems, analyses, networks and methods."""

import inspect

from rich.console import Console
from rich.table import Table

from separatrix.demos import DEMOS
from separatrix.flows.methods import PAIRS, SOLVERS
from separatrix.tables import ANALYSES, BLOCKS, CELLS, PROFILES, SWEEPS, SYSTEMS


def command() -> None:
    """Run the verb; the line of its help is in `separatrix.cli.VERBS`."""
    console = Console()
    demos = {f"demo:{name}": demo for name, demo in DEMOS.items()}
    tables = {"systems": SYSTEMS, "analyses": ANALYSES, "sweeps": SWEEPS, "profiles": PROFILES, "blocks": BLOCKS}
    tables |= {"cells": CELLS, "demos": demos}
    for title, entries in tables.items():
        table = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold")
        table.add_column()
        for name, entry in entries.items():
            table.add_row(name, (inspect.getdoc(entry) or "").split("\n")[0])
        console.print(table, "")
    console.print(methods(), "")


def methods() -> Table:
    """A table of the one-step methods of flows."""
    table = Table(title="methods", title_justify="left", box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, method in SOLVERS.items():
        table.add_row(name, f"order {method.order}{', also with adaptive steps' if name in PAIRS else ''}")
    return table
