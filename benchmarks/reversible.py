"""Memory of a forward and a backward pass against depth: reversible and momentum networks, and a plain residual one.

Bytes that the graph holds between the passes are counted by PyTorch's own hooks; the peak of the process is that of a process of
its own for each network, beyond what it needed for the same network on one item. There each tensor has pages of its own, so that
the gaps between blocks of a heap are not counted.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

import separatrix as sx
from memory import peak
from timing import interleaved

DEPTHS, TIMED = (10, 1000), 50
DIM, ITEMS, GAMMA = 64, 1024, 0.9
KINDS = ("residual", "momentum", "reversible")
Run = Callable[[Tensor], Tensor]


def row() -> dict[str, object]:
    """Bytes held for each number of the state, peaks in MiB, and the price in time at one depth."""
    numbers = {kind: [round(held(kind, depth), 2) for depth in DEPTHS] for kind in KINDS}
    peaks = {kind: [round(peak_of(kind, depth), 1) for depth in DEPTHS] for kind in KINDS}
    sides = {name: passes(*built(kind, TIMED, recompute)) for name, kind, recompute in SIDES}
    seconds = interleaved(sides, repeats=3)
    price = {kind: round(seconds[kind] / seconds[f"{kind}, stored"], 2) for kind in KINDS[1:]}
    told = {"held bytes per number": numbers, "peak beyond one item, MiB": peaks, "time over stored": price}
    return {"depths": DEPTHS, "timed depth": TIMED, **told}


SIDES = [(f"{kind}{'' if recompute else ', stored'}", kind, recompute) for kind in KINDS[1:] for recompute in (True, False)]


def built(kind: str, depth: int, recompute: bool = True) -> tuple[nn.Module, Run]:
    """A network of linear layers with tanh, and how it is run; in float32."""
    torch.manual_seed(0)
    dim = DIM // 2 if kind == "reversible" else DIM
    layers = nn.ModuleList(nn.Sequential(nn.Linear(dim, dim), nn.Tanh()) for _ in range(depth))
    if kind == "residual":
        return layers, lambda x: plain(layers, x)
    if kind == "reversible":
        network: nn.Module = sx.nn.Reversible(layers[::2], layers[1::2], recompute=recompute)
    else:
        network = sx.nn.Momentum(layers, gamma=GAMMA, recompute=recompute)
    return network, network


def plain(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """A residual network, x ← x + f(x)."""
    for f in layers:
        x = x + f(x)
    return x


def passes(network: nn.Module, run: Run) -> Callable[[], None]:
    """One forward and one backward pass."""
    x = torch.randn(ITEMS, DIM)

    def both() -> None:
        network.zero_grad()
        run(x).sum().backward()

    return both


def held(kind: str, depth: int) -> float:
    """Bytes for each number of the state that the graph keeps between the passes, but for the weights."""
    network, run = built(kind, depth)
    return sx.testing.held_bytes(run, torch.randn(ITEMS, DIM), apart_from=network) / (ITEMS * DIM)


def peak_of(kind: str, depth: int) -> float:
    """In a process of its own, MiB."""
    command, own_pages = [sys.executable, __file__, kind, str(depth)], {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**16)}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=own_pages).stdout)


def measure(kind: str, depth: int) -> float:
    """How far the peak of this process moves from one item to all of them, with the same weights and gradients."""
    network, run = built(kind, depth)
    peaks = []
    for items in (1, ITEMS):
        network.zero_grad(set_to_none=False)
        run(torch.randn(items, DIM)).sum().backward()
        peaks.append(peak())
    return peaks[1] - peaks[0]


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
