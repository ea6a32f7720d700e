"""Stationarity of a drive. Exponents are averages over it, and mean little if its statistics change."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import scipy
import torch
from torch import Tensor, nn

from separatrix.core.checks import as_inputs, check_fraction, check_whole
from separatrix.core.driven import Driven
from separatrix.core.errors import HorizonError, ShapeError, UnsupportedModuleError
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, plain

TESTS = ("mean", "variance", "slow part", "middle part", "fast part")
STEPS = 10_000  # read from an endless drive
SHORTEST = 32  # steps of the shortest block
APART = 20  # correlation times per block: averages of neighbouring blocks then share some 2 % of their variance
BANDS = 4  # of equal width; the share of the last follows from the other three

# Note [Windows and stretches]
# Each window is cut into blocks long enough for their averages to be nearly independent. An analysis of variance tests whether
# the windows differ by more than the blocks within them: F has the F distribution, and the correlation time needs to be known
# only roughly. It is estimated after removing a straight line from each window, so that a trend is not mistaken for correlation.


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Stationarity(Result):
    r"""Test of whether mean, variance and spectrum of a drive are the same in all its windows.

    Args:
        p_value: (*batch), probability that a stationary drive differs between its windows at least as much as this one in any of
            the tests (Šidák: 1 − (1 − p)ⁿ, p the smallest of the n below); NaN if the drive is too short.
        p_values: (*batch, test, input), p-value of each test: mean, logarithm of the variance, logarithms of the power shares of
            the lowest, the second and the third quarter of the frequencies.
        correlation_time: (*batch), steps, the longest of the inputs and of their squares.
        needed: (*batch), number of steps needed at this correlation time.
        means, deviations: (window, *batch, input), mean and standard deviation in each window.
        level: significance level; a drive with a p-value below it is not stationary.
        steps: number of steps tested.
    """

    p_value: Tensor
    p_values: Tensor
    correlation_time: Tensor
    needed: Tensor
    means: Tensor
    deviations: Tensor
    level: float
    steps: int

    drawn_by: ClassVar[str] = "separatrix.plot.stationarity:stationarity_figure"
    layout: ClassVar[dict[str, str]] = {
        "p_value": "batch",
        "p_values": "batch test input",
        "correlation_time": "batch",
        "needed": "batch",
        "means": "window batch input",
        "deviations": "window batch input",
    }
    units: ClassVar[dict[str, str]] = {"correlation_time": "steps", "needed": "steps"}

    @property
    def stationary(self) -> Tensor:
        """(*batch), bool: no test finds a difference. False also if the drive is too short, which `status` shows."""
        return self.p_value >= self.level

    def summary(self) -> str:
        """The verdict, with the p-value and the largest difference."""
        windows = counted(len(self.means), "window")
        if self.batch:
            short = int(self.p_value.isnan().sum())
            changed = int((self.p_value < self.level).sum())
            summary = f"{changed} of {counted(self.codes.numel(), 'drive')} change between {windows} at the {self.level:.2g} level"
            return summary + (f"; {short} too short" if short else "")
        tau = plain(float(self.correlation_time))
        if self.codes == Status.NOT_CONVERGED:
            return f"too short: {self.steps:,} steps, but a correlation time of {tau} needs {int(self.needed):,}"
        place = int(self.p_values.argmin())
        which = f"{TESTS[place // self.p_values.shape[-1]]} of input {place % self.p_values.shape[-1] + 1}"
        verdict = "stationary: no change detected" if bool(self.stationary) else f"not stationary: the {which} changes"
        return f"{verdict} (p = {plain(float(self.p_value))} over {windows}; correlation time {tau} steps)"

    def _remedy(self, status: Status) -> str:
        return f"Pass at least {int(self.needed.max()):,} steps (there are {self.steps:,}), or use fewer windows."


@torch.no_grad()
def stationarity(
    inputs: Any,
    *,
    steps: int | None = None,
    windows: int = 8,
    level: float = 0.05,
    progress: bool = False,
    throw: bool = False,
) -> Stationarity:
    r"""Test whether mean, variance and spectrum of a drive stay the same: an analysis of variance between its windows.

    Args:
        inputs: shape (time, inputs) or (time, *batch, inputs), time first; or an `sx.Stream` or a driven system, whose inputs are
            read step by step.
        steps: number of steps to test. Default: all; 10,000 for an endless drive.
        windows: number of windows, at least 2.
        level: significance level: the probability that a stationary drive is called not stationary.
        progress: show a progress bar while inputs are read step by step.
        throw: raise instead of marking drives `not_converged`.

    Returns:
        Stationarity: `p_value` and `stationary` (*batch), `p_values` of each test and input, the windows' means and deviations. A
        drive shorter than 2 · windows · 20 correlation times is `not_converged`; `needed` is the number of steps to pass.

    Raises:
        InputError: fewer than 2 windows, a level outside (0, 1), or inputs that are not finite numbers.
        ShapeError: the inputs have no time axis.
        HorizonError: `steps` exceeds the length of the drive.
        NotConvergedError: with `throw=True`.
        UnsupportedModuleError: the module is not a drive.
    Limits: tests mean, variance and spectrum of each input separately. A drive that repeats with a period shorter than a block
        counts as stationary; one that changes within its own correlation time is too short to test.
    Source: analysis of variance on batch averages: Scheffé 1959, The Analysis of Variance, ch. 3; correlation time: Sokal 1997,
        in Functional Integration, 131.

    Example:
        >>> time = torch.arange(2_000, dtype=torch.float64)[:, None]
        >>> sx.stationarity(torch.sin(time)).stationary.item(), sx.stationarity(torch.sin(time) + time / 500).stationary.item()
        (True, False)
    """
    check_whole("windows", windows, 2)
    check_fraction("level", level)
    values = _read(inputs, steps, progress).double()
    if len(values) < 4 * windows:
        raise ShapeError(f"expected at least {4 * windows} steps, 4 for each of {windows} windows, got {len(values)}.")
    items = values.reshape(len(values), -1, values.shape[-1])
    batch = values.shape[1:-1]
    tau = _correlation_time(items, windows)
    length = (APART * tau).ceil().clamp(min=SHORTEST)
    p_values = _p_values(items, windows, length)
    tests = p_values.shape[-1] * p_values.shape[-2]
    p = -torch.expm1(tests * torch.log1p(-p_values.flatten(1).amin(1)))
    pieces = items[: len(items) // windows * windows].unflatten(0, (windows, -1))
    found = Stationarity(
        codes=torch.where(p.isnan(), Status.NOT_CONVERGED, Status.OK).to(torch.int8).reshape(batch),
        p_value=p.reshape(batch),
        p_values=p_values.reshape(*batch, *p_values.shape[1:]),
        correlation_time=tau.reshape(batch),
        needed=(2 * windows * length).long().reshape(batch),
        means=pieces.mean(1).reshape(windows, *values.shape[1:]),
        deviations=pieces.std(1).reshape(windows, *values.shape[1:]),
        level=float(level),
        steps=len(values),
        settings={"steps": len(values), "windows": windows, "level": level},
    )
    return found.or_raise(throw)


def _read(inputs: Any, steps: int | None, progress: bool) -> Tensor:
    """The inputs, (steps, *batch, inputs)."""
    if steps is not None:
        check_whole("steps", steps, 1)
    if isinstance(inputs, nn.Module):
        at = _drive(inputs)
        horizon = getattr(inputs, "horizon", None)
        count = steps if steps is not None else STEPS if horizon is None else horizon
        _check_length(count, horizon)
        return torch.stack([at(tick.index) for tick in watched_count(count, "Reading inputs", progress)])
    values = as_inputs("the inputs", inputs)
    if values.ndim < 2:
        raise ShapeError(
            f"expected inputs of shape (time, inputs), got {tuple(values.shape)}.\nPass values[:, None] for one input."
        )
    _check_length(len(values) if steps is None else steps, len(values))
    return values[:steps]


def _drive(source: nn.Module) -> Any:
    """The function n ↦ inputs of a driven system or a drive."""
    if isinstance(source, Driven):
        return source.drive
    if isinstance(source, System) or not hasattr(source, "horizon"):
        raise UnsupportedModuleError(
            f"expected inputs, an sx.Stream or a driven system, got a {type(source).__name__}.\n"
            "Pass the inputs themselves or the driven sx.Recurrent."
        )
    return source


def _check_length(steps: int, horizon: int | None) -> None:
    if horizon is not None and steps > horizon:
        raise HorizonError(f"steps is {steps}, but the inputs have {horizon} steps.")


def _correlation_time(items: Tensor, windows: int) -> Tensor:
    """τ = 1 + 2 Σ ρ_l of the inputs and of their squares, the longest, (items); the sum ends at 5 τ."""
    pieces = items[: len(items) // windows * windows].unflatten(0, (windows, -1))
    detrended = _without_line(pieces)
    both = torch.cat([detrended, _without_line(detrended.square())], dim=-1)
    size = both.shape[1]
    power = torch.fft.rfft(both, n=2 * size, dim=1).abs().square()
    correlation = torch.fft.irfft(power, n=2 * size, dim=1)[:, : size // 2].mean(0)
    correlation = correlation / correlation[0].clamp(min=torch.finfo(torch.float64).tiny)
    lags = torch.arange(len(correlation), dtype=torch.float64, device=items.device)[:, None, None]
    tau = 2 * correlation.cumsum(0) - 1
    ended = lags >= 5 * tau
    first = torch.where(ended.any(0), ended.long().argmax(0), len(tau) - 1)
    return tau.gather(0, first[None])[0].clamp(min=1).amax(-1)


def _without_line(pieces: Tensor) -> Tensor:
    """Each window without its least-squares line, (window, time, …)."""
    t = torch.linspace(-1, 1, pieces.shape[1], dtype=pieces.dtype, device=pieces.device).reshape(1, -1, 1, 1)
    rest = pieces - pieces.mean(1, keepdim=True)
    return rest - t * (t * rest).sum(1, keepdim=True) / t.square().sum()


def _p_values(items: Tensor, windows: int, length: Tensor) -> Tensor:
    """p-values (item, test, input), together for items with the same number of blocks; NaN with fewer than 2 blocks.

    See Note [Windows and stretches].
    """
    counts = (len(items) // (windows * length)).long()
    found = torch.full((items.shape[1], len(TESTS), items.shape[-1]), math.nan, dtype=torch.float64, device=items.device)
    for count in counts[counts >= 2].unique().tolist():
        own = counts == count
        longest = len(items) // (windows * count)
        pieces = items[: windows * count * longest, own].reshape(windows, count, longest, -1)
        p = _analysis_of_variance(_statistics(pieces))
        found[own] = p.reshape(len(TESTS), -1, items.shape[-1]).movedim(0, 1)
    return found


def _statistics(pieces: Tensor) -> Tensor:
    """The tested quantities of each block: (window, block, time, input) → (test, window, block, input)."""
    mean = pieces.mean(2)
    rest = pieces - mean[:, :, None]
    power = torch.fft.rfft(rest, dim=2)[:, :, 1:].abs().square()
    bands = torch.stack([band.mean(2) for band in power.tensor_split(BANDS, dim=2)])
    least = torch.finfo(torch.float64).eps * power.mean((0, 1, 2)).clamp(min=torch.finfo(torch.float64).tiny)
    share = (bands[:-1].clamp(min=least) / bands.sum(0).clamp(min=least)).log()
    return torch.cat([mean[None], bands.mean(0).clamp(min=least).log()[None], share])


def _analysis_of_variance(y: Tensor) -> Tensor:
    """p-value of F, between windows over within windows: (test, window, block, input) → (test, input)."""
    windows, count = y.shape[1:3]
    own = y.mean(2)
    between = count * (own - own.mean(1, keepdim=True)).square().sum(1) / (windows - 1)
    within = (y - own[:, :, None]).square().sum((1, 2)) / (windows * (count - 1))
    same = between <= 1e-20 * y.square().mean((1, 2))  # equal up to rounding
    p = scipy.special.fdtrc(windows - 1, windows * (count - 1), (between / within.clamp(min=1e-300)).cpu().numpy())
    return torch.as_tensor(p, dtype=torch.float64).to(y.device).masked_fill(same, 1.0)
