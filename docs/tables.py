"""What is written from the tables of the code (`SYSTEMS`, `ANALYSES`, …), so that nobody types a name twice.

docs/tables.md                 all of it
docs/api.md                    the analyses, each with its result
src/separatrix/__init__.pyi    the analyses among the public names
src/separatrix/results.py      the records that functions return

python docs/tables.py            write them
python docs/tables.py --check    exit 1 if one of them is out of date
"""

import importlib
import inspect
import itertools
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

import separatrix as sx
from separatrix.analysis.along.tracks import Event
from separatrix.analysis.basins.borders import BasinEntropy, UncertaintyExponent
from separatrix.analysis.branches.branch import Bifurcation
from separatrix.bounds.operator_norm.operator_norm import OperatorNorm
from separatrix.flows.solution import Followed
from separatrix.tables import ANALYSES, BLOCKS, CELLS, OPTIMIZERS, PROFILES, SWEEPS, SYSTEMS

ROOT = Path(__file__).parents[1]
PAGE, REFERENCE = ROOT / "docs" / "tables.md", ROOT / "docs" / "api.md"
DOOR, RECORDS = ROOT / "src" / "separatrix" / "__init__.pyi", ROOT / "src" / "separatrix" / "results.py"
BEGIN, END = "made by docs/tables.py from ", "end of what docs/tables.py made"
PLAIN = (BasinEntropy, Bifurcation, Event, OperatorNorm, UncertaintyExponent)  # records that are not a Result
MEMBERS = {"FlowMap": ["animate"]}  # methods that the reference describes
HEAD = """\
---
hide:
  - toc
---
<!-- Made by docs/tables.py from SYSTEMS and ANALYSES. Change those, then run: python docs/tables.py -->
# What there is

`separatrix list` prints these names. The tables are in `sx.tables`: `SYSTEMS[name]()` builds a system,
`ANALYSES[name](system)` measures one, and `SWEEPS[name](system, parameter, …)` varies one of its parameters. `PROFILES` are
of a network as it is, of its checkpoints, or of a drive. `BLOCKS[name](dim)` builds a layer with a guarantee,
`CELLS[name](input_size, hidden_size)` a recurrent cell. Blocks and cells also take `device` and `dtype`, as PyTorch's
layers do. `OPTIMIZERS[name]` is the map of an optimiser, for `sx.Training`.
"""


def page() -> str:
    """The whole page."""
    parts = [
        HEAD,
        "## Systems\n",
        *table(("name", "system", "numbers", "parameters and their defaults", "source"), map(system_row, SYSTEMS.items())),
        "\n## Analyses\n",
        *table(("name", "what it measures", "gives", "options and their defaults", "source"), map(analysis_row, ANALYSES.items())),
        "\n## Sweeps of a parameter\n",
        *table(("name", "what it measures", "gives", "options and their defaults", "source"), map(analysis_row, SWEEPS.items())),
        "\n## Profiles of networks and drives\n",
        *table(("name", "what it measures", "gives", "options and their defaults", "source"), map(analysis_row, PROFILES.items())),
        "\n## Blocks with a guarantee\n",
        *table(("name", "what it is", "options and their defaults", "source"), map(block_row, BLOCKS.items())),
        "\n## Recurrent cells from ODEs\n",
        *table(("name", "what it is", "options and their defaults", "source"), map(block_row, CELLS.items())),
        "\n## Optimisers as maps\n",
        *table(("name in `torch.optim`", "map"), map(optimizer_row, OPTIMIZERS.items())),
    ]
    return "\n".join(parts) + "\n"


def written() -> dict[Path, str]:
    """Every file and what belongs into it."""
    functions = (*ANALYSES.values(), *SWEEPS.values(), *PROFILES.values())
    places = sorted((function.__module__.removeprefix("separatrix"), function.__name__) for function in functions)
    door = [f"from {module} import {name} as {name}" for module, name in places]
    return {
        PAGE: page(),
        REFERENCE: between(REFERENCE, reference(functions), "<!-- ", " -->"),
        DOOR: between(DOOR, door, "# "),
        RECORDS: records(),
    }


def between(path: Path, lines: Iterable[str], opened: str, closed: str = "") -> str:
    """The text of a file with other lines between its two marks."""
    before, rest = path.read_text(encoding="utf-8").split(f"{opened}{BEGIN}", 1)
    head, after = rest.split("\n", 1)[0], rest.split(f"{opened}{END}{closed}", 1)[1]
    return f"{before}{opened}{BEGIN}{head}\n" + "\n".join(lines) + f"\n{opened}{END}{closed}{after}"


def reference(functions: Iterable[Callable[..., sx.Result]]) -> list[str]:
    """The entry of each analysis and, once, of each record that it returns."""
    kinds = {kind.__name__ for kind in below(sx.Result)}
    lines: dict[str, list[str]] = {}
    for function in functions:
        lines[function.__name__] = ["", f"::: separatrix.{function.__name__}"]
        gives = re.findall(r"\w+", str(inspect.signature(function).return_annotation))
        for name in kinds.intersection(gives) - lines.keys():
            lines[name] = ["", f"::: separatrix.results.{name}"]
            lines[name] += ["    options:", f"      members: [{', '.join(MEMBERS[name])}]"] if name in MEMBERS else []
    return [*itertools.chain(*lines.values()), ""]


def records() -> str:
    """The module `separatrix.results`: every class of results, and the records that are none."""
    for module in pkgutil.walk_packages(sx.__path__, "separatrix."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)  # a class is known once it is defined
    public = below(sx.Result) - {Followed}  # which only has subclasses
    kinds = sorted({*PLAIN, *public}, key=lambda kind: kind.__name__)
    lines = sorted(f"from {kind.__module__} import {kind.__name__} as {kind.__name__}" for kind in kinds)
    names = [f'    "{kind.__name__}",' for kind in kinds]
    head = '"""The records that functions return: values with units, error bars and a status. See `Result`."""'
    made = f"# {BEGIN}the classes of results"
    return "\n".join([head, "", made, *lines, "", "__all__ = [", *names, "]", ""])


def below(kind: type) -> set[type]:
    """Its subclasses that the package defines, and theirs."""
    found = {child for child in kind.__subclasses__() if child.__module__.startswith("separatrix.")}
    return found.union(*(below(child) for child in found))


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A Markdown table."""
    cells = [tuple(head), *(tuple(cell.replace("|", "∣") for cell in row) for row in rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + "---|" * len(cells[0]), *lines[1:]]


def system_row(entry: tuple[str, Callable[[], sx.System]]) -> tuple[str, ...]:
    """One system: its factory's words, and its field's where it is a flow."""
    name, factory = entry
    system = factory()
    core = system.field if isinstance(system, sx.Flow) else factory
    words = [first_paragraph(factory)]
    if core is not factory:
        words.append(first_paragraph(type(core)))
    return f"`{name}`", " ".join(words), str(system.dim), options(factory), source(type(core) if core is not factory else factory)


def analysis_row(entry: tuple[str, Callable[..., sx.Result]]) -> tuple[str, ...]:
    """One analysis."""
    name, analysis = entry
    gives = inspect.signature(analysis).return_annotation
    gives = gives if isinstance(gives, str) else gives.__name__
    return f"`{name}`", first_paragraph(analysis), f"`{gives}`", options(analysis, keyword_only=True), source(analysis)


def block_row(entry: tuple[str, type[torch.nn.Module]]) -> tuple[str, ...]:
    """One block or cell of `sx.nn`."""
    name, block = entry
    return f"`{name}`", first_paragraph(block), options(block, omit=("device", "dtype")), source(block)


def optimizer_row(entry: tuple[str, sx.training.Rule]) -> tuple[str, ...]:
    """One optimiser."""
    name, rule = entry
    return f"`{name}`", first_paragraph(rule.update)


def first_paragraph(thing: Any) -> str:
    """The docstring up to its first empty line, on one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def source(thing: Any) -> str:
    """The docstring's `Source:`, up to where the text is no longer indented under it."""
    found = re.search(r"^Source: (.*(?:\n[ ]+.*)*)", inspect.getdoc(thing) or "", re.MULTILINE)
    return " ".join(found.group(1).split()) if found else ""


def options(function: Callable[..., Any], *, keyword_only: bool = False, omit: tuple[str, ...] = ()) -> str:
    """Parameters with a default, and the default."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name not in omit]
    chosen = [p for p in parameters if p.default is not p.empty and (not keyword_only or p.kind is p.KEYWORD_ONLY)]
    return ", ".join(f"`{p.name}={shown(p.default)}`" for p in chosen)


def shown(default: Any) -> str:
    """A default as one would type it: numbers to six digits, functions by name."""
    if callable(default):
        return default.__name__
    return f"{default:.6g}" if isinstance(default, float) else repr(default).replace("'", '"')


def main(argv: list[str]) -> int:
    """Write the files, or check those that are there."""
    old = 0
    for path, wanted in written().items():
        if "--check" not in argv:
            path.write_text(wanted, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != wanted:
            print(f"{path.relative_to(ROOT)} is out of date with the tables; run: python docs/tables.py", file=sys.stderr)
            old = 1
    return old


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
