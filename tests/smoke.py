"""What a wheel holds does the main job: run with the installed package first on the path, by `make wheel`."""

import sys
import tempfile
from pathlib import Path

import torch

import separatrix as sx

here = Path(sys.argv[1]).resolve()
assert Path(sx.__file__).is_relative_to(here), f"{sx.__file__} is not in {here}"

spectrum = sx.lyapunov_spectrum(sx.classic.henon(), steps=2_000)
assert abs(float(spectrum.exponents.sum()) + 1.20397) < 1e-4, spectrum  # ln 0.3

portrait = sx.analyze(torch.nn.RNN(2, 8, batch_first=True), torch.randn(8, 50, 2), steps=200, settle=100, copies=4, also=())
with tempfile.TemporaryDirectory() as folder:
    page = sx.write_report({"rnn": portrait}, Path(folder) / "report", title="smoke")
    assert page.exists(), page
print(f"separatrix {sx.__version__} from {Path(sx.__file__).parent}: {portrait.verdict.splitlines()[0]}")
