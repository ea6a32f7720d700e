"""Along widths: the powers of the width with which a network's activations, and their changes in training, grow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from separatrix.analysis.depth.coordinates import CoordinateSizes, check_same_layers
from separatrix.core.errors import InputError
from separatrix.core.result import Result, Status
from separatrix.core.wording import counted, measured, plain

HALF_WAY = 0.25  # between the exponents 0 and 1/2, which are next to each other in the limit of infinite width

# Note [Exponent of a width]
# At each layer a line is fitted to ln size over ln width by least squares, through the means over the networks of a width. The
# scatter of the networks at each width gives one variance of its slope; the distances of the means from the line another, which
# also sees a line that bends because the widths are small. The larger of the two counts. With one network of each width there is
# only the second, from few widths, so it is widened until two standard errors are Student's interval of 95 %. The truth lies within
# two standard errors in 92–97 % of runs for 2 to 8 widths, 3 to 10 networks, and scatter that is constant or falls like n^(−1/2).


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WidthScaling(Result):
    r"""The coordinate check: sizes of activations, and of their change in training, over networks of growing width n.

        activation_l ~ n^p,   change_l ~ n^q

    In a parametrisation that trains alike at every width (μP), p = q = 0 at hidden layers, and q = 0 at the output, too.

    Args:
        labels: (width), the widths.
        layers: names of the layers, the same in all networks.
        activation: (layer, width, *batch), root mean square of the output before training; several networks of a width are a
            batch axis.
        change: (layer, width, *batch), root mean square of its change in the steps.
        activation_exponent, activation_exponent_stderr: (layer), p, with its standard error.
        change_exponent, change_exponent_stderr: (layer), q, with its standard error. An exponent is NaN if fewer than two widths
            have sizes above 0; its standard error, if there is one network of each of two widths.
        steps: number of steps.
        optimizer: class of the optimiser.
    """

    labels: Tensor
    layers: tuple[str, ...]
    activation: Tensor
    change: Tensor
    activation_exponent: Tensor
    activation_exponent_stderr: Tensor
    change_exponent: Tensor
    change_exponent_stderr: Tensor
    steps: int
    optimizer: str

    drawn_by: ClassVar[str] = "separatrix.plot.widths:widths_figure"
    layout: ClassVar[dict[str, str]] = {
        "labels": "width",
        "activation": "layer batch",
        "change": "layer batch",
        "activation_exponent": "layer",
        "activation_exponent_stderr": "layer",
        "change_exponent": "layer",
        "change_exponent_stderr": "layer",
    }

    @property
    def exponents(self) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """For the activations and for their change: sizes, exponents and standard errors."""
        return (
            (self.activation, self.activation_exponent, self.activation_exponent_stderr),
            (self.change, self.change_exponent, self.change_exponent_stderr),
        )

    @property
    def verdicts(self) -> tuple[tuple[str, str], ...]:
        """For each layer, what its activations do as the width grows, and what their change does.

        "stable" if the exponent lies between −1/4 and 1/4 within two standard errors, "grows" if it lies above, "shrinks" below,
        otherwise, and without an error bar, "undecided"; "zero" if the sizes are 0 at every width.
        """
        return tuple(zip(*([_word(*one) for one in zip(*part, strict=True)] for part in self.exponents), strict=True))

    @property
    def verdict(self) -> str:
        """What depends on the width, in words.

        A layer does if its change grows or shrinks, or if its activations grow. Activations may shrink while their change does
        not, as at the output in μP.
        """
        if bool((self.codes == Status.DIVERGED).all()):
            return "every network diverged"
        if (known := sum(bool(sizes.isfinite().any()) for sizes in self.activation.unbind(1))) < 2:
            return f"at least two widths are needed for an exponent, {known} has sizes"
        moved = [i for i, (size, change) in enumerate(self.verdicts) if size == "grows" or change in ("grows", "shrinks")]
        unsure = sum(
            change == "undecided" or (size == "undecided" and float(self.activation_exponent[i]) > 0)
            for i, (size, change) in enumerate(self.verdicts)
        )
        also = f"; undecided at {counted(unsure, 'layer')}" if unsure else ""
        if unsure and any(bool((power.isfinite() & error.isnan()).any()) for _, power, error in self.exponents):
            also += " (no error bars: pass three widths, or several networks of each)"
        if not moved:
            return ("nothing is seen to depend on the width" if unsure else "stable in width") + also
        most = max(moved, key=lambda i: abs(float(self.change_exponent[i].nan_to_num(0.0))))
        does = "depends" if len(moved) == 1 else "depend"
        of = f"{len(moved)} of {counted(len(self.layers), 'layer')} {does} on the width"
        return f"{of}, '{self.layers[most]}' most: {'; '.join(self._words(most))}{also}"

    def summary(self) -> str:
        """The verdict, and both exponents of each layer."""
        each = "" if self.codes.ndim == 1 else f", {counted(self.codes[0].numel(), 'network')} each"
        failed = int((self.codes == Status.DIVERGED).sum())
        return "\n".join(
            [
                self.verdict,
                f"{counted(len(self.labels), 'width')}{each}, {counted(self.steps, 'step')} of {self.optimizer}",
                *(f"'{name}': {'; '.join(self._words(i))}" for i, name in enumerate(self.layers)),
                *([f"{failed} of {counted(self.codes.numel(), 'network')} diverged"] if failed else []),
            ]
        )

    def _words(self, layer: int) -> tuple[str, str]:
        """Both exponents of a layer in words."""
        said = []
        for what, word, (_, exponent, error) in zip(("activations", "change"), self.verdicts[layer], self.exponents, strict=True):
            power = measured(float(exponent[layer]), float(error[layer]))
            said.append(f"{what} {_VERBS[word][what == 'change']}" + (f" (exponent {power})" if word != "zero" else ""))
        return said[0], said[1]


def scaling(labels: Tensor, results: Sequence[CoordinateSizes | None]) -> WidthScaling:
    """The exponents of each layer; None stands for a width without a result."""
    labelled = zip(labels.tolist(), results, strict=True)
    check_same_layers({f"width {plain(label)}": result.layers for label, result in labelled if result is not None})
    found = [result for result in results if result is not None]
    if len({(result.steps, result.optimizer) for result in found}) > 1:
        raise InputError("the networks were trained by different optimisers or numbers of steps.\nPass the same for every width.")
    if bool((labels <= 0).any()):
        raise InputError(f"expected widths above 0, got {plain(float(labels.min()))}.\nLabel each network by its width.")
    activation, change = (_table(name, results) for name in ("activation", "change"))
    (p, p_error), (q, q_error) = _exponents(labels, activation), _exponents(labels, change)
    blank = torch.full_like(found[0].codes, int(Status.DIVERGED))
    return WidthScaling(
        codes=torch.stack([blank if result is None else result.codes for result in results]),
        labels=labels,
        layers=found[0].layers,
        activation=activation,
        change=change,
        activation_exponent=p,
        activation_exponent_stderr=p_error,
        change_exponent=q,
        change_exponent_stderr=q_error,
        steps=found[0].steps,
        optimizer=found[0].optimizer,
        settings=found[0].settings,
    )


def _table(name: str, results: Sequence[CoordinateSizes | None]) -> Tensor:
    """A size at each layer, (layer, width, *batch); NaN without a result."""
    found = next(result for result in results if result is not None)
    blank = torch.full((len(found.layers), *found.batch), torch.nan, dtype=torch.float64)
    if any(result is not None and result.batch != found.batch for result in results):
        raise InputError("the widths have different numbers of networks.\nPass as many of each width.")
    return torch.stack([blank if result is None else getattr(result, name) for result in results], dim=1)


def _exponents(labels: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The slopes of ln size over ln width, (layer), with their standard errors. See Note [Exponent of a width]."""
    logs = np.where((sizes > 0) & sizes.isfinite(), sizes, np.nan)
    logs = np.log(logs).reshape(*sizes.shape[:2], -1)
    fits = [_slope(np.log(labels.numpy()), rows) for rows in logs]
    return torch.tensor([slope for slope, _ in fits]).double(), torch.tensor([error for _, error in fits]).double()


def _slope(x: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """The slope of rows (width, network) over x, and its standard error."""
    from scipy.special import stdtrit

    counts = (~np.isnan(rows)).sum(1)
    x, rows, counts = x[counts > 0], rows[counts > 0], counts[counts > 0]
    if len(x) < 2:
        return np.nan, np.nan
    means, centred = np.nanmean(rows, 1), x - x.mean()
    spread = (centred**2).sum()
    slope = centred @ means / spread
    freedom = len(x) - 2
    off = means - means.mean() - slope * centred
    line = off @ off / (freedom * spread) if freedom else 0.0
    if (counts > 1).all():
        of_networks = centred**2 @ (np.nanvar(rows, 1, ddof=1) / counts) / spread**2
        return float(slope), float(np.sqrt(max(of_networks, line)))
    return float(slope), float(np.sqrt(line) * stdtrit(freedom, 0.975) / 2) if freedom else np.nan


def _word(sizes: Tensor, exponent: Tensor, stderr: Tensor) -> str:
    """What the sizes of a layer do as the width grows."""
    finite = sizes[sizes.isfinite()]
    if len(finite) and not finite.any():
        return "zero"
    low, high = (float(exponent + side * 2 * stderr) for side in (-1, 1))  # NaN without an error bar, so "undecided"
    if low > HALF_WAY or high < -HALF_WAY:
        return "grows" if low > 0 else "shrinks"
    return "stable" if low > -HALF_WAY and high < HALF_WAY else "undecided"


_VERBS = {  # of activations, and of a change
    "stable": ("are stable", "is stable"),
    "grows": ("grow", "grows"),
    "shrinks": ("shrink", "shrinks"),
    "undecided": ("are undecided", "is undecided"),
    "zero": ("are 0 at every width", "is 0 at every width"),
}
