"""The example in each public docstring runs and prints what it says."""

import doctest
import inspect

import pytest
import torch

import separatrix as sx

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PUBLIC = {
    f"{place.__name__.removeprefix('separatrix')}.{name}".strip("."): getattr(place, name)
    for place in (sx, sx.nn, sx.nn.parts, sx.bounds)
    for name in place.__all__
}
EXAMPLES = [name for name, thing in PUBLIC.items() if callable(thing) and ">>>" in (inspect.getdoc(thing) or "")]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_prints_what_it_says(name):
    (example,) = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, globs={"sx": sx, "torch": torch, "nn": torch.nn})
    report: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(example, out=report.append)
    assert not report, "".join(report)
