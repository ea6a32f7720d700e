"""`separatrix analyze MODEL`: the main job."""

import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from separatrix.cli.files import AsJson, Overwrite
from separatrix.cli.flags import flags_of
from separatrix.cli.notes import say
from separatrix.core.checks import check_seed
from separatrix.core.errors import InputError
from separatrix.demos import Demo, demo_named
from separatrix.loading import load_arguments, load_inputs, load_model
from separatrix.portrait import Portrait
from separatrix.portrait import analyze as portray
from separatrix.portrait.findings import QUESTIONS
from separatrix.report import refuse_existing, write_report
from separatrix.report.summary import jsonable

DEFAULT_OUT = Path("separatrix-report")
ALSO = f"Names: auto (the default; those that take seconds), none, {', '.join(QUESTIONS)}."


@flags_of(portray, "module", "k", "copies", "steps", "settle", "error", "statistics", "noise", "seconds", "full", "seed")
def command(
    model: Annotated[
        str,
        typer.Argument(
            help="The model: path/to/file.py:factory, package.module:factory, torchvision:resnet18 or demo:NAME.", metavar="MODEL"
        ),
    ],
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            help="The model's inputs: .npy, .npz, .pt or .csv (one row per time step). For several arguments, repeat the option, "
            "or pass one .npz whose arrays have the arguments' names, or one .pt with a tuple or dict of tensors."
        ),
    ] = None,
    targets: Annotated[
        Path | None, typer.Option(help="In depth: one target per input, for the gradients. Same formats as --inputs.")
    ] = None,
    layers: Annotated[
        list[str] | None, typer.Option(help="In depth: a module to measure. Repeatable. Default: all.", metavar="NAME")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A checkpoint: .safetensors, or .pt (loaded with weights_only=True).")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.html, results.zarr and summary.json.")] = DEFAULT_OUT,
    overwrite: Overwrite = False,
    also: Annotated[list[str] | None, typer.Option(help=f"A further analysis. Repeatable. {ALSO}", metavar="NAME")] = None,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Run the verb; the line of its help is in `separatrix.cli.VERBS`."""
    log = Console(stderr=True, soft_wrap=True, highlight=False)
    portraits: dict[str, Portrait] = {}
    try:
        check_seed(options["seed"])
        refuse_existing(out, overwrite)
        with contextlib.redirect_stdout(sys.stderr):  # the user's code may print
            demo = _subject(model, inputs, targets, weights, options["seed"])
            for name, network in demo.models.items():
                log.print(f"measuring {name} …")
                asked = {"also": also or "auto", "layers": layers, "targets": demo.targets, **options}
                portraits[name] = portray(network, demo.inputs, progress=True, **asked)
        command = shlex.join(["separatrix", *sys.argv[1:]])
        place = write_report(portraits, out, title=demo.title, extra=demo.facts, overwrite=overwrite, command=command)
    except KeyboardInterrupt:
        done = f"{', '.join(portraits)} measured" if portraits else "nothing measured"
        log.print(f"stopped: {done}, no report written; {out} is unchanged.")
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(jsonable({name: p.numbers() for name, p in portraits.items()}), ensure_ascii=False, indent=2))
    else:
        _show(portraits, demo, place)


def _subject(spec: str, inputs: list[Path] | None, targets: Path | None, weights: Path | None, seed: int) -> Demo:
    """The networks to measure: a demo from the table, or the user's model as the only network of one."""
    kind, _, name = spec.partition(":")
    if kind != "demo":
        values = load_arguments(inputs) if inputs else None
        answers = load_inputs(targets) if targets is not None else None
        with torch.random.fork_rng(devices=[]):  # the user's code may draw
            torch.manual_seed(seed)
            network = load_model(spec, weights, say)
        return Demo(spec, {type(network).__name__: network}, values, {}, answers)
    if inputs or any(file is not None for file in (targets, weights)):
        raise InputError(f"{spec} uses its own data and trains its own weights.\nOmit --inputs, --targets and --weights.")
    return demo_named(name)(seed=seed, progress=True)


def _show(portraits: dict[str, Portrait], demo: Demo, place: Path) -> None:
    from separatrix.report.table import headline_rows  # with Matplotlib

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in portraits:
        table.add_column(name)
    for row in headline_rows(portraits, demo.facts):
        table.add_row(row.name + (f" ({row.unit})" if row.unit else ""), *(cell.value for cell in row.cells))
    console.print(table, "")
    for name, portrait in portraits.items():
        console.print(f"[bold]{name}[/]: {portrait.verdict}.", soft_wrap=True)
        for sentence in (*portrait.did, *portrait.found()):
            console.print(f"  {sentence}", style="dim", soft_wrap=True)
        for sentence in portrait.advice:
            console.print(f"  → {sentence}", soft_wrap=True, markup=False)
    console.print(f"\nreport: {place / 'report.html'}", soft_wrap=True)
