"""`separatrix certify MODEL`: a bound on how far apart a network can map two inputs."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from separatrix.bounds.certificate.certificate import Certificate, certificate
from separatrix.cli.flags import flags_of
from separatrix.cli.notes import say
from separatrix.cli.picture import check_picture
from separatrix.core.errors import InputError
from separatrix.core.wording import counted, plain
from separatrix.loading import load_inputs, load_model
from separatrix.report.summary import jsonable


@flags_of(certificate, "starts", "steps", "seed")
def command(
    model: Annotated[
        str,
        typer.Argument(help="The model: path/to/file.py:factory, package.module:factory or torchvision:resnet18.", metavar="MODEL"),
    ],
    input_shape: Annotated[
        str | None, typer.Option(help="Shape of one input without the batch axis, such as 3,32,32. Default: that of --inputs.")
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option(help="Further starting points for the ascent: .npy, .npz, .pt or .csv, one input per row.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A checkpoint: .safetensors, or .pt (loaded with weights_only=True).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New folder for the result, to be read by `sx.load`.")] = None,
    picture: Annotated[Path | None, typer.Option(help="File for the picture: .png, .svg or .pdf.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the numbers, as JSON.")] = False,
    **options: Any,
) -> None:
    if out is not None and out.exists():
        raise InputError(f"{out} already exists.\nChoose another name, or remove it first.")
    if picture is not None:
        check_picture(picture, "--picture")
    with contextlib.redirect_stdout(sys.stderr):  # the user's code may print
        values = load_inputs(inputs) if inputs is not None else None
        shape = _shape(input_shape, values)
        with torch.random.fork_rng(devices=[]):  # the user's code may draw
            torch.manual_seed(options["seed"])
            network = load_model(model, weights, say)
        found = certificate(network, shape, inputs=values, **options, progress=True)
    if out is not None:
        found.save(out)
    if picture is not None:
        found.plot().savefig(picture, dpi=150)
    if as_json:
        print(json.dumps(jsonable(_numbers(found)), ensure_ascii=False, indent=2))
    else:
        _show(found)


def _shape(text: str | None, values: torch.Tensor | None) -> tuple[int, ...]:
    """The shape of one input, from the option or the inputs."""
    if text is None:
        if values is None:
            raise InputError("the shape of an input is not known.\nPass --input-shape, such as 3,32,32, or --inputs.")
        return tuple(values.shape[1:])
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise InputError(f"--input-shape is {text!r}; expected integers separated by commas, such as 3,32,32.") from None


def _numbers(found: Certificate) -> dict[str, Any]:
    layers = [
        {"name": layer.name, "kind": layer.kind, "shape": list(layer.shape), "factor": layer.factor, "reach": layer.reach}
        | {"lower": layer.lower, "method": layer.method, "seconds": layer.seconds}
        for layer in found.layers
    ]
    unknown = dict(zip(found.unknown, found.reasons, strict=True))
    numbers = {"bound": found.bound, "lower": found.lower, "ratio": found.ratio, "status": found.status, "unknown": unknown}
    return {**numbers, "layers": layers, "settings": found.settings, "summary": found.summary()}


def _show(found: Certificate) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("layer", "kind", "output", "factor", "bound so far", "method", "seconds"):
        table.add_column(name)
    for layer, shape in zip(found.layers, found.shapes, strict=True):
        numbers = (plain(layer.factor), plain(layer.reach))
        table.add_row(layer.name, layer.kind, shape, *numbers, layer.method, f"{layer.seconds:.2f}")
    console.print(table, "")
    console.print(repr(found), soft_wrap=True)
    spent = f"{counted(len(found.names), 'layer')} in {plain(float(found.seconds.sum()))} s"
    console.print(spent, style="dim")
