"""What a profile in depth found, and the same in words."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from separatrix.core.result import Result, Status
from separatrix.core.wording import counted, plain

FACTOR = 10  # of growth over the whole depth, beyond which a network is said to explode, or to vanish
NEAR = 2  # within which it is near-isometric


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DepthProfile(Result):
    r"""How far a change of the input reaches in depth: J_l = ∂y_l/∂x at each layer l, and the gradient that comes back to it.

    Args:
        layers: names, in the order in which they run; a further call of the same module is "name:2".
        kinds: the class of each.
        widths: (layer), d_l, numbers in each layer's output.
        cut: (layer), whether the whole signal passes through this layer.
        depth: (layer), how many such layers there are in the network up to this one, itself included.
        singular_values: (layer, *batch, k), σ_i(J_l), descending; NaN where a layer is too narrow to have so many.
        residual: (layer, *batch, k), ‖J v_i − σ_i u_i‖/σ_1: a true singular value lies within residual · σ_1. 0: whole Jacobian.
        gain: (layer, *batch), ‖J_l‖_F/√d_l from random tangents: the r.m.s. change of its numbers under a random change of all
            inputs, relative to theirs.
        gain_stderr: (layer, *batch), its standard error; 0 where the whole Jacobian was taken.
        gradient: (layer, *batch), ‖∂loss/∂y_l‖.
        exponents: (layer, *batch, k), ln σ_i / depth, on the layers through which the whole signal passes; else NaN.
        layer_codes: (layer, *batch), `Status` of each layer.
        dim: d_0, numbers in one input.
        model: class of the network.
        loss: what the gradient is of, in words.
    """

    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    widths: Tensor
    cut: Tensor
    depth: Tensor
    singular_values: Tensor
    residual: Tensor
    gain: Tensor
    gain_stderr: Tensor
    gradient: Tensor
    exponents: Tensor
    layer_codes: Tensor
    dim: int
    model: str
    loss: str

    drawn_by: ClassVar[str] = "separatrix.plot.depth:depth_figure"
    layout: ClassVar[dict[str, str]] = {
        "widths": "layer",
        "cut": "layer",
        "depth": "layer",
        "singular_values": "layer batch k",
        "residual": "layer batch k",
        "gain": "layer batch",
        "gain_stderr": "layer batch",
        "gradient": "layer batch",
        "exponents": "layer batch k",
        "layer_codes": "layer batch",
    }
    units: ClassVar[dict[str, str]] = {
        "singular_values": "change of the layer per change of the input",
        "residual": "of the largest singular value",
        "gain": "r.m.s. change of a number of the layer per change of a number of the input",
        "gain_stderr": "as gain",
        "gradient": "loss per unit of the layer",
        "exponents": "nats per layer through which the whole signal passes",
    }

    @property
    def largest(self) -> Tensor:
        """σ_1 on the scale of `gain`, σ_1 √(min(d_0, d_l)/d_l), shape (layer, *batch): the most sensitive direction."""
        widths = self.widths.to(self.gain).reshape(-1, *[1] * len(self.batch))
        return self.singular_values[..., 0] * (widths.clamp(max=self.dim) / widths).sqrt()

    @property
    def last(self) -> int:
        """Index of the last layer through which the whole signal passes; of the last layer at all where there is none."""
        whole = self.cut.nonzero()[:, 0]
        return int(whole[-1]) if len(whole) else len(self.layers) - 1

    @property
    def verdicts(self) -> Any:
        """A word for each input: a string, or an array of them.

        By the gain at the last layer through which the whole signal passes: "vanishing" below 1/10, "contracting" below 1/2,
        "near-isometric" up to 2, "expanding" up to 10, "exploding" above; "uneven" where the gain is none of the extremes but
        the most sensitive direction grows more than tenfold; "unknown" where it diverged.
        """
        gain, largest = self.gain[self.last], self.largest[self.last]
        words = np.full(self.batch, "near-isometric", dtype="<U14")
        words[(gain > NEAR).cpu().numpy()] = "expanding"
        words[(gain < 1 / NEAR).cpu().numpy()] = "contracting"
        words[(largest > FACTOR).cpu().numpy()] = "uneven"
        words[(gain > FACTOR).cpu().numpy()] = "exploding"
        words[(gain < 1 / FACTOR).cpu().numpy()] = "vanishing"
        words[(gain.isnan() | (self.codes == Status.DIVERGED)).cpu().numpy()] = "unknown"
        return str(words) if words.ndim == 0 else words

    @property
    def verdict(self) -> str:
        """The word that most inputs have."""
        words, counts = np.unique(np.asarray(self.verdicts), return_counts=True)
        return str(words[counts.argmax()])

    @property
    def changed(self) -> str:
        """That the gradients are not those of what the network does, which its author changed; empty where they are."""
        return str(self.settings.get("changed", ""))

    def summary(self) -> str:
        """The verdict with its numbers, the gradient, and how sure they are."""
        count = self.codes.numel()
        whole = int(self.cut.sum())
        given, layers = f"{counted(count, 'input')} of {counted(self.dim, 'number')}", counted(len(self.layers), "layer")
        told = [
            f"unsure: {self.changed}" if self.changed else "",
            f"{self.model} in depth: {given}, {layers}, {whole} of which carry the whole signal",
            self._growth(),
            self._gradients(),
            self._certainty(),
        ]
        return "\n".join(line for line in told if line)

    def _growth(self) -> str:
        known = (self.codes != Status.DIVERGED).reshape(-1)
        if not known.any():
            return "unknown: every input diverged"
        gain = self.gain[self.last].reshape(-1)[known]
        largest = float(self.largest[self.last].reshape(-1)[known].median())
        share = f" for {int((np.asarray(self.verdicts) == self.verdict).sum())} of {self.codes.numel()} inputs"
        typical, steps = float(gain.median()), max(int(self.depth[self.last]), 1)
        rate = plain(math.log(typical) / steps) if typical > 0 else "−∞"
        where = "" if self.verdict not in ("vanishing", "exploding") else self._where()
        return (
            f"{self.verdict}{'' if self.codes.numel() == 1 else share}: a random change of the input is {plain(typical)} times as "
            f"large, number for number, at '{self.layers[self.last]}' ({_range(gain)}; {rate} nats per layer that carries the "
            f"whole signal), the most sensitive one {plain(largest)} times{where}"
        )

    def _where(self) -> str:
        """The first layer with the whole signal from which the median gain stays beyond the border."""
        median = self.gain.reshape(len(self.layers), -1).nanmedian(-1).values
        beyond = median < 1 / FACTOR if self.verdict == "vanishing" else median > FACTOR
        index = [i for i in range(len(self.layers)) if bool(self.cut[i])]
        first = next((i for i, j in enumerate(index) if bool(beyond[index[i:]].all())), None)
        return "" if first is None else f"; beyond a factor of {FACTOR} from '{self.layers[index[first]]}' on"

    def _gradients(self) -> str:
        median = self.gradient.reshape(len(self.layers), -1).nanmedian(-1).values
        first = int(self.cut.nonzero()[0]) if self.cut.any() else 0
        sizes = f"{plain(float(median[first]))} at '{self.layers[first]}', {plain(float(median[-1]))} at '{self.layers[-1]}'"
        return f"gradient of {self.loss}: {sizes}"

    def _certainty(self) -> str:
        lost = int((self.codes == Status.DIVERGED).sum())
        told = [f"{lost} of {self.codes.numel()} inputs diverged"] if lost else []
        if self.settings.get("method") == "whole Jacobian":
            return "; ".join(["singular values of the whole Jacobian", *told])
        worst = self.residual.nan_to_num(0.0).max()
        open_ends = int((self.layer_codes == Status.NOT_CONVERGED).sum())
        told += [f"{open_ends} of {self.layer_codes.numel()} spectra not converged"] if open_ends else []
        return "; ".join([f"singular values with residuals up to {plain(float(worst))} of the largest", *told])


def _range(values: Tensor) -> str:
    if len(values) == 1:
        return "one input"
    return f"{plain(float(values.min()))} … {plain(float(values.max()))} over the inputs"
