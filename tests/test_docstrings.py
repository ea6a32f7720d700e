"""Every public function and class has an example in its docstring, which runs and prints what it says."""

import doctest

import pytest
import torch

import separatrix as sx

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# Left out: errors and the records that functions return, which users do not build, and tables.
ROOMS = {
    "sx": sx,
    "nn": sx.nn,
    "parts of nn": sx.nn.parts,
    "bounds": sx.bounds,
    "parts": sx.parts,
    "testing": sx.testing,
    "training": sx.training,
}
PUBLIC = {f"{room}: {name}": getattr(module, name) for room, module in ROOMS.items() for name in module.__all__}
# Of the textbook systems the functions that users call; the classes behind them are documented there.
PUBLIC |= {f"classic: {name}": getattr(sx.classic, name) for name in sx.classic.__all__ if name.islower()}
NAMED = {name: thing for name, thing in PUBLIC.items() if callable(thing)}
WITHOUT = {
    "sx: SeparatrixError": "an error",
    "sx: write_report": "draws and writes a page, which takes a second; the page on checkpoints runs it",
}


def test_every_public_function_and_class_has_an_example():
    assert {name for name, thing in NAMED.items() if ">>>" not in (thing.__doc__ or "")} == WITHOUT.keys()


@pytest.mark.parametrize("name", [name for name in NAMED if name not in WITHOUT])
def test_the_example_prints_what_it_says(name):
    (example,) = doctest.DocTestFinder(recurse=False).find(NAMED[name], name, globs={"sx": sx, "torch": torch, "nn": torch.nn})
    report: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(example, out=report.append)
    assert not report, "".join(report)
