"""Neural ODEs, forward and backward: 256 items of van der Pol's oscillator for 10 units of time, at a tolerance of 1e-5.

Two fields: the oscillator itself with a learned rate, and a network of two hidden layers of 64 fitted to it. The loss is of the
last state; gradients go to the start and to the parameters. Each side takes its defaults but for the tolerance, rtol = atol = 1e-5:
ours a step for each item, torchdiffeq one for all, which the worst item sets: its errors are then smaller than asked. So ours is
timed at 1e-6 as well, where its errors are about as small; those of both, against a solution at 1e-12, are in the table.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import separatrix as sx
from timing import Row, Work, interleaved

ITEMS, TIME, TOL, FINER = 256, 10.0, 1e-5, 1e-6
FIT = 400  # optimiser steps that make the network's field an oscillator
DOUBLE = {"dtype": torch.float64}


class VanDerPol(nn.Module):
    """ẋ = v,  v̇ = μ (1 − x²) v − x."""

    def __init__(self) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(2.0, **DOUBLE))

    def forward(self, x: Tensor) -> Tensor:
        """The velocity."""
        x, v = x.unbind(-1)
        return torch.stack([v, self.mu * (1 - x * x) * v - x], dim=-1)


def fitted() -> nn.Module:
    """A network whose field is near the oscillator's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)).double()
        optimiser, true = torch.optim.Adam(net.parameters(), 3e-3), VanDerPol()
        for _ in range(FIT):
            x = (2 * torch.rand(512, 2, **DOUBLE) - 1) * torch.tensor([3.0, 5.0], **DOUBLE)
            optimiser.zero_grad()
            (net(x) - true(x).detach()).square().mean().backward()
            optimiser.step()
    return net


def starts() -> Tensor:
    """Initial states."""
    return 2 * torch.randn(ITEMS, 2, generator=torch.Generator().manual_seed(0), **DOUBLE)


def ours(field: nn.Module, x: Tensor, tol: float = TOL) -> Tensor:
    """Our last states."""
    return sx.solve(field, x, [0.0, TIME], rtol=tol, atol=tol).last


def theirs(field: nn.Module, x: Tensor, adjoint: bool = False) -> Tensor:
    """Those of torchdiffeq."""
    import torchdiffeq

    class Timed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field = field

        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return self.field(x)

    solver = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint
    states = solver(Timed(), x, torch.tensor([0.0, TIME], **DOUBLE), method="dopri5", rtol=TOL, atol=TOL)
    assert isinstance(states, Tensor)  # a tuple only of a tuple
    return states[-1]


OWN: dict[str, Callable[..., Tensor]] = {f"tolerance {tol:g}": partial(ours, tol=tol) for tol in (TOL, FINER)}
THEIRS: dict[str, Callable[..., Tensor]] = {
    "torchdiffeq dopri5": theirs,
    "torchdiffeq dopri5, adjoint": partial(theirs, adjoint=True),
}


GOALS = {("van der Pol's field", f"tolerance {FINER:g}"): 1.5}  # where the errors of both are alike


def both_ways(field: nn.Module, last: Callable[..., Tensor]) -> Work:
    """Forward and backward."""

    def work() -> Tensor | None:
        field.zero_grad()
        x = starts().requires_grad_()
        last(field, x).square().sum().backward()
        return x.grad

    return work


def rows() -> list[Row]:
    """Ours at both tolerances against both of torchdiffeq's ways, for each field."""
    found = []
    for name, field in {"van der Pol's field": VanDerPol(), "a network 2 → 64 → 64 → 2": fitted()}.items():
        works = {side: both_ways(field, last) for side, last in (OWN | THEIRS).items()}
        failed = {side: why for side in THEIRS if (why := failure(works[side]))}
        median = interleaved({side: work for side, work in works.items() if side not in failed})
        off = errors(field)
        for own in OWN:
            work = f"neural ODE, {name}, 256 items, forward and backward, {own} (error {off[own]:.0e})"
            for side in THEIRS:
                against = f"{side}, tolerance {TOL:g} (error {off[side]:.0e})" if side in off else f"{side}, tolerance {TOL:g}"
                goal = GOALS.get((name, own)) if side == "torchdiffeq dopri5" else None
                found.append(Row(work, median[own], against, median.get(side), "s", goal=goal, note=failed.get(side, "")))
    return found


def failure(work: Work) -> str:
    """Why a side cannot do the work; empty where it can."""
    try:
        work()
    except AssertionError as error:  # torchdiffeq's, when its steps vanish
        return f"fails: {str(error).split(' in dt')[0]} in dt"
    return ""


@torch.no_grad()
def errors(field: nn.Module) -> dict[str, float]:
    """The median error of the last state of each side."""
    exact = sx.solve(field, starts(), [0.0, TIME], rtol=1e-12, atol=1e-12).last
    sides = {**OWN, "torchdiffeq dopri5": theirs}
    return {side: float((last(field, starts()) - exact).abs().amax(-1).median()) for side, last in sides.items()}
