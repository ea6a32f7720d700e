"""The command line as a hurried user meets it."""

import errno
import html
import importlib.metadata
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

import separatrix as sx
from separatrix.cli import main
from separatrix.cli.flags import described_arguments
from separatrix.flows.methods import SOLVERS

QUICK = ("--steps", "200", "--settle", "50", "--copies", "3", "--also", "none")

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
def deep():
    return torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(12)))
def two_ways():
    return torch.nn.GRU(3, 4, bidirectional=True)
"""


FLOW = """
import torch, separatrix as sx

def made():
    layer = torch.nn.Linear(2, 2, bias=False).double()
    layer.weight.data = torch.tensor([[-0.1, 1.0], [-1.0, -0.1]], dtype=torch.float64)
    return sx.nn.NeuralODE(layer)
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


SEVERAL = """
import torch
class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = torch.nn.GRU(3, 4, batch_first=True)
    def forward(self, x, state, mask=None):
        x = x if mask is None else x * mask[..., None]
        return self.rnn(x, state)[0]
"""


def test_several_arguments_come_from_several_files(place, monkeypatch, capfd):
    """A state that is given begins the finite-time exponents: they differ from those without it."""
    (place / "two.py").write_text(SEVERAL)
    draw = np.random.default_rng(0)
    x, state = draw.normal(size=(6, 5, 3)), draw.normal(size=(1, 6, 4))
    np.save("state.npy", state)
    np.save("x.npy", x)
    assert run(monkeypatch, "analyze", "two.py:Two", "--inputs", "x.npy", "--inputs", "state.npy", "--json", *QUICK) == 0
    numbers = json.loads(capfd.readouterr().out)["Two"]
    torch.manual_seed(0)
    scope: dict = {}
    exec(SEVERAL, scope)
    inputs = {"state": torch.from_numpy(state), "x": torch.from_numpy(x)}
    expected = sx.analyze(scope["Two"](), inputs, steps=200, settle=50, copies=3, also="none").numbers()
    assert numbers["exponents_nats_per_step"] == pytest.approx(expected["exponents_nats_per_step"], rel=1e-12)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["x.npy", "none.npy"], "none.npy"),
        (["odd.pt"], "odd.pt holds a set; expected a tensor"),
        (["words.pt"], "words.pt holds a list without a tensor"),
        (["other.npz"], "Reader failed|has no argument"),
        (["strange.npz"], r"no argument named a or b(?s:.*)file\.npz:a"),
        (["x.npy", "x.npy"], "Reader failed on inputs of shape"),
    ],
)
def test_files_that_are_no_arguments_are_answered_in_a_line_or_two(files, told, place, monkeypatch, capfd):
    torch.save({"x": torch.ones(2), "y": {1, 2}}, "odd.pt")
    torch.save(["a"], "words.pt")
    np.savez("other.npz", x=np.zeros((6, 5, 3)), y=np.zeros(3))
    np.savez("strange.npz", a=np.zeros((6, 5, 3)), b=np.zeros(3))
    assert run(monkeypatch, "analyze", "net.py:Reader", *(flag for file in files for flag in ("--inputs", file)), *QUICK) == 2
    said = capfd.readouterr().err
    assert re.search(told, said)
    assert "Traceback" not in said


def test_a_prefix_that_was_stripped_is_said(place, monkeypatch, capfd):
    torch.save({"state_dict": {f"model.{name}": t for name, t in torch.nn.Linear(3, 3).state_dict().items()}}, "w.ckpt")
    assert run(monkeypatch, "certify", "net.py:feed_forward", "--input-shape", "3", "--weights", "w.ckpt", "--json") == 0
    assert "w.ckpt: the prefix 'model.' was stripped from all 2 names in the file." in capfd.readouterr().err


def test_which_of_several_state_dicts_was_taken_is_said(place, monkeypatch, capfd):
    weights, average = torch.nn.Linear(3, 3).state_dict(), torch.nn.Linear(3, 3).state_dict()
    torch.save({"model_state_dict": weights, "ema_state_dict": average, "optimizer": {"state": {}}, "epoch": 3}, "w.pt")
    assert run(monkeypatch, "certify", "net.py:feed_forward", "--input-shape", "3", "--weights", "w.pt", "--json") == 0
    assert "w.pt: 'model_state_dict' was used, 'ema_state_dict' was not." in capfd.readouterr().err


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


def test_findings_are_printed_reported_and_listed(place, monkeypatch, capfd):
    arguments = ("analyze", "net.py:Reader", "--inputs", "x.npy", *QUICK[:-2])
    assert run(monkeypatch, *arguments, "--also", "fixed_points", "--out", "report") == 0
    assert "Fixed points: 1 point: 1 × stable" in capfd.readouterr().out
    found = json.loads((place / "report" / "summary.json").read_text())["portraits"]["Reader"]["findings"]
    assert list(found) == ["fixed_points"] and found["fixed_points"]["found_by"]
    more = ("--also", "fixed_points", "--also", "power_spectrum", "--json", "--out", "report2")
    assert run(monkeypatch, *arguments, *more) == 0
    assert list(json.loads(capfd.readouterr().out)["Reader"]["findings"]) == ["fixed_points", "power_spectrum"]
    assert run(monkeypatch, "analyze", "--help") == 0
    assert "fixed_points" in capfd.readouterr().out


def test_a_feed_forward_model_is_measured_in_depth(place, monkeypatch, capfd):
    np.save(place / "pixels.npy", np.random.default_rng(0).normal(size=(30, 3)))
    np.save(place / "labels.npy", np.arange(30) % 3)
    arguments = ("analyze", "net.py:deep", "--inputs", "pixels.npy", "--targets", "labels.npy")
    assert run(monkeypatch, *arguments, "--out", "report") == 0
    printed = capfd.readouterr().out
    assert "Sequential: vanishing: across 12 layers" in printed and "Gradients of the cross-entropy." in printed
    advice = sx.load(place / "report" / "results.zarr" / "Sequential").advice
    assert advice and all(f"→ {sentence}" in printed for sentence in advice)
    assert sx.load(place / "report" / "results.zarr" / "Sequential").verdict in printed.replace("\n", " ")
    assert run(monkeypatch, *arguments, "--layers", "3", "--layers", "7", "--k", "1", "--json", "--out", "report2") == 0
    numbers = json.loads(capfd.readouterr().out)["Sequential"]
    assert numbers["layers"] == ["3", "7"] and len(numbers["layer_gradient"]) == 2


def test_json_is_all_that_json_prints(place, monkeypatch, capfd):
    assert run(monkeypatch, "analyze", "net.py:Reader", "--inputs", "x.npy", "--json", *QUICK) == 0
    numbers = json.loads(capfd.readouterr().out)["Reader"]
    assert numbers["verdict"].startswith("ordered")
    assert len(numbers["exponents_nats_per_step"]) == 4
    assert numbers["settings"]["steps"] == 200


def test_json_is_all_that_json_prints_when_the_model_prints_too(place, monkeypatch, capfd):
    talkative = MODEL.replace("    def forward(self, x):\n", "    def forward(self, x):\n        print('forward')\n")
    (place / "talkative.py").write_text(talkative)
    assert run(monkeypatch, "analyze", "talkative.py:Reader", "--inputs", "x.npy", "--json", *QUICK) == 0
    printed = capfd.readouterr()
    assert json.loads(printed.out)["Reader"]["model"] == "Reader"
    assert "forward" in printed.err


def test_the_report_says_the_command_that_made_it(place, monkeypatch):
    assert run(monkeypatch, "analyze", "net.py:Reader", "--inputs", "x.npy", "--out", "my report", *QUICK) == 0
    page = html.unescape((place / "my report" / "report.html").read_text(encoding="utf-8"))
    assert f"separatrix analyze net.py:Reader --inputs x.npy --out 'my report' {' '.join(QUICK)}\n" in page
    assert "sx.analyze(" not in page


def test_a_disk_that_fails_is_told_in_a_line(place, monkeypatch, capfd):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("separatrix.report.write.summary_json", full)
    assert run(monkeypatch, "analyze", "net.py:Reader", "--inputs", "x.npy", *QUICK) == 2
    said = capfd.readouterr().err
    assert "cannot hold the report: No space left on device." in said and "Traceback" not in said
    assert not (place / "separatrix-report").exists()


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, None])
def test_a_seed_that_no_generator_takes_is_refused_in_python_too(seed):
    for measure in (sx.lyapunov_spectrum, sx.divergence_rate):
        with pytest.raises(sx.errors.InputError, match="seed is"):
            measure(sx.classic.henon(), steps=20, seed=seed)
    with pytest.raises(sx.errors.InputError, match="seed is"):
        sx.analyze(torch.nn.GRU(2, 3), seed=seed)


def test_the_largest_seed_is_taken():
    torch.manual_seed(0)
    portrait = sx.analyze(torch.nn.GRU(2, 3), torch.ones(4, 3, 2), copies=2, steps=200, settle=50, also="none", seed=2**63 - 1)
    assert portrait.settings["seed"] == 2**63 - 1 and portrait.lambda_1[0] < 0


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
        (("net.py:Reader", "--inputs", "x.npy", "--error", "-1"), "error is -1"),
        (("net.py:Reader", "--inputs", "wide.npy"), "Reader failed on inputs of shape"),
        (("net.py:Reader", "--inputs", "nan.npy"), "not finite"),
        (("net.py:Reader", "--inputs", "text.npy"), "text.npy"),
        (("net.py:Reader", "--out", "taken"), "already exists"),
        (("net.py:Reader", "--inputs", "x.npy", "--module", "rn"), "no module named 'rn'"),
        (("demo:digit",), "demo:digits"),
        (("demo:digits", "--inputs", "x.npy"), "uses its own data"),
        (("demo:residual", "--targets", "x.npy"), "uses its own data"),
        (("net.py:Reader", "--also", "fixed_pionts"), "unknown analysis, 'fixed_pionts'"),
        (("net.py:Reader", "--inputs", "x.npy", "--layers", "rnn"), "layers cannot be used: Reader is measured along time"),
        (("net.py:Reader", "--inputs", "x.npy", "--targets", "x.npy"), "targets cannot be used"),
        (("net.py:feed_forward", "--inputs", "x.npy", "--steps", "9"), "steps cannot be used: Linear has no recurrent part"),
        (("net.py:feed_forward", "--inputs", "x.npy", "--targets", "y.npy"), "y.npy"),
        (("net.py:feed_forward", "--inputs", "x.npy", "--layers", "two"), "no layer named 'two'"),
        (("net.py:Reader", "--steps", "many"), "Invalid value for '--steps'"),
        (("net.py:Reader", "--seed", "99999999999999999999999"), "seed is 99999999999999999999999"),
        (("net.py:Reader", "--seed", "-1"), "seed is -1"),
        (("demo:digits", "--seed", "-1"), "seed is -1"),
        (("net.py:Reader", "--out", "x.npy/report"), "cannot hold the report"),
        (("net.py:Reader", "--out", "n" * 300), "cannot hold the report"),
        (("net.py:Reader", "--inputs", "missing.npy"), "This folder holds: int.npy"),
    ],
)
def test_bad_input_is_answered_in_a_line_or_two_and_nothing_is_written(place, monkeypatch, capfd, arguments, message):
    np.save(place / "wide.npy", np.zeros((6, 5, 2)))
    np.save(place / "nan.npy", np.full((6, 5, 3), np.nan))
    np.save(place / "int.npy", np.zeros((6, 5, 3), dtype=int))
    np.save(place / "text.npy", np.array(["a", "b"]))
    (place / "taken").mkdir()
    before = sorted(path.name for path in place.iterdir())
    assert run(monkeypatch, "analyze", *arguments) == 2
    said = capfd.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert "measuring" not in said or not {"--out", "--seed"} & set(arguments), "before any work"
    lines = said.split("error:")[-1].strip().split("\n") if "error:" in said else []
    assert len(lines) <= 2
    assert sorted(path.name for path in place.iterdir() if path.name != "__pycache__") == before


def hear_ctrl_c() -> None:
    """What a shell runs in the background ignores Ctrl-C, and all that it starts does too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_says_what_was_done_and_leaves_nothing(place):
    command = [sys.executable, "-m", "separatrix"]
    arguments = ["analyze", "net.py:Reader", "--inputs", "x.npy", "--steps", "10000000", "--out", "report"]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, *arguments], **pipes, preexec_fn=hear_ctrl_c) as process:
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


def test_ctrl_c_is_answered_while_pytorch_is_still_being_imported(tmp_path):
    (tmp_path / "torch.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(60)\n")
    command = [sys.executable, "-c", "from separatrix.__main__ import main; main()", "list"]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(sx.__file__).parents[1])])}
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, env=paths, preexec_fn=hear_ctrl_c) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "stopped: nothing measured.\n"
    assert process.returncode == 130


def test_the_installed_script_and_the_module_start_the_same_program():
    (script,) = (entry for entry in importlib.metadata.entry_points(group="console_scripts") if entry.name == "separatrix")
    assert script.value == "separatrix.__main__:main"
    told = subprocess.run([sys.executable, "-m", "separatrix", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout == f"separatrix {sx.__version__}\n"


def test_list_shows_every_system_analysis_and_demo(monkeypatch, capfd):
    assert run(monkeypatch, "list") == 0
    printed = capfd.readouterr().out
    for name in (*sx.tables.SYSTEMS, *sx.tables.ANALYSES, *SOLVERS, "demo:digits", "demo:residual"):
        assert name in printed


def test_a_flow_rests_where_its_field_does_and_takes_no_inputs(place, monkeypatch, capfd):
    (place / "flow.py").write_text(FLOW)
    assert run(monkeypatch, "fixed-points", "flow.py:made", "--starts", "8", "--json") == 0
    (point,) = json.loads(capfd.readouterr().out)["points"]
    assert point["kind"] == "stable focus" and np.abs(point["point"]).max() < 1e-8
    assert run(monkeypatch, "fixed-points", "flow.py:made", "--inputs", "x.npy") == 2
    assert "is a flow: it takes no inputs" in capfd.readouterr().err


def test_every_flag_is_explained_in_the_words_of_the_docstring(monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, "analyze", "--help") == 0
    printed = " ".join(capfd.readouterr().out.replace("│", " ").split())
    for name in ("module", "k", "copies", "steps", "settle", "error", "seed"):
        assert f"--{name}" in printed
        assert described_arguments(sx.analyze)[name][:30] in printed
    told = [described_arguments(sx.analyze)[name] for name in ("k", "copies", "steps", "settle", "error", "seed")]
    assert len(set(told)) == len(told) and not any("as for" in sentence for sentence in told)


BISTABLE = """
import torch
def unit():
    cell = torch.nn.RNNCell(1, 1)
    for name, parameter in cell.named_parameters():
        torch.nn.init.constant_(parameter, 2.0 if name == "weight_hh" else 0.0)
    print("built")
    return cell
"""


def test_fixed_points_finds_both_memories_of_a_bistable_unit_and_saves_and_draws_them(place, monkeypatch, capfd):
    """tanh(2x) = x at 0, with multiplier 2, and at ±x with 2 (1 − x²)."""
    (place / "unit.py").write_text(BISTABLE)
    asked = ("fixed-points", "unit.py:unit", "--out", "found", "--picture", "points.png", "--json")
    assert run(monkeypatch, *asked) == 0
    points = json.loads(capfd.readouterr().out)["points"]
    assert [point["kind"] for point in points] == ["stable node", "stable node", "unstable node"]
    for point in points:
        (x,), ((multiplier, _),) = point["point"], point["multipliers"]
        assert np.tanh(2 * x) == pytest.approx(x, abs=1e-12)
        assert multiplier == pytest.approx(2 * (1 - x**2), abs=1e-12)
    assert len(sx.load(place / "found").points) == 3
    assert (place / "points.png").read_bytes()[:4] == b"\x89PNG"
    assert run(monkeypatch, *asked) == 2
    assert "found already exists" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        ("nowhere/p.png", "cannot write p.png: the folder nowhere does not exist."),
        ("p.txt", "p.txt has the suffix '.txt'"),
        ("net.png", "exists"),
    ],
)
def test_fixed_points_refuses_a_picture_it_cannot_write_before_it_looks_for_any(place, monkeypatch, capfd, picture, told):
    (place / "unit.py").write_text(BISTABLE)
    (place / "net.png").write_bytes(b"kept")
    assert run(monkeypatch, "fixed-points", "unit.py:unit", "--picture", picture) == 2
    captured = capfd.readouterr()
    assert told in captured.err and "Traceback" not in captured.err and "built" not in captured.err
    assert (place / "net.png").read_bytes() == b"kept"


def test_fixed_points_of_which_no_error_is_known_are_json_all_the_same(place, monkeypatch, capfd):
    """At weight 1 and no input every number from 0 on is a fixed point of a rectified unit, and no place is known."""
    (place / "line.py").write_text(BISTABLE.replace("RNNCell(1, 1)", 'RNNCell(1, 1, nonlinearity="relu")').replace("2.0", "1.0"))
    assert run(monkeypatch, "fixed-points", "line.py:unit", "--starts", "8", "--json") == 0
    points = json.loads(capfd.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))["points"]
    assert "inf" in [point["error"] for point in points]


def test_fixed_points_keeps_the_input_of_the_step_asked_for(place, monkeypatch, capfd):
    seen = []
    for n in ("0", "4"):
        assert run(monkeypatch, "fixed-points", "net.py:Reader", "--inputs", "x.npy", "--n", n, "--json") == 0
        seen.append(json.loads(capfd.readouterr().out)["points"][0]["point"])
    assert seen[0] != seen[1]
    assert run(monkeypatch, "fixed-points", "net.py:Reader", "--inputs", "x.npy", "--n", "5") == 2
    assert "n is 5, but the steps of this system are 0 … 4" in " ".join(capfd.readouterr().err.split())
    assert run(monkeypatch, "fixed-points", "net.py:Reader", "--period", "0") == 2
    assert "period is 0" in capfd.readouterr().err


def test_fixed_points_counts_time_in_the_unit_asked_for_and_says_whether_points_are_missing(place, monkeypatch, capfd):
    (place / "unit.py").write_text(BISTABLE)
    shown = []
    for asked in ((), ("--dt", "0.1")):
        assert run(monkeypatch, "fixed-points", "unit.py:unit", *asked) == 0
        shown.append(capfd.readouterr().out)
    assert "nats per step" in shown[0] and "nats per unit" in shown[1]
    rates = [re.search(r"unstable node\s+1\s+2\s+([\d.]+)", one)[1] for one in shown]  # ln 2, by step and by tenth
    assert float(rates[0]) == pytest.approx(math.log(2), rel=1e-3)
    assert float(rates[1]) == pytest.approx(10 * math.log(2), rel=1e-3)
    assert run(monkeypatch, "fixed-points", "unit.py:unit", "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["index_sum"], found["index_expected"], found["points_missing"]) == (1, 1, False)
    assert run(monkeypatch, "fixed-points", "unit.py:unit", "--dt", "-1") == 2
    assert "dt is -1.0" in capfd.readouterr().err
