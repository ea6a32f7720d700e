"""The command line on networks of other people: the numbers of the module itself, or one line that says why not."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from foreign import networks_layers, networks_loops
from foreign.oracle import Layered, Looped, first_floating, jacobian
from foreign.test_looped import lyapunov
from separatrix.cli import main

HERE = Path(__file__).parent
LOOPED = {case.label: case for case in networks_loops.CASES}
LAYERED = {case.label: case for case in networks_layers.CASES}
FILES = {"TutorialGRU": "networks_loops", "TaskNet": "networks_loops", "Tagger": "networks_loops", "KAN": "networks_layers"}


def run(name: str, inputs, place: Path, monkeypatch, capsys, *flags: str):
    """The JSON answer of `separatrix analyze`, or the message that it ends with."""
    np.save(place / "x.npy", inputs)
    model = f"{HERE / FILES[name]}.py:{name}"
    command = ["separatrix", "analyze", model, "--inputs", str(place / "x.npy"), "--out", str(place / "out"), "--json", *flags]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    return ended.value.code or 0, told.out, told.err


@pytest.mark.parametrize("name", ["TutorialGRU", "TaskNet", "Tagger"])
def test_the_command_line_measures_the_loop_that_runs_or_refuses_it(name, tmp_path, monkeypatch, capsys):
    """λ₁ of the module's own step, with weights that the same seed gives."""
    case: Looped = LOOPED[name]
    flags = ("--k", "1", "--copies", "3", "--steps", "150", "--settle", "40", "--also", "none")
    code, out, err = run(name, np.asarray(case.inputs), tmp_path, monkeypatch, capsys, *flags)
    assert "Traceback" not in err
    if code != 0:
        assert code == 2
        assert "analyze" in case.refused
        return
    (numbers,) = json.loads(out).values()
    true, error = lyapunov(case, 1)
    allowed = 4 * (numbers["lambda_1_stderr"] ** 2 + float(error[0]) ** 2) ** 0.5 + 2 / 150
    assert abs(numbers["lambda_1_nats_per_step"] - float(true[0])) <= allowed


def test_the_command_line_measures_a_depth(tmp_path, monkeypatch, capsys):
    """The gain at the output is ‖J‖_F/√d of the module's own Jacobian, in the median over the inputs."""
    case: Layered = LAYERED["KAN"]
    code, out, _ = run("KAN", case.inputs.double().numpy(), tmp_path, monkeypatch, capsys)
    assert code == 0
    (numbers,) = json.loads(out).values()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = case.make().double().eval()
    each = [jacobian(lambda z: first_floating(model(z)), x[None]) for x in case.inputs.double()]
    gains = [float(torch.linalg.matrix_norm(one)) / 3**0.5 for one in each]
    assert numbers["gain_factor"] == pytest.approx(float(np.median(gains)), rel=1e-6)
