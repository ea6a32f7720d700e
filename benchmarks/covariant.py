"""Covariant vectors of a GRU at the QR times, against its spectrum over the same window."""

import torch
from torch import nn

import separatrix as sx
from timing import Row, interleaved

HIDDEN, INPUTS = 128, 8
STEPS, SETTLE, ALIGN = 500, 100, 100


def rows() -> list[Row]:
    """All vectors, every one of them kept, checks included; both sides settle alike, and the vectors align afterwards."""
    torch.manual_seed(0)
    gru = nn.GRU(INPUTS, HIDDEN).double()
    system = sx.Recurrent(gru, torch.randn(SETTLE + STEPS + ALIGN, INPUTS, dtype=torch.float64))
    window = {"steps": STEPS, "settle": SETTLE}
    seconds = interleaved(
        {
            "ours": lambda: sx.covariant_lyapunov_vectors(system, **window, align=ALIGN, keep=1),
            "spectrum": lambda: sx.lyapunov_spectrum(system, **window),
        }
    )
    work = f"GRU {HIDDEN}, all covariant vectors at the QR times, {SETTLE} + {STEPS} + {ALIGN} steps"
    against = f"its spectrum, {SETTLE} + {STEPS} steps"
    return [Row(work, seconds["ours"], against, seconds["spectrum"], "s", floor=True, goal=4.0)]
