"""Whether a drive is the same from beginning to end: exponents are averages over it, and mean little where it changes."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from scipy.special import fdtrc
from torch import Tensor, nn

from separatrix.core.checks import check_whole
from separatrix.core.driven import Driven
from separatrix.core.errors import HorizonError, InputError, ShapeError, UnsupportedModuleError
from separatrix.core.inputs import as_inputs
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, plain

TESTS = ("mean", "variance", "slow part", "middle part", "fast part")
STEPS = 10_000  # read from a drive without end
SHORTEST = 32  # steps of a stretch, however short the correlation time
APART = 20  # correlation times in a stretch: neighbouring averages then share some 2 % of their variance
BANDS = 4  # of equal width, of which the last is what the other three leave

# Note [Windows and stretches]
# Each window is cut into stretches so long that their averages are nearly independent, and an analysis of variance asks whether
# the windows differ by more than the stretches within them do: F has the F distribution, and the correlation time needs to be
# known only roughly. It is taken from what is left of each window without its line, so that a trend does not pass for memory.


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Stationarity(Result):
    r"""Whether mean, variance and spectrum of a drive are the same in all windows of it.

    Args:
        p_value: (*batch), the chance that a stationary drive differs between its windows as much as this one in any of the tests
            (Šidák: 1 − (1 − p)ⁿ, p the smallest of the n below); NaN where it is too short to tell.
        p_values: (*batch, test, input), of each test alone: mean, logarithm of the variance, and of the share of the lowest,
            the second and the third quarter of the frequencies.
        correlation_time: (*batch), steps, the longest of the inputs and of their squares.
        needed: (*batch), steps that this correlation time asks for.
        means, deviations: (window, *batch, input), of each window.
        level: below which p-value a drive is said not to be stationary.
        steps: how many were looked at.
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
        """(*batch), bool: no test finds a difference; False also where it is too short to tell, which `status` says."""
        return self.p_value >= self.level

    def summary(self) -> str:
        """The verdict, with the p-value and what differs most."""
        windows = counted(len(self.means), "window")
        if self.batch:
            short = int(self.p_value.isnan().sum())
            changed = int((self.p_value < self.level).sum())
            told = f"{changed} of {counted(self.codes.numel(), 'drive')} change between {windows} at the {self.level:.2g} level"
            return told + (f"; {short} too short to tell" if short else "")
        tau = plain(float(self.correlation_time))
        if self.codes == Status.NOT_CONVERGED:
            return f"too short to tell: {self.steps:,} steps, but a correlation time of {tau} asks for {int(self.needed):,}"
        place = int(self.p_values.argmin())
        which = f"{TESTS[place // self.p_values.shape[-1]]} of input {place % self.p_values.shape[-1] + 1}"
        verdict = "stationary as far as can be seen" if bool(self.stationary) else f"not stationary: the {which} changes"
        return f"{verdict} (p = {plain(float(self.p_value))} over {windows}; correlation time {tau} steps)"


@torch.no_grad()
def stationarity(inputs: Any, *, steps: int | None = None, windows: int = 8, level: float = 0.05) -> Stationarity:
    r"""Whether a drive's mean, variance and spectrum stay the same: an analysis of variance between windows of it.

    Args:
        inputs: shape (time, inputs) or (time, *batch, inputs), time first; or an `sx.Stream`, or a driven system, whose inputs
            are read step by step.
        steps: how many to look at. Default: all; 10,000 of a drive without end.
        windows: into how many it is cut, at least 2.
        level: of the verdict: so often a stationary drive is said not to be one.

    Returns:
        Stationarity: `p_value` and `stationary` (*batch), `p_values` of each test and input, the windows' means and deviations. A
        drive shorter than 2 · windows · 20 correlation times is `not_converged`, with `needed` steps.

    Raises:
        InputError: fewer than 2 windows, a level outside of (0, 1), inputs that are no finite numbers.
        ShapeError: the inputs have no axis of time.
        HorizonError: more steps than the drive has.
        UnsupportedModuleError: a module that is no drive.
    Limits: looks at mean, variance and spectrum of each input alone. A drive that repeats itself with a period shorter than a
        stretch counts as stationary; one whose correlation time is that of the change itself is too short to tell.
    Source: analysis of variance on batch averages: Scheffé 1959, The Analysis of Variance, ch. 3; correlation time: Sokal 1997,
        in Functional Integration, 131.
    """
    if check_whole("windows", windows) < 2:
        raise InputError(f"windows is {windows}; at least 2 can differ.")
    if not (isinstance(level, int | float) and 0 < level < 1):
        raise InputError(f"level is {level!r}; it is a probability between 0 and 1.")
    values = _read(inputs, steps).double()
    if len(values) < 4 * windows:
        raise ShapeError(f"the inputs have {len(values)} steps, too few for {windows} windows of at least 4.")
    items = values.reshape(len(values), -1, values.shape[-1])
    batch = values.shape[1:-1]
    tau = _correlation_time(items, windows)
    length = (APART * tau).ceil().clamp(min=SHORTEST)
    p_values = _p_values(items, windows, length)
    tests = p_values.shape[-1] * p_values.shape[-2]
    p = -torch.expm1(tests * torch.log1p(-p_values.flatten(1).amin(1)))
    pieces = items[: len(items) // windows * windows].unflatten(0, (windows, -1))
    return Stationarity(
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


def _read(inputs: Any, steps: int | None) -> Tensor:
    """The inputs, (steps, *batch, inputs)."""
    if steps is not None and check_whole("steps", steps) < 1:
        raise InputError(f"steps is {steps}; there is nothing to look at.")
    if isinstance(inputs, nn.Module):
        at = _drive(inputs)
        horizon = getattr(inputs, "horizon", None)
        count = steps if steps is not None else STEPS if horizon is None else horizon
        _check_length(count, horizon)
        return torch.stack([at(n) for n in range(count)])
    values = as_inputs(inputs)
    if values.ndim < 2:
        raise ShapeError(f"the inputs have shape {tuple(values.shape)}; pass (time, inputs): values[:, None] for one input.")
    _check_length(len(values) if steps is None else steps, len(values))
    return values[:steps]


def _drive(source: nn.Module) -> Any:
    """The function n ↦ inputs of a driven system or of a drive."""
    if isinstance(source, Driven):
        return source.drive
    if isinstance(source, System) or not hasattr(source, "horizon"):
        raise UnsupportedModuleError(
            f"a {type(source).__name__} has no inputs to look at.\nPass the inputs, an sx.Stream, or the driven sx.Recurrent."
        )
    return source


def _check_length(asked: int, horizon: int | None) -> None:
    if horizon is not None and asked > horizon:
        raise HorizonError(f"{asked} steps were asked but the inputs have {horizon}.")


def _correlation_time(items: Tensor, windows: int) -> Tensor:
    """τ = 1 + 2 Σ ρ_l of the inputs and of their squares, the longest, (items); the sum ends at 5 τ."""
    pieces = items[: len(items) // windows * windows].unflatten(0, (windows, -1))
    rest = _without_line(pieces)
    both = torch.cat([rest, _without_line(rest.square())], dim=-1)
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
    """Each window less its straight line, (window, time, …)."""
    t = torch.linspace(-1, 1, pieces.shape[1], dtype=pieces.dtype, device=pieces.device).reshape(1, -1, 1, 1)
    rest = pieces - pieces.mean(1, keepdim=True)
    return rest - t * (t * rest).sum(1, keepdim=True) / t.square().sum()


def _p_values(items: Tensor, windows: int, length: Tensor) -> Tensor:
    """(item, test, input), items of as many stretches at once; NaN of too few. See Note [Windows and stretches]."""
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
    """What is compared, of each stretch: (window, stretch, time, input) → (test, window, stretch, input)."""
    mean = pieces.mean(2)
    rest = pieces - mean[:, :, None]
    power = torch.fft.rfft(rest, dim=2)[:, :, 1:].abs().square()
    bands = torch.stack([band.mean(2) for band in power.tensor_split(BANDS, dim=2)])
    least = torch.finfo(torch.float64).eps * power.mean((0, 1, 2)).clamp(min=torch.finfo(torch.float64).tiny)
    share = (bands[:-1].clamp(min=least) / bands.sum(0).clamp(min=least)).log()
    return torch.cat([mean[None], bands.mean(0).clamp(min=least).log()[None], share])


def _analysis_of_variance(y: Tensor) -> Tensor:
    """The p-value of F, windows against stretches within them: (test, window, stretch, input) → (test, input)."""
    windows, count = y.shape[1:3]
    own = y.mean(2)
    between = count * (own - own.mean(1, keepdim=True)).square().sum(1) / (windows - 1)
    within = (y - own[:, :, None]).square().sum((1, 2)) / (windows * (count - 1))
    same = between <= 1e-20 * y.square().mean((1, 2))  # rounding's: a constant
    p = fdtrc(windows - 1, windows * (count - 1), (between / within.clamp(min=1e-300)).cpu().numpy())
    return torch.as_tensor(p, dtype=torch.float64).to(y.device).masked_fill(same, 1.0)
