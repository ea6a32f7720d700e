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

from separatrix.analyze import Portrait
from separatrix.analyze import analyze as portray
from separatrix.cli.flags import flags_of
from separatrix.demos import DEMOS, Demo
from separatrix.errors import InputError, ModelError
from separatrix.evolve import check_seed
from separatrix.loading import load_inputs, load_model
from separatrix.report import refuse_existing, write_report
from separatrix.report.table import why_not_converged
from separatrix.wording import measured

DEFAULT_OUT = Path("separatrix-report")


@flags_of(portray, "module", "k", "copies", "steps", "settle", "tol", "seed")
def analyze(
    model: Annotated[
        str,
        typer.Argument(help="path/to/file.py:factory, package.module:factory, torchvision:resnet18 or demo:NAME.", metavar="MODEL"),
    ],
    inputs: Annotated[Path | None, typer.Option(help="What the model takes: .npy, .npz, .pt or .csv (a row a time step).")] = None,
    weights: Annotated[Path | None, typer.Option(help="A checkpoint: .safetensors, or .pt read with weights_only=True.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.html, results.zarr and summary.json.")] = DEFAULT_OUT,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report that is there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, and nothing else.")] = False,
    **options: Any,
) -> None:
    """Say on which side of the border between order and chaos a recurrent network is, and write a report."""
    log = Console(stderr=True, soft_wrap=True, highlight=False)
    portraits: dict[str, Portrait] = {}
    try:
        check_seed(options["seed"])
        refuse_existing(out, overwrite)
        with contextlib.redirect_stdout(sys.stderr):  # the user's code may print
            demo = _subject(model, inputs, weights, options["seed"])
            for name, network in demo.models.items():
                log.print(f"measuring {name} …")
                portraits[name] = portray(network, demo.inputs, progress=True, **options)
        command = shlex.join(["separatrix", *sys.argv[1:]])
        place = write_report(portraits, out, title=demo.title, extra=demo.facts, overwrite=overwrite, command=command)
    except KeyboardInterrupt:
        done = f"{', '.join(portraits)} measured" if portraits else "nothing measured"
        log.print(f"stopped: {done}, no report written; {out} is as it was.")
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps({name: portrait.numbers() for name, portrait in portraits.items()}, ensure_ascii=False, indent=2))
    else:
        _show(portraits, demo, place)


def _subject(spec: str, inputs: Path | None, weights: Path | None, seed: int) -> Demo:
    """What to portray: a demo from the table, or the user's model as the only entry of one."""
    kind, _, name = spec.partition(":")
    if kind != "demo":
        values = load_inputs(inputs) if inputs is not None else None
        with torch.random.fork_rng(devices=[]):  # the user's code may draw
            torch.manual_seed(seed)
            network = load_model(spec, weights)
        return Demo(spec, {type(network).__name__: network}, values, {})
    if name not in DEMOS:
        raise ModelError(f"there is no demo {name!r}.\nChoose one of: {', '.join(f'demo:{known}' for known in DEMOS)}.")
    if inputs is not None or weights is not None:
        raise InputError(f"{spec} brings its own data and trains its own weights.\nLeave --inputs and --weights out.")
    return DEMOS[name](seed=seed, progress=True)


def _show(portraits: dict[str, Portrait], demo: Demo, place: Path) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in portraits:
        table.add_column(name)
    for row in _rows(portraits, demo):
        table.add_row(*row)
    console.print(table, "")
    for name, portrait in portraits.items():
        console.print(f"[bold]{name}[/]: {portrait.verdict}.", soft_wrap=True)
        for sentence in filter(None, (*portrait.did, why_not_converged(portrait))):
            console.print(f"  {sentence}", style="dim", soft_wrap=True)
    console.print(f"\nreport: {place / 'report.html'}", soft_wrap=True)


def _rows(portraits: dict[str, Portrait], demo: Demo) -> list[list[str]]:
    """The headline numbers, one row a quantity."""
    shown = list(portraits.values())
    labels = list(dict.fromkeys(label for facts in demo.facts.values() for label in facts))
    facts = [[label, *(demo.facts.get(name, {}).get(label, "") for name in portraits)] for label in labels]
    return [
        *facts,
        ["λ₁, nats per step", *(measured(*p.lambda_1) for p in shown)],
        ["… from two near trajectories", *(measured(*p.check) for p in shown)],
        *_finite_time(shown),
        ["Kaplan–Yorke dimension", *(f"{measured(*p.dimension)} of {p.spectrum.dim}" for p in shown)],
        ["entropy Σλ⁺, nats per step", *(measured(*p.entropy) for p in shown)],
    ]


def _finite_time(shown: list[Portrait]) -> list[list[str]]:
    rates = [p.finite_time for p in shown if p.finite_time is not None]
    if len(rates) < len(shown):
        return []
    label = f"finite-time over {shown[0].finite_time_steps:,} steps, ± spread"
    return [[label, *(measured(float(rate.mean()), float(rate.std(correction=0))) for rate in rates)]]
