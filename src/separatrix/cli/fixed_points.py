"""`separatrix fixed-points MODEL`: fixed points of a recurrent network under a constant input, or equilibria of a flow."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from separatrix.analysis.fixed.fixed_points import FixedPoints
from separatrix.analysis.fixed.fixed_points import fixed_points as find
from separatrix.cli.files import AsJson, Out, Overwrite, Picture, check_files, write_files
from separatrix.cli.flags import flags_of
from separatrix.cli.notes import say
from separatrix.core.checks import check_positive
from separatrix.core.errors import InputError, UnsupportedModuleError
from separatrix.core.system import System
from separatrix.core.wording import plain
from separatrix.loading import load_arguments, load_model
from separatrix.portrait.find_core import find_core
from separatrix.report.summary import jsonable
from separatrix.systems.recurrent.recurrent import Recurrent

MOST_ROWS = 40


@flags_of(find, "n", "period", "tol", "max_steps", "path_steps", "distinct", "starts", "seed")
def command(
    model: Annotated[
        str,
        typer.Argument(help="The model: path/to/file.py:factory, package.module:factory or torchvision:resnet18.", metavar="MODEL"),
    ],
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            help="The model's inputs, one file per argument; the input is held at step n of the first sequence. Default: zeros."
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A checkpoint: .safetensors, or .pt (loaded with weights_only=True).")
    ] = None,
    module: Annotated[
        str | None, typer.Option(help="Name of the recurrent part in `model.named_modules()`, if there are several.")
    ] = None,
    dt: Annotated[
        float | None, typer.Option(help="Duration of one step, for rates per unit time. Default: rates per step.")
    ] = None,
    out: Out = None,
    picture: Picture = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Run the verb; the line of its help is in `separatrix.cli.VERBS`."""
    check_files(out, picture, overwrite)
    with contextlib.redirect_stdout(sys.stderr):  # the user's code may print
        found = find(_network(model, inputs, weights, module, dt, options["seed"]), **options, progress=True)
    write_files(found, out, picture)
    if as_json:
        print(json.dumps(jsonable(_numbers(found)), ensure_ascii=False, indent=2))
    else:
        _show(found)


def _network(spec: str, inputs: list[Path] | None, weights: Path | None, module: str | None, dt: float | None, seed: int) -> System:
    """The network's core, driven by the first sequence that reaches it, or by zeros; a flow, such as a neural ODE, unchanged."""
    values = load_arguments(inputs) if inputs else None
    with torch.random.fork_rng(devices=[]):  # the user's code may draw
        torch.manual_seed(seed)
        loaded = load_model(spec, weights, say)
        if isinstance(loaded, System) and loaded.continuous:
            if values is not None or module is not None or dt is not None:
                raise InputError(
                    f"a {type(loaded).__name__} is a flow: it takes no inputs, has no recurrent part and has its own dt.\n"
                    "Omit --inputs, --module and --dt."
                )
            return loaded
        core = find_core(loaded, values, module)
    if core is None:
        raise UnsupportedModuleError(
            f"{type(loaded).__name__} has no recurrent part for these inputs, and so no state that could have a fixed point.\n"
            "To measure it in depth, use `separatrix analyze`."
        )
    if core.feedback.turn is not None:
        core.feedback.turn.dt = check_positive("dt", 1.0 if dt is None else dt)
        return core.feedback.turn
    inputs_of_one = None if core.inputs is None else core.inputs[:, 0]
    return Recurrent(core.module, inputs_of_one, state=core.state, dt=1.0 if dt is None else dt)


def _numbers(found: FixedPoints) -> dict[str, Any]:
    """The points one by one, and the outcome of the guesses."""
    points = [
        {
            "point": found.points[i].tolist(),
            "residual": float(found.residuals[i]),
            "error": float(found.errors[i]),
            "kind": found.kind[i],
            "minimal_period": int(found.minimal_period[i]),
            "found_by": int(found.found_by[i]),
            "multipliers": [[value.real, value.imag] for value in found.multipliers[i].tolist()],
        }
        for i in range(len(found.points))
    ]
    slow = [{"point": x.tolist(), "residual": float(r)} for x, r in zip(found.slow, found.slow_residuals, strict=True)]
    index = {"index_sum": found.index_sum, "index_expected": found.index_expected, "points_missing": found.points_missing}
    return {"points": points, "slow": slow, **index, "settings": found.settings}


def _show(found: FixedPoints) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("kind", "period", "leading |μ|", f"rate, nats per {found.clock}", "residual", "guesses"):
        table.add_column(name)
    for i in range(min(MOST_ROWS, len(found.points))):
        numbers = (found.multipliers[i, 0].abs(), found.rates[i, 0], found.residuals[i])
        leading, rate, residual = (plain(float(number)) for number in numbers)
        table.add_row(found.kind[i], str(int(found.minimal_period[i])), leading, rate, residual, f"{int(found.found_by[i]):,}")
    console.print(table, "")
    if len(found.points) > MOST_ROWS:
        console.print(f"… and {len(found.points) - MOST_ROWS:,} more", style="dim")
    console.print(repr(found), soft_wrap=True)
