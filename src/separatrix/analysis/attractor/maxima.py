"""Return maps of sampled orbits: maxima of a component, each from a parabola through three samples."""

import torch
from torch import Tensor

from separatrix.analysis.attractor.return_map import ReturnMap
from separatrix.core.result import Status


def sampled_return_map(states: Tensor, dt: float, component: int, of_maxima: bool = True) -> ReturnMap:
    """The return map of orbits sampled at equal time intervals, as in `return_map`.

    Args:
        states: shape (time, orbits, dim).
        dt: time between two samples.
        component: index of the component, from 0.
        of_maxima: visits are the component's maxima; otherwise every sample is a visit.

    Limits: the error of a maximum between samples is O(dt³), that of its time O(dt²).
    """
    s = states[..., component]
    if of_maxima:
        values, times = _maxima(s, dt)
    else:
        values = s
        times = (dt * torch.arange(len(s), dtype=s.dtype, device=s.device))[:, None].expand_as(s)
    visited = values.isfinite().any(0)
    return ReturnMap(
        codes=torch.where(visited, Status.OK, Status.DIVERGED).to(torch.int8),
        component=component,
        of_maxima=of_maxima,
        values=values,
        intervals=times.diff(dim=0),
        settings={"dt": dt, "samples": len(states)},
    )


def _maxima(s: Tensor, dt: float) -> tuple[Tensor, Tensor]:
    """Maxima of series (time, orbits) and their times, (maximum, orbits); NaN after an orbit's last one."""
    before, here, after = s[:-2], s[1:-1], s[2:]
    peak = (here > before) & (here >= after)
    bend = (before - 2 * here + after).where(peak, -1.0)
    share = (before - after) / (2 * bend)  # offset from the middle sample, in samples
    value = here - (before - after) * share / 4
    time = dt * (1 + torch.arange(len(here), dtype=s.dtype, device=s.device)[:, None] + share)
    return _first(value, peak), _first(time, peak)


def _first(values: Tensor, chosen: Tensor) -> Tensor:
    """The chosen values of each column moved to the top, NaN below."""
    most = max(int(chosen.sum(0).amax()), 2)
    order = chosen.long().argsort(dim=0, descending=True, stable=True)[:most]
    return values.where(chosen, torch.nan).gather(0, order)
