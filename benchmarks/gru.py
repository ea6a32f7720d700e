"""The full spectra of a GRU and an LSTM, against the matrix products nobody can avoid and against how it is usually done."""

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

import separatrix as sx
from separatrix.analysis.run.tangent_run import random_frame
from timing import Row, Work, interleaved

INPUTS = 8
SIZES = ((256, 8, 200), (64, 16, 1000))  # hidden units, batch, steps; a fifth of the steps before them to settle
LSTM = (128, 4, 200)  # two layers: 512 numbers in the state, half of which shrink by e^−4 … e^−10 in a step
TOLERANCE = 1e-9  # nats per step, between three ways to the same exponents


def rows() -> list[Row]:
    """Floors for both sizes, at the default weights and at four times them; then the usual ways."""
    table = []
    for hidden, batch, steps in SIZES:
        table += against_floor(hidden, batch, steps, scale=1, goal={256: 0.9, 64: 1.5}[hidden])
        table += against_floor(hidden, batch, steps, scale=4, goal={256: 1.2, 64: 2.5}[hidden])
        table += against_usual_ways(hidden, batch, steps)
    return [*table, lstm_against_floor(*LSTM, goal=2.0)]


def network(hidden: int, batch: int, steps: int, scale: int = 1) -> tuple[nn.GRU, Tensor]:
    """A float64 GRU at PyTorch's default initialisation, times `scale`, and white noise (time, batch, inputs) for it."""
    torch.manual_seed(0)
    gru = nn.GRU(INPUTS, hidden).double()
    with torch.no_grad():
        for parameter in gru.parameters():
            parameter.mul_(scale)
    return gru, torch.randn(steps + steps // 5, batch, INPUTS, dtype=torch.float64)


def against_floor(hidden: int, batch: int, steps: int, scale: int, goal: float | None) -> list[Row]:
    """Ours, the products with all three gates' weights (the batch folded into one), and with one matrix per batch item."""
    gru, inputs = network(hidden, batch, steps, scale)
    system = sx.Recurrent(gru, inputs)
    weight = gru.weight_hh_l0.detach()
    folded = torch.randn(batch * hidden, hidden, dtype=torch.float64)
    tangents, jacobians = torch.randn(2, batch, hidden, hidden, dtype=torch.float64)
    median = interleaved(
        {
            "ours": lambda: sx.lyapunov_spectrum(system, steps=steps),
            "three": lambda: repeat(lambda: folded @ weight.T, len(inputs)),
            "one": lambda: repeat(lambda: tangents @ jacobians.mT, len(inputs)),
        }
    )
    ms = {name: seconds / len(inputs) * 1e3 for name, seconds in median.items()}
    work = f"GRU {hidden}, batch {batch}, {'default weights' if scale == 1 else f'weights × {scale}'}, all {hidden} exponents"
    shape = f"({batch * hidden} × {hidden}) ({hidden} × {3 * hidden})"
    small = f"{batch} × ({hidden} × {hidden}) ({hidden} × {hidden})"
    return [
        Row(work, ms["ours"], f"floor: the product v Wᵀ of all gates, {shape}", ms["three"], "ms / step", True, goal),
        Row(work, ms["ours"], f"smaller floor: one product a batch item, {small}", ms["one"], "ms / step", True),
    ]


def lstm_against_floor(hidden: int, batch: int, steps: int, goal: float) -> Row:
    """Two layers of an LSTM, and the products with all gates' weights, the batch folded into one."""
    torch.manual_seed(0)
    lstm = nn.LSTM(INPUTS, hidden, 2).double()
    inputs = torch.randn(steps + steps // 5, batch, INPUTS, dtype=torch.float64)
    system = sx.Recurrent(lstm, inputs)
    weights = [w.detach() for w in (lstm.weight_hh_l0, lstm.weight_ih_l1, lstm.weight_hh_l1)]
    folded = torch.randn(batch * system.dim, hidden, dtype=torch.float64)
    median = interleaved(
        {
            "ours": lambda: sx.lyapunov_spectrum(system, steps=steps),
            "floor": lambda: repeat(lambda: [folded @ weight.T for weight in weights], len(inputs)),
        }
    )
    ours, floor = (median[name] / len(inputs) * 1e3 for name in ("ours", "floor"))
    work = f"LSTM {hidden} × 2, batch {batch}, default weights, all {system.dim} exponents"
    shape = f"3 × ({batch * system.dim} × {hidden}) ({hidden} × {4 * hidden})"
    return Row(work, ours, f"floor: the products of the tangents with all gates' weights, {shape}", floor, "ms / step", True, goal)


def repeat(work: Work, times: int) -> None:
    """Do it so many times."""
    for _ in range(times):
        work()


def against_usual_ways(hidden: int, batch: int, steps: int) -> list[Row]:
    """Ours against a dense Jacobian a step and a QR a step, the Jacobian made in two ways."""
    gru, inputs = network(hidden, batch, steps)
    system, cell = sx.Recurrent(gru, inputs), as_cell(gru)
    short = {"autograd": 3, "jacrev": 20}  # steps timed: theirs cost the same each, ours need their whole run
    ways = {"autograd": by_autograd, "jacrev": by_jacrev}
    check_agreement(system, cell, inputs, ways)
    frame = random_frame(torch.zeros(batch, hidden, dtype=torch.float64), hidden, 0).mT
    sides = {name: lambda name=name: ways[name](cell, inputs[: short[name]], frame) for name in ways}
    median = interleaved({"ours": lambda: sx.lyapunov_spectrum(system, steps=steps), **sides})
    ours = median["ours"] / len(inputs) * 1e3
    work = f"GRU {hidden}, batch {batch}, default weights, all {hidden} exponents"
    goals = {"autograd": 10.0, "jacrev": 2.5 if hidden == 256 else 5.0}
    names = {
        "autograd": "a Jacobian per step and sample by autograd, row after row; QR each step",
        "jacrev": "vmap(jacrev) per step; QR each step",
    }
    return [Row(work, ours, names[name], median[name] / short[name] * 1e3, "ms / step", goal=goals[name]) for name in ways]


def as_cell(gru: nn.GRU) -> nn.GRUCell:
    """The same network as a cell, which those who write the loop use."""
    cell = nn.GRUCell(gru.input_size, gru.hidden_size).double()
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in gru.state_dict().items()})
    return cell.requires_grad_(False)


def by_autograd(cell: nn.GRUCell, inputs: Tensor, frame: Tensor) -> Tensor:
    """Exponents as in the scripts published with papers; `frame` (batch, hidden, k) has tangents as columns."""
    exponents = []
    for sample, q in zip(inputs.unbind(1), frame, strict=True):
        h, logs = torch.zeros(cell.hidden_size, dtype=torch.float64), 0.0
        for u in sample:
            jacobian = torch.autograd.functional.jacobian(lambda state, u=u: cell(u, state), h)
            q, r = torch.linalg.qr(jacobian @ q)
            logs = logs + r.diagonal().abs().log()
            h = cell(u, h)
        exponents.append(logs / len(sample))
    return torch.stack(exponents)


def by_jacrev(cell: nn.GRUCell, inputs: Tensor, frame: Tensor) -> Tensor:
    """Exponents by all Jacobians of a step at once."""
    weights = dict(cell.named_parameters())

    def step(u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        after = functional_call(cell, weights, (u, h))
        return after, after

    jacobians = vmap(jacrev(step, argnums=1, has_aux=True))
    h, q, logs = torch.zeros(frame.shape[:-1], dtype=torch.float64), frame, 0.0
    for u in inputs:
        jacobian, h = jacobians(u, h)
        q, r = torch.linalg.qr(jacobian @ q)
        logs = logs + r.diagonal(dim1=-2, dim2=-1).abs().log()
    return logs / len(inputs)


def check_agreement(system: sx.Recurrent, cell: nn.GRUCell, inputs: Tensor, ways: dict) -> None:
    """All sides give the same exponents over the first steps, from the same frame."""
    steps = 3
    frame = random_frame(system.initial_state(inputs.shape[1:2]), system.dim, 0)
    ours = sx.lyapunov_spectrum(system, steps=steps, settle=0, seed=0).exponents
    for name, way in ways.items():
        theirs = way(cell, inputs[:steps], frame.mT).sort(dim=-1, descending=True).values
        gap = float((ours - theirs).abs().max())
        if not gap < TOLERANCE:
            raise AssertionError(f"{name} and ours differ by {gap:.1e} nats per step; they are the same numbers to {TOLERANCE}.")
