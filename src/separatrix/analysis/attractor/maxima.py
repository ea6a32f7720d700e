"""Return maps of sampled orbits: a component's maxima, each by a parabola through three samples."""

import torch
from torch import Tensor

from separatrix.analysis.attractor.return_map import ReturnMap
from separatrix.core.result import Status


def sampled_return_map(states: Tensor, dt: float, component: int, of_maxima: bool = True) -> ReturnMap:
    """The return map of orbits at equal distances of time, as `return_map` has it of a system.

    Args:
        states: shape (time, orbits, dim).
        dt: the time between two.
        component: which one, from 0.
        of_maxima: of the component's maxima; else every state is a visit.

    Limits: a maximum between samples is off by O(dt³), and its time by O(dt²).
    """
    s = states[..., component]
    if of_maxima:
        values, times = _maxima(s, dt)
    else:
        values = s
        times = (dt * torch.arange(len(s), dtype=s.dtype, device=s.device))[:, None].expand_as(s)
    last = values.isfinite().any(0)
    return ReturnMap(
        codes=torch.where(last, Status.OK, Status.DIVERGED).to(torch.int8),
        component=component,
        of_maxima=of_maxima,
        values=values,
        intervals=times.diff(dim=0),
        settings={"dt": dt, "samples": len(states)},
    )


def _maxima(s: Tensor, dt: float) -> tuple[Tensor, Tensor]:
    """The maxima of series (time, orbits) and their times, (maximum, orbits); NaN behind an orbit's last one."""
    before, here, after = s[:-2], s[1:-1], s[2:]
    peak = (here > before) & (here >= after)
    bend = (before - 2 * here + after).where(peak, -1.0)
    share = (before - after) / (2 * bend)  # of a sample, from the middle one
    value = here - (before - after) * share / 4
    time = dt * (1 + torch.arange(len(here), dtype=s.dtype, device=s.device)[:, None] + share)
    return _first(value, peak), _first(time, peak)


def _first(values: Tensor, chosen: Tensor) -> Tensor:
    """The chosen values of each column, moved to the top; NaN below."""
    most = max(int(chosen.sum(0).amax()), 2)
    order = chosen.long().argsort(dim=0, descending=True, stable=True)[:most]
    return values.where(chosen, torch.nan).gather(0, order)
