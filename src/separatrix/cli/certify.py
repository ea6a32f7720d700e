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
from torch import nn
from torch.nn.modules.conv import _ConvNd

from separatrix.bounds.certificate.certificate import Certificate, certificate
from separatrix.cli.files import AsJson, Out, Overwrite, Picture, check_files, write_files
from separatrix.cli.flags import flags_of
from separatrix.cli.notes import say
from separatrix.core.ending import ending
from separatrix.core.errors import InputError
from separatrix.core.wording import counted, plain
from separatrix.demos import demo_named
from separatrix.loading import load_inputs, load_model
from separatrix.report.summary import jsonable


@flags_of(certificate, "starts", "steps", "seed")
def command(
    model: Annotated[
        str,
        typer.Argument(
            help="The model: path/to/file.py:factory, package.module:factory, torchvision:resnet18 or demo:NAME.", metavar="MODEL"
        ),
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
    out: Out = None,
    picture: Picture = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    **options: Any,
) -> None:
    """Run the verb; the line of its help is in `separatrix.cli.VERBS`."""
    check_files(out, picture, overwrite)
    with contextlib.redirect_stdout(sys.stderr):  # the user's code may print
        network, values = _subject(model, inputs, weights, options["seed"])
        shape = _shape(input_shape, values, network)
        with ending(None, on_interrupt=True):
            found = certificate(network, shape, inputs=values, **options, progress=True)
    if found.names or not found.settings["ended"]:
        write_files(found, out, picture)
    if as_json:
        print(json.dumps(jsonable(_numbers(found)), ensure_ascii=False, indent=2))
    else:
        _show(found)
    if found.settings["ended"]:
        say(f"{found.settings['ended']}: kept what was known by then, {counted(len(found.names), 'layer')}.")
        raise typer.Exit(130)


def _subject(spec: str, inputs: Path | None, weights: Path | None, seed: int) -> tuple[nn.Module, torch.Tensor | None]:
    """The network and its inputs, if they are given: those of a demo, with its main network, or the user's."""
    kind, _, name = spec.partition(":")
    if kind == "demo":
        if inputs is not None or weights is not None:
            raise InputError(f"{spec} uses its own data and trains its own weights.\nOmit --inputs and --weights.")
        demo = demo_named(name)(seed=seed, progress=True)
        label, network = next(iter(demo.models.items()))
        say(f"certifying {label} …")
        return network, demo.inputs
    values = load_inputs(inputs) if inputs is not None else None
    with torch.random.fork_rng(devices=[]):  # the user's code may draw
        torch.manual_seed(seed)
        return load_model(spec, weights, say), values


def _shape(text: str | None, values: torch.Tensor | None, network: nn.Module) -> tuple[int, ...]:
    """The shape of one input, from the option or the inputs."""
    if text is None:
        if values is None:
            raise InputError(f"the shape of an input is not known.\nPass --input-shape{_example(network)}, or --inputs FILE.")
        return tuple(values.shape[1:])
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise InputError(f"--input-shape is {text!r}; expected integers separated by commas, such as 3,32,32.") from None


def _example(network: nn.Module) -> str:
    """A shape that the first layer of a network takes, as it is typed."""
    for name, layer in network.named_modules():
        called = f"the layer {name}" if name else "the network"
        if isinstance(layer, nn.Linear):
            return f" {layer.in_features}, as {called} takes"
        if isinstance(layer, _ConvNd):
            sizes = [layer.in_channels, *[32] * len(layer.kernel_size)]
            return f" {','.join(map(str, sizes))}, as {called} takes, with your own size of image for 32"
    return ", such as 3,32,32"


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
