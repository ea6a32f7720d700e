"""Every public function and class has an example in its docstring, which runs and prints what it says."""

import doctest

import pytest
import torch

import separatrix as sx

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
ROOMS = (
    sx,
    sx.nn,
    sx.nn.parts,
    sx.bounds,
    sx.parts,
    sx.testing,
)  # errors and the records that functions return speak for themselves
PUBLIC = {f"{room.__name__}.{name}".removeprefix("separatrix."): getattr(room, name) for room in ROOMS for name in room.__all__}
NAMED = {name: thing for name, thing in PUBLIC.items() if callable(thing)}
WITHOUT = {
    "SeparatrixError": "an error",
    "write_report": "draws and writes a page, which takes a second; the page on checkpoints runs it",
}


def test_every_public_function_and_class_has_an_example():
    assert {name for name, thing in NAMED.items() if ">>>" not in (thing.__doc__ or "")} == WITHOUT.keys()


@pytest.mark.parametrize("name", [name for name in NAMED if name not in WITHOUT])
def test_the_example_prints_what_it_says(name):
    (example,) = doctest.DocTestFinder(recurse=False).find(NAMED[name], name, globs={"sx": sx, "torch": torch, "nn": torch.nn})
    report: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(example, out=report.append)
    assert not report, "".join(report)
