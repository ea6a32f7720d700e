"""The tables of systems and of analyses, docs/tables.md, from `SYSTEMS` and `ANALYSES`.

python docs/tables.py            write it
python docs/tables.py --check    exit 1 if it is out of date
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

import separatrix as sx

PAGE = Path(__file__).parent / "tables.md"
HEAD = """\
---
hide:
  - toc
---
<!-- Made by docs/tables.py from SYSTEMS and ANALYSES. Change those, then run: python docs/tables.py -->
# What there is

`separatrix list` prints these names; `sx.SYSTEMS[name]()` builds a system, `sx.ANALYSES[name](system)` measures one;
`sx.SWEEPS[name](system, parameter, …)` varies one of its parameters; `sx.PROFILES` asks
of a network as it is, of its checkpoints, or of a drive; `sx.nn.BLOCKS[name](dim)` builds a layer with a guarantee,
`sx.nn.CELLS[name](input_size, hidden_size)` a recurrent cell. Blocks and cells also take `device` and `dtype`, as PyTorch's
layers do.
"""


def page() -> str:
    """The whole page."""
    parts = [
        HEAD,
        "## Systems\n",
        *table(("name", "system", "numbers", "parameters and their defaults", "source"), map(system_row, sx.SYSTEMS.items())),
        "\n## Analyses\n",
        *table(
            ("name", "what it measures", "gives", "options and their defaults", "source"), map(analysis_row, sx.ANALYSES.items())
        ),
        "\n## Sweeps of a parameter\n",
        *table(("name", "what it measures", "gives", "options and their defaults", "source"), map(analysis_row, sx.SWEEPS.items())),
        "\n## Profiles of networks and drives\n",
        *table(
            ("name", "what it measures", "gives", "options and their defaults", "source"), map(analysis_row, sx.PROFILES.items())
        ),
        "\n## Blocks with a guarantee\n",
        *table(("name", "what it is", "options and their defaults", "source"), map(block_row, sx.nn.BLOCKS.items())),
        "\n## Recurrent cells from ODEs\n",
        *table(("name", "what it is", "options and their defaults", "source"), map(block_row, sx.nn.CELLS.items())),
    ]
    return "\n".join(parts) + "\n"


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
    """Write the page, or check the one that is there."""
    wanted = page()
    if "--check" not in argv:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == wanted:
        return 0
    print("docs/tables.md is out of date with SYSTEMS and ANALYSES; run: python docs/tables.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
