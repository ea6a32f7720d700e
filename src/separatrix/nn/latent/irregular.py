"""Series of different lengths observed at irregular times: the observations and the gaps between them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from separatrix.core.errors import InputError, ShapeError


@dataclass(frozen=True)
class Irregular:
    """Observations in order of time.

    Args:
        values: shape (times, *batch, observed); 0 in masked-out entries.
        times: float64, shape (times, *batch).
        seen: mask of the observations, shape (times, *batch).
    """

    values: Tensor
    times: Tensor
    seen: Tensor

    @property
    def first(self) -> Tensor:
        """The time of the first observation, shape (*batch)."""
        return self.times.where(self.seen, torch.inf).amin(0)

    @property
    def gaps(self) -> Tensor:
        """The time from each observation to the next, 0 at the last and in masked-out entries; shape (times, *batch)."""
        last = self.times.where(self.seen, -torch.inf).amax(0)
        following = self.times.where(self.seen, torch.inf).flip(0).cummin(0).values.flip(0).minimum(last)
        return torch.diff(following, dim=0, append=last[None]).to(self.values.dtype)

    def reading(self, read: Tensor | None) -> "Irregular":
        """The observations within a mask `read`; all by default."""
        if read is None:
            return self
        _check_mask("read", read, self.times)
        part = Irregular(self.values, self.times, self.seen & read)
        _check_not_empty(part)
        return Irregular(self.values.where(part.seen[..., None], 0.0), self.times, part.seen)


def irregular(values: Tensor, times: Any, mask: Tensor | None, observed: int) -> Irregular:
    """A checked batch of series, in the forms that `LatentODE` accepts."""
    if values.ndim < 2 or values.shape[-1] != observed:
        raise ShapeError(f"expected values of shape (times, *batch, {observed}), got {tuple(values.shape)}.")
    times = times_of_each("times", times, tuple(values.shape[1:-1]), values.device)
    if len(times) != len(values):
        raise ShapeError(f"expected as many times as values, got {len(times)} times and {len(values)} values.")
    if mask is not None:
        _check_mask("mask", mask, times)
    seen = torch.ones_like(times, dtype=torch.bool) if mask is None else mask
    series = Irregular(values.where(seen[..., None], 0.0), times, seen)
    _check_not_empty(series)
    _check_finite(series)
    _check_rising(series)
    return series


def times_of_each(name: str, times: Any, batch: tuple[int, ...], device: torch.device) -> Tensor:
    """Times of shape (times, *batch), expanded if all items share them."""
    times = torch.as_tensor(times, dtype=torch.float64, device=device)
    if times.ndim == 1:
        times = times.reshape(-1, *[1] * len(batch)).expand(-1, *batch)
    if times.ndim == 0 or tuple(times.shape[1:]) != batch:
        wanted = ", ".join(["times", *map(str, batch)])
        raise ShapeError(f"expected {name} of shape (times,) or ({wanted}), got {tuple(times.shape)}.")
    return times


def _check_mask(name: str, mask: Tensor, times: Tensor) -> None:
    if not isinstance(mask, Tensor):
        raise InputError(f"{name} is a {type(mask).__name__}; expected a bool tensor.")
    if mask.dtype != torch.bool or mask.shape != times.shape:
        raise ShapeError(
            f"{name} is {str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}; "
            f"expected bool of shape {tuple(times.shape)}, one entry per observation."
        )


def _check_not_empty(series: Irregular) -> None:
    empty = (~series.seen.any(0)).nonzero()
    if 0 in series.times.shape[1:]:
        raise InputError(f"expected at least one series, got the batch shape {tuple(series.times.shape[1:])}.")
    if len(empty):
        where = f" {tuple(empty[0].tolist())}" if empty.shape[-1] else ""
        raise InputError(f"series{where} has no observation.\nRemove it from the batch.")


def _check_finite(series: Irregular) -> None:
    for name, whole in (("times", torch.isfinite(series.times)), ("values", torch.isfinite(series.values).all(-1))):
        missing = int((series.seen & ~whole).sum())
        if missing:
            raise InputError(f"{missing} of the observed {name} are not finite.\nPass a mask that excludes them.")


def _check_rising(series: Irregular) -> None:
    before = series.times.where(series.seen, -torch.inf).cummax(0).values[:-1]
    falling = (series.seen[1:] & (series.times[1:] <= before)).nonzero()
    if len(falling):
        i, *item = falling[0].tolist()
        here, after = float(before[(i, *item)]), float(series.times[(i + 1, *item)])
        raise InputError(
            f"expected increasing times, got {after:g} after {here:g} at time {i + 1}{f' of series {tuple(item)}' if item else ''}."
        )
