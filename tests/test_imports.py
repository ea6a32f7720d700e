"""What an import brings: a line waits for no library that it does not use."""

import json
import subprocess
import sys

import pytest

import separatrix as sx
from separatrix.cli import VERBS, main

# Parts of SciPy are imported by the functions that call them: each takes up to a second.
PARTS_OF_SCIPY = {"special", "optimize", "sparse", "signal", "spatial", "stats", "linalg", "fft", "integrate", "interpolate"}


def brought_by(*lines: str) -> list[set[str]]:
    """The names in `sys.modules` after each line, in one fresh process."""
    code = "import json, sys\n" + "".join(f"{line}\nprint(json.dumps(list(sys.modules)))\n" for line in lines)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [set(json.loads(line)) for line in ended.stdout.splitlines()]


def packages(modules: set[str]) -> set[str]:
    """The top-level packages that are not Python's own.

    Names with an underscore belong to an installation, `cython_…` to SciPy, and `triton` to PyTorch, whose CUDA builds bring it.
    """
    found = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names
    return {name for name in found - {"triton"} if not name.startswith(("_", "cython_"))}


def rooms(modules: set[str]) -> set[str]:
    """The packages of the library that hold a module; the door is not counted."""
    held = {name.rpartition(".")[0] for name in modules if name.startswith("separatrix.")}
    return {name.removeprefix("separatrix.") for name in held} - {"separatrix"}


def test_a_line_brings_only_what_it_uses():
    """One process for all lines, the lightest first: the door alone, then PyTorch, then the names that are typed next."""
    names = ("Map", "lyapunov_spectrum", "nn.NeuralODE", "depth_profile", "analyze")
    door, pytorch, *named = brought_by("import separatrix as sx", "import torch", *(f"sx.{name}" for name in names))
    assert packages(door) == {"separatrix", "lazy_loader"}
    for name, modules in zip(names, named, strict=True):
        assert packages(modules) - packages(pytorch) <= {"numpy", "scipy"}, name
        assert {part for part in PARTS_OF_SCIPY if f"scipy.{part}" in modules} == set(), name
    assert rooms(named[0]) == {"core"}
    assert rooms(named[1]) == {"core", "analysis", "analysis.lyapunov", "analysis.run"}


def test_a_verb_draws_and_saves_with_what_is_imported_then():
    """The module of a verb adds the libraries of a command line to those of an analysis. Matplotlib, zarr and Jinja come later."""
    verbs = [verb.replace("-", "_") for verb in VERBS]
    pytorch, *started = brought_by("import torch, typer, rich", *(f"import separatrix.cli.{verb}" for verb in verbs))
    expected = packages(pytorch) | {"separatrix", "lazy_loader", "numpy", "scipy", "safetensors"}
    for verb, modules in zip(verbs, started, strict=True):
        assert packages(modules) - expected == set(), verb


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        (["--version"], 0, f"separatrix {sx.__version__}"),
        (["--help"], 0, "fixed-points"),
        ([], 0, "fixed-points"),
        (["analise"], 2, "No such command 'analise'. Did you mean 'analyze'?"),
        (["--verbose"], 2, "No such option: --verbose"),
    ],
)
def test_what_names_no_verb_is_answered_without_pytorch(line, code, told):
    """The answer is printed by the process itself, and then the names of what it imported."""
    script = """
import atexit, sys
atexit.register(lambda: print("\\nheavy:", sorted({"torch", "numpy", "scipy", "matplotlib"} & set(sys.modules))))
from separatrix.__main__ import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", script, *line], capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert told in ended.stdout + ended.stderr and ended.stdout.endswith("heavy: []\n")


def test_help_explains_every_verb_in_one_line(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["separatrix", "--help"])
    with pytest.raises(SystemExit):
        main()
    printed = " ".join(capfd.readouterr().out.replace("│", " ").split())
    assert [verb for verb, line in VERBS.items() if f"{verb} {line}" not in printed] == []
