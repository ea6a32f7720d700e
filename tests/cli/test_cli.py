"""The command line as a hurried user meets it."""

import json
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import separatrix as sx
from separatrix.cli import main
from separatrix.cli.flags import described_arguments

QUICK = ("--steps", "200", "--settle", "50", "--copies", "3")

MODEL = """
import torch
print("hello from the user's file")
class Reader(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = torch.nn.GRU(3, 4, batch_first=True)
        self.head = torch.nn.Linear(4, 2)
    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])
def feed_forward():
    return torch.nn.Linear(3, 3)
def two_ways():
    return torch.nn.GRU(3, 4, bidirectional=True)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a model and inputs, where the command runs."""
    (tmp_path / "net.py").write_text(MODEL)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(6, 5, 3)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, *arguments: str) -> int:
    """The exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["separatrix", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


def test_a_users_model_and_data_give_a_verdict_and_a_report(place, monkeypatch, capfd):
    assert run(monkeypatch, "analyze", "net.py:Reader", "--inputs", "x.npy", "--out", "report", *QUICK) == 0
    printed = capfd.readouterr().out
    assert "GRU(3 → 4) at 'rnn'" in printed
    assert "6 sequences of 5 steps" in printed
    assert "Reader: ordered: λ₁ = −" in printed
    numbers = json.loads((place / "report" / "summary.json").read_text())
    assert "Reader" in json.dumps(numbers)
    HTMLParser().feed((place / "report" / "report.html").read_text())
    assert sx.load(place / "report" / "results.zarr" / "Reader").verdict in printed.replace("\n", " ")


def test_json_is_all_that_json_prints(place, monkeypatch, capfd):
    assert run(monkeypatch, "analyze", "net.py:Reader", "--inputs", "x.npy", "--json", *QUICK) == 0
    numbers = json.loads(capfd.readouterr().out)["Reader"]
    assert numbers["verdict"].startswith("ordered")
    assert len(numbers["exponents_nats_per_step"]) == 4
    assert numbers["settings"]["steps"] == 200


def test_weights_change_the_answer(place, monkeypatch, capfd):
    torch.manual_seed(0)
    rnn, head = torch.nn.GRU(3, 4), torch.nn.Linear(4, 2)
    weights = {f"rnn.{k}": v for k, v in rnn.state_dict().items()} | {f"head.{k}": v for k, v in head.state_dict().items()}
    weights["rnn.weight_hh_l0"] = torch.zeros_like(weights["rnn.weight_hh_l0"])
    weights["rnn.bias_ih_l0"] = torch.full_like(weights["rnn.bias_ih_l0"], 0.0)
    weights["rnn.bias_hh_l0"] = torch.full_like(weights["rnn.bias_hh_l0"], 0.0)
    weights["rnn.weight_ih_l0"] = torch.zeros_like(weights["rnn.weight_ih_l0"])
    torch.save(weights, place / "w.pt")
    assert run(monkeypatch, "analyze", "net.py:Reader", "--inputs", "x.npy", "--weights", "w.pt", "--json", *QUICK) == 0
    exponents = json.loads(capfd.readouterr().out)["Reader"]["exponents_nats_per_step"]
    assert exponents == pytest.approx([-np.log(2)] * 4)  # all weights zero: z = ½, so h' = h/2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("net.py:Raeder",), "Reader"),
        (("nte.py:Reader",), "nte.py"),
        (("net.py:feed_forward",), "no recurrent part"),
        (("net.py:two_ways",), "bidirectional"),
        (("net.py:Reader", "--inputs", "y.npy"), "y.npy"),
        (("net.py:Reader", "--inputs", "x.npy", "--k", "9"), "k is 9 but the state has 4"),
        (("net.py:Reader", "--inputs", "x.npy", "--k", "0"), "k is 0"),
        (("net.py:Reader", "--inputs", "x.npy", "--steps", "0"), "steps is 0"),
        (("net.py:Reader", "--inputs", "x.npy", "--copies", "0"), "copies is 0"),
        (("net.py:Reader", "--inputs", "x.npy", "--tol", "-1"), "tol is -1"),
        (("net.py:Reader", "--inputs", "wide.npy"), "Reader failed on inputs of shape"),
        (("net.py:Reader", "--inputs", "nan.npy"), "not finite"),
        (("net.py:Reader", "--inputs", "text.npy"), "text.npy"),
        (("net.py:Reader", "--out", "taken"), "exists already"),
        (("net.py:Reader", "--inputs", "x.npy", "--module", "rn"), "no module named 'rn'"),
        (("demo:digit",), "demo:digits"),
        (("demo:digits", "--inputs", "x.npy"), "brings its own data"),
        (("net.py:Reader", "--steps", "many"), "Invalid value for '--steps'"),
    ],
)
def test_bad_input_is_answered_in_a_line_or_two_and_nothing_is_written(place, monkeypatch, capfd, arguments, message):
    np.save(place / "wide.npy", np.zeros((6, 5, 2)))
    np.save(place / "nan.npy", np.full((6, 5, 3), np.nan))
    np.save(place / "text.npy", np.array(["a", "b"]))
    (place / "taken").mkdir()
    before = sorted(path.name for path in place.iterdir())
    assert run(monkeypatch, "analyze", *arguments) == 2
    said = capfd.readouterr().err
    assert message in said
    assert "Traceback" not in said
    lines = said.split("error:")[-1].strip().split("\n") if "error:" in said else []
    assert len(lines) <= 2
    assert sorted(path.name for path in place.iterdir() if path.name != "__pycache__") == before


def test_ctrl_c_says_what_was_done_and_leaves_nothing(place):
    command = [sys.executable, "-c", "from separatrix.cli import main; main()"]
    arguments = ["analyze", "net.py:Reader", "--inputs", "x.npy", "--steps", "10000000", "--out", "report"]
    with subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "measuring Reader" in line:
                break
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "stopped: nothing measured, no report written" in said
    assert "Traceback" not in said
    assert not (place / "report").exists()


def test_list_shows_every_system_analysis_and_demo(monkeypatch, capfd):
    assert run(monkeypatch, "list") == 0
    printed = capfd.readouterr().out
    for name in (*sx.SYSTEMS, *sx.ANALYSES, "demo:digits"):
        assert name in printed


def test_every_flag_is_explained_in_the_words_of_the_docstring(monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, "analyze", "--help") == 0
    printed = " ".join(capfd.readouterr().out.replace("│", " ").split())
    for name in ("module", "k", "copies", "steps", "settle", "tol", "seed"):
        assert f"--{name}" in printed
        assert described_arguments(sx.analyze)[name][:30] in printed
