"""`separatrix bifurcation SYSTEM PARAMETER`: follow fixed points or cycles as a parameter varies."""

import contextlib
import json
import sys
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from separatrix.analysis.branches.branch import Branch
from separatrix.analysis.branches.continuation import continuation
from separatrix.cli.files import AsJson, Out, Overwrite, Picture, check_files, write_files
from separatrix.cli.flags import described_arguments, flags_of
from separatrix.core.errors import InputError, ModelError
from separatrix.core.system import System
from separatrix.loading import load_model
from separatrix.report.summary import jsonable
from separatrix.systems import SYSTEMS

WORDS = described_arguments(continuation)


@flags_of(continuation, "period", "step_size", "max_steps", "tol", "seed")
def command(
    system: Annotated[
        str,
        typer.Argument(help="A name from `separatrix list`, or path/to/file.py:factory that returns a System.", metavar="SYSTEM"),
    ],
    parameter: Annotated[str, typer.Argument(help=WORDS["parameter"], metavar="PARAMETER")],
    start: Annotated[float, typer.Option(help=WORDS["start"])],
    stop: Annotated[float, typer.Option(help=WORDS["stop"])],
    x0: Annotated[str | None, typer.Option(help="A state near the fixed point or cycle: numbers separated by commas.")] = None,
    direction: Annotated[
        str | None, typer.Option(help=WORDS["direction"] + " Numbers separated by commas; a matrix row by row.")
    ] = None,
    out: Out = None,
    picture: Picture = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Run the verb; the line of its help is in `separatrix.cli.VERBS`."""
    log = Console(stderr=True, soft_wrap=True, highlight=False)
    check_files(out, picture, overwrite)
    try:
        with contextlib.redirect_stdout(sys.stderr), log.status("following the branch …"):  # the user's code may print
            subject = _subject(system)
            along = _along(subject, parameter, direction)
            branch = continuation(subject, parameter, start, stop, _numbers_of("--x0", x0), direction=along, **options)
            write_files(branch, out, picture)
    except KeyboardInterrupt:
        log.print("stopped: nothing written.")
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(jsonable(_numbers(branch)), ensure_ascii=False, indent=2))
    else:
        _show(branch)


def _subject(spec: str) -> System:
    if ":" not in spec:
        if spec not in SYSTEMS:
            raise ModelError(f"unknown system {spec!r}.\nChoose from {', '.join(SYSTEMS)}, or pass path/to/file.py:factory.")
        return SYSTEMS[spec]()
    made = load_model(spec)
    if not isinstance(made, System):
        raise ModelError(
            f"expected {spec} to return a System with a parameter to vary, got a {type(made).__name__}.\n"
            "Return a separatrix.System that holds the parameter: self.hold(gain=1.0)."
        )
    return made


def _along(system: System, parameter: str, text: str | None) -> Tensor | None:
    """The direction, in the shape of the parameter that it moves."""
    direction = _numbers_of("--direction", text)
    held = getattr(next((part for part in system.modules() if hasattr(part, parameter)), None), parameter, None)
    if direction is None or not isinstance(held, Tensor) or held.numel() != direction.numel():
        return direction
    return direction.reshape(held.shape)


def _numbers_of(flag: str, text: str | None) -> Tensor | None:
    if text is None:
        return None
    try:
        return torch.tensor([float(number) for number in text.split(",")], dtype=torch.float64)
    except ValueError:
        raise InputError(f"{flag} is {text!r}; expected numbers separated by commas, such as 1,-0.5,2.") from None


def _numbers(branch: Branch) -> dict[str, Any]:
    return {
        "parameter": branch.parameter,
        "status": branch.status,
        "end": branch.end,
        "parameters": branch.parameters.tolist(),
        "points": branch.points.tolist(),
        "stable": branch.stable.tolist(),
        "bifurcations": [
            {"kind": b.kind, "parameter": b.parameter, "error": b.error, "point": b.point.tolist()} for b in branch.bifurcations
        ],
    }


def _show(branch: Branch) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{branch}.")
    if branch.bifurcations:
        table = Table("bifurcation", branch.parameter, "bracket", "state", box=None, pad_edge=False, header_style="bold")
        for b in branch.bifurcations:
            state = ", ".join(f"{number:.6g}" for number in b.point[:4].tolist()) + (", …" if len(b.point) > 4 else "")
            table.add_row(b.kind, f"{b.parameter:.10g}", f"{b.error:.1g}", state)
        console.print("", table)
