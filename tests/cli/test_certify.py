"""`separatrix certify`, as a hurried user meets it."""

import json
import math
import sys

import pytest
import torch

import separatrix as sx
from separatrix.cli import main

MODEL = """
import torch
from torch import nn
print("hello from the user's file")
def plain():
    layer = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([2.0, 1.0, 0.5])))
    return nn.Sequential(layer, nn.ReLU())
def gated():
    return nn.Sequential(nn.Linear(4, 4), nn.GLU())
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with networks of the user's own, where the command runs."""
    (tmp_path / "net.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, *arguments: str) -> int:
    """The exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["separatrix", "certify", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


def test_a_diagonal_layer_has_its_largest_entry_as_json_a_result_and_a_picture(place, monkeypatch, capfd):
    line = ("net.py:plain", "--input-shape", "3", "--json", "--out", "c.zarr", "--picture", "c.png")
    assert run(monkeypatch, *line) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["bound"] == pytest.approx(2, rel=1e-9) and told["lower"] == pytest.approx(2, rel=1e-6)
    assert [layer["name"] for layer in told["layers"]] == ["0", "1"] and told["status"] == "ok"
    assert sx.load(place / "c.zarr").bound == told["bound"]
    assert (place / "c.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_network_without_a_bound_is_an_answer_that_names_the_layer(monkeypatch, capfd):
    assert run(monkeypatch, "net.py:gated", "--input-shape", "4", "--starts", "2", "--steps", "2") == 0
    told = capfd.readouterr().out
    assert "no bound" in told and "1: it multiplies two values" in told
    assert run(monkeypatch, "net.py:gated", "--input-shape", "4", "--starts", "2", "--steps", "2", "--json") == 0
    assert json.loads(capfd.readouterr().out)["bound"] == str(math.inf)


def test_inputs_say_the_shape(place, monkeypatch, capfd):
    torch.save(torch.rand(5, 3), place / "x.pt")
    assert run(monkeypatch, "net.py:plain", "--inputs", "x.pt", "--starts", "2", "--steps", "2") == 0
    assert "at most 2-Lipschitz, at least 2" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (("net.py:plain",), "the shape of an input is not known"),
        (("net.py:plain", "--input-shape", "3,x"), "--input-shape is '3,x'"),
        (("net.py:plain", "--input-shape", "0"), "input_shape is (0,)"),
        (("net.py:plain", "--input-shape", "5"), "Sequential fails on an input of shape (5,)"),
        (("net.py:plain", "--input-shape", "3", "--starts", "0"), "starts is 0"),
        (("net.py:plain", "--input-shape", "3", "--picture", "c.txt"), "expected .png"),
        (("net.py:nothing", "--input-shape", "3"), "does not define 'nothing'"),
    ],
)
def test_bad_input_is_answered_in_a_line_and_nothing_is_written(place, monkeypatch, capfd, line, told):
    assert run(monkeypatch, *line) == 2
    captured = capfd.readouterr()
    assert told in captured.err and "Traceback" not in captured.err and captured.out == ""
    assert not [path for path in place.iterdir() if path.name.startswith("c")]
