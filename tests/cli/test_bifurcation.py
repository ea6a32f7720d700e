"""`separatrix bifurcation`, as a hurried user meets it."""

import json
import sys

import pytest

import separatrix as sx
from separatrix.cli import main

MODEL = """
import torch
import separatrix as sx
print("hello from the user's file")
class Neuron(sx.System):
    def __init__(self, w=1.0):
        super().__init__(dim=1)
        self.hold(w=w)
    def step(self, x, n=0):
        w = self.w[..., None] if isinstance(self.w, torch.Tensor) else self.w
        return torch.tanh(w * x)
def driven():
    rnn = torch.nn.RNN(2, 1, bias=False).double()
    rnn.weight_hh_l0.data.fill_(1.5)
    rnn.weight_ih_l0.data.fill_(1.0)
    return sx.Recurrent(rnn, constant=torch.zeros(2))
def plain():
    return torch.nn.Linear(3, 3)
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with a system of the user's own, where the command runs."""
    (tmp_path / "net.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, *arguments: str) -> int:
    """The exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["separatrix", "bifurcation", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


def test_a_system_of_the_user_s_own_gives_its_pitchfork_as_json_and_a_picture(place, monkeypatch, capfd):
    line = ("net.py:Neuron", "w", "--start", "0.5", "--stop", "1.5", "--step-size", "0.03", "--json")
    assert run(monkeypatch, *line, "--picture", "bifurcation.png", "--out", "branch") == 0
    told = json.loads(capfd.readouterr().out)
    (fork,) = told["bifurcations"]
    assert fork["kind"] == "pitchfork" and fork["parameter"] == pytest.approx(1.0, abs=1e-8)
    assert (place / "bifurcation.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sx.load(place / "branch").parameters.tolist() == told["parameters"]


@pytest.mark.parametrize("line", [("constant[1]",), ("constant", "--direction", "0,1")])
def test_a_constant_input_is_turned_from_one_fold_to_the_other(line, monkeypatch, capfd):
    """The map h' = tanh(1.5 h + u) has its folds at |u| = artanh(h) − 1.5 h with 1.5 (1 − h²) = 1."""
    rest = ("--start", "-1", "--stop", "1", "--x0", "-0.9", "--step-size", "0.03", "--json")
    assert run(monkeypatch, "net.py:driven", *line, *rest) == 0
    folds = [b["parameter"] for b in json.loads(capfd.readouterr().out)["bifurcations"]]
    assert folds == pytest.approx([0.2075464552, -0.2075464552], abs=1e-8)


def test_a_system_by_name_gives_its_flip_in_words_and_no_picture_is_lost(place, monkeypatch, capfd):
    line = ("logistic", "r", "--start", "2.6", "--stop", "3.4", "--x0", "0.6", "--step-size", "0.05", "--picture", "b.svg")
    assert run(monkeypatch, *line) == 0
    assert "flip at 3" in capfd.readouterr().out
    assert run(monkeypatch, *line) == 2
    assert "b.svg already exists" in capfd.readouterr().err
    assert run(monkeypatch, *line, "--overwrite") == 0


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (("logistik", "r", "--start", "1", "--stop", "2"), "unknown system 'logistik'"),
        (("logistic", "q", "--start", "1", "--stop", "2"), "has no parameter 'q'"),
        (("logistic", "r", "--start", "1", "--stop", "nan"), "range of r is nan"),
        (("logistic", "r", "--start", "2", "--stop", "3", "--x0", "a"), "--x0 is 'a'"),
        (("logistic", "r", "--start", "2", "--stop", "3", "--picture", "b.txt"), "expected .png"),
        (("net.py:plain", "w", "--start", "2", "--stop", "3"), "got a Linear"),
    ],
)
def test_bad_input_is_answered_in_a_line_and_nothing_is_written(place, monkeypatch, capfd, line, told):
    assert run(monkeypatch, *line) == 2
    captured = capfd.readouterr()
    assert told in captured.err and "Traceback" not in captured.err and captured.out == ""
    assert not [path for path in place.iterdir() if path.name.startswith("b")]
