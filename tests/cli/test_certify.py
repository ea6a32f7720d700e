"""`separatrix certify`, as a hurried user meets it."""

import json
import math
import sys

import pytest
import torch

import separatrix as sx
from separatrix.cli import main
from separatrix.demos import DEMOS, Demo

MODEL = """
import torch
from torch import nn
print("hello from the user's file")
def plain():
    layer = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([2.0, 1.0, 0.5])))
    return nn.Sequential(layer, nn.ReLU())
def image():
    return nn.Conv2d(5, 2, 3)
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


def test_a_demo_brings_its_own_inputs_and_their_shape(monkeypatch, capfd):
    """Its first network: here 3 → 2, whose singular values are 2 and 1; the control, 10 times as strong, is not the answer."""
    strong, weak = (torch.nn.Linear(3, 2, bias=False) for _ in range(2))
    with torch.no_grad():
        weak.weight.copy_(torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
        strong.weight.copy_(10 * weak.weight)
    demo = Demo("a demo", {"weak": weak, "strong": strong}, torch.rand(4, 3), {})
    monkeypatch.setitem(DEMOS, "made", lambda seed, progress: demo)
    assert run(monkeypatch, "demo:made", "--json", "--starts", "2", "--steps", "3") == 0
    told = capfd.readouterr()
    assert json.loads(told.out)["bound"] == pytest.approx(2, rel=1e-9)
    assert "certifying weak …" in told.err


def test_only_an_earlier_result_and_its_picture_are_replaced(place, monkeypatch, capfd):
    line = ("net.py:plain", "--input-shape", "3", "--starts", "2", "--steps", "2", "--out", "kept", "--picture", "p.png")
    assert run(monkeypatch, *line) == 0
    capfd.readouterr()
    assert run(monkeypatch, *line) == 2
    assert "kept already exists. Choose another --out, or pass --overwrite." in capfd.readouterr().err
    (place / "p.png").write_bytes(b"old")
    assert run(monkeypatch, *line, "--overwrite") == 0
    assert sx.load(place / "kept").bound == pytest.approx(2, rel=1e-9)
    assert (place / "p.png").read_bytes()[1:4] == b"PNG"
    (place / "kept" / "notes.txt").write_text("mine")
    assert run(monkeypatch, *line, "--overwrite") == 2
    assert "expected kept to hold only an earlier result" in capfd.readouterr().err
    assert (place / "kept" / "notes.txt").read_text() == "mine"
    assert not [path for path in place.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (("net.py:plain",), "the shape of an input is not known"),
        (("net.py:plain",), "Pass --input-shape 3, as the layer 0 takes, or --inputs FILE."),
        (("net.py:image",), "Pass --input-shape 5,32,32, as the network takes"),
        (("demo:digit",), "unknown demo 'digit'"),
        (("demo:digits", "--inputs", "x.pt"), "demo:digits uses its own data"),
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


def test_ctrl_c_prints_and_writes_the_layers_so_far_and_ends_with_130(place, monkeypatch, capfd):
    from separatrix.bounds.certificate import layers

    proven, calls = layers.affine_norm, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) > 2:  # once for each operator
            raise KeyboardInterrupt
        return proven(*args)

    monkeypatch.setattr(layers, "affine_norm", interrupted)
    (place / "two.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))"
    )
    assert run(monkeypatch, "two.py:make", "--input-shape", "3", "--json", "--out", "c.zarr", "--picture", "c.png") == 130
    told = capfd.readouterr()
    assert [layer["name"] for layer in json.loads(told.out)["layers"]] == ["0", "1"]
    kept = sx.load(place / "c.zarr")
    assert kept.names == ("0", "1") and kept.settings["ended"] == "stopped by Ctrl-C" and not kept.is_bounded
    assert "stopped by Ctrl-C" in told.err and (place / "c.png").exists()


def test_integer_inputs_have_no_bound_and_say_so(place, monkeypatch, capfd):
    (place / "words.py").write_text("from torch import nn\ndef make(): return nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2))")
    assert run(monkeypatch, "words.py:make", "--input-shape", "3") == 0
    assert "integers" in capfd.readouterr().out
