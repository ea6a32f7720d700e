"""The result of a depth profile."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from separatrix.core.result import Result, Status
from separatrix.core.wording import counted, plain

FACTOR = 10  # growth over the whole depth beyond which a network is exploding or vanishing
NEAR = 2  # growth within which it is near-isometric
MUCH = 0.1  # share of a gradient that is lost in float16 from which on it is reported


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DepthProfile(Result):
    r"""Growth of perturbations and gradients with depth:  J_l = ∂y_l/∂x  and  ∂loss/∂y_l  at each layer l.

    Args:
        layers: names, in the order in which they run; "name:2" is the second call of the same module.
        kinds: class of each layer.
        widths: (layer), d_l, size of each layer's output.
        cut: (layer), whether the whole signal passes through this layer.
        depth: (layer), number of such layers in the network up to and including this one.
        gain: (layer, *batch), ‖J_l‖_F/√d_l: r.m.s. change of a component of y_l over that of x, for a random change of x.
        gain_stderr: (layer, *batch), its standard error; 0 if the whole Jacobian was computed.
        gradient: (layer, *batch), ‖∂loss/∂y_l‖.
        layer_codes: (layer, *batch), `Status` of each layer.
        activation: (layer, *batch), ‖y_l‖/√d_l: root mean square of the output.
        peak: (layer, *batch), largest magnitude in the output.
        underflow: (layer, *batch), share of the components of ∂loss/∂y_l that float16 rounds to 0.
        parameter_gradient: (layer, *batch), ‖∂loss/∂θ_l‖ over the parameters of the layer, with those of the layers in it, for
            each input alone; NaN for a layer without parameters.
        unit_count: (layer), number of units: channels after a convolution, otherwise features.
        dead_units: (layer), number of units whose output is 0 for all inputs, at all positions.
        has_weights: (layer), whether the layer itself has a weight matrix or a convolution kernel.
        singular_values: (layer, *batch, k), σ_i(J_l), descending; NaN beyond the number of singular values of a narrow layer.
            None if they were not asked for.
        residual: (layer, *batch, k), ‖Jᵀ u_i − σ_i v_i‖/σ_1 with J v_i = σ_i u_i; a true singular value lies within
            residual · σ_1 of σ_i. 0 if the whole Jacobian was computed. None with `singular_values`.
        exponents: (layer, *batch, k), ln σ_i / depth at layers through which the whole signal passes; NaN at the others. None
            with `singular_values`.
        dim: d_0, size of one input.
        model: class of the network.
        loss: description of the loss.
        ended: why the measurements ended early; empty if they did not. Inputs that were not reached are then missing.
        left_out: the layers at which singular values were not computed for that reason, for some inputs.
    """

    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    widths: Tensor
    cut: Tensor
    depth: Tensor
    gain: Tensor
    gain_stderr: Tensor
    gradient: Tensor
    layer_codes: Tensor
    dim: int
    model: str
    loss: str
    activation: Tensor | None = None
    peak: Tensor | None = None
    underflow: Tensor | None = None
    parameter_gradient: Tensor | None = None
    unit_count: Tensor | None = None
    dead_units: Tensor | None = None
    has_weights: Tensor | None = None
    singular_values: Tensor | None = None
    residual: Tensor | None = None
    exponents: Tensor | None = None
    ended: str = ""
    left_out: tuple[str, ...] = ()

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
        "activation": "layer batch",
        "peak": "layer batch",
        "underflow": "layer batch",
        "parameter_gradient": "layer batch",
        "unit_count": "layer",
        "dead_units": "layer",
        "has_weights": "layer",
    }
    units: ClassVar[dict[str, str]] = {
        "singular_values": "change of the layer per change of the input",
        "residual": "of the largest singular value",
        "gain": "r.m.s. change of a number of the layer per change of a number of the input",
        "gain_stderr": "as gain",
        "gradient": "loss per unit of the layer",
        "underflow": "share of the numbers",
        "parameter_gradient": "loss per unit of the parameters",
        "exponents": "nats per layer through which the whole signal passes",
    }

    @property
    def largest(self) -> Tensor:
        """σ_1 √(min(d_0, d_l)/d_l), shape (layer, *batch): growth of the most sensitive direction, on the scale of `gain`.

        NaN if the singular values were not asked for.
        """
        if self.singular_values is None:
            return torch.full_like(self.gain, math.nan)
        widths = self.widths.to(self.gain).reshape(-1, *[1] * len(self.batch))
        return self.singular_values[..., 0] * (widths.clamp(max=self.dim) / widths).sqrt()

    @property
    def last(self) -> int:
        """Index of the last layer through which the whole signal passes, or of the last layer if there is none."""
        cuts = self.cut.nonzero()[:, 0]
        return int(cuts[-1]) if len(cuts) else len(self.layers) - 1

    @property
    def verdicts(self) -> Any:
        """The verdict on each input, one word: a string, or an array of strings of shape (*batch).

        It follows from the gain at the last layer through which the whole signal passes: "vanishing" below 1/10, "contracting"
        below 1/2, "near-isometric" up to 2, "expanding" up to 10, "exploding" above. "uneven" means a gain between 1/10 and 10
        while the most sensitive direction grows more than tenfold, "unknown" that the input diverged.
        "uneven" needs singular values.
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
        """The most frequent of `verdicts`."""
        words, counts = np.unique(np.asarray(self.verdicts), return_counts=True)
        return str(words[counts.argmax()])

    @property
    def changed(self) -> str:
        """A warning if the model's gradients are not the derivatives of its outputs; otherwise empty."""
        return str(self.settings.get("changed", ""))

    @property
    def fresh(self) -> str:
        """A warning if normalisation layers still have the statistics that they are created with; otherwise empty."""
        return str(self.settings.get("fresh", ""))

    @property
    def missing(self) -> str:
        """What was not measured because of an early end, in words; empty if it did not end early."""
        if not self.ended:
            return ""
        measured, asked = self.codes.numel(), int(self.settings.get("inputs", self.codes.numel()))
        open_ends = int((self.layer_codes == Status.NOT_CONVERGED).reshape(len(self.layers), -1).any(-1).sum())
        said = [f"{asked - measured} of {counted(asked, 'input')}"] if measured < asked else []
        said += [f"singular values at {len(self.left_out)} of {counted(len(self.layers), 'layer')}"] if self.left_out else []
        return " and ".join(said) or f"the convergence of singular values at {counted(open_ends, 'layer')}"

    @property
    def worst_residual(self) -> float:
        """The largest residual of all singular values; 0 if there are none."""
        return 0.0 if self.residual is None else float(self.residual.nan_to_num(0.0).max())

    def margin(self, dtype: torch.dtype = torch.float16) -> Tensor:
        """The largest number of a dtype over the largest of each layer's output, (layer, *batch): below 1, the layer overflows.

        Args:
            dtype: torch.float16, whose largest number is 65,504, or torch.bfloat16, which reaches as far as float32.
        """
        return torch.finfo(dtype).max / self.peak

    def summary(self) -> str:
        """The verdict with its numbers, the gradients, what is dead or overflows, and the accuracy."""
        cuts = int(self.cut.sum())
        inputs, layers = counted(self.codes.numel(), "input"), counted(len(self.layers), "layer")
        lines = [
            *(f"unsure: {doubt}" for doubt in (self.changed, self.fresh) if doubt),
            *([f"not measured ({self.ended}): {self.missing}"] if self.ended else []),
            f"{self.model}: {inputs} of size {self.dim:,}, {layers}, {cuts} of which carry the whole signal",
            self._growth(),
            self._gradients(),
            self._dead(),
            self._half(),
            self._accuracy(),
        ]
        return "\n".join(line for line in lines if line)

    def _remedy(self, status: Status) -> str:
        if status is Status.DIVERGED:
            place = (self.layer_codes == status).reshape(len(self.layers), -1).any(-1).nonzero()[0]
            return f"The first layer that is not finite is {self.layers[int(place)]!r}: scale the inputs, or leave these out."
        return f"The largest residual is {self.worst_residual:.2g}, tol is {self.settings['tol']:g}: raise sweeps or tol."

    def _growth(self) -> str:
        known = (self.codes != Status.DIVERGED).reshape(-1)
        if not known.any():
            return "unknown: every input diverged"
        gain = self.gain[self.last].reshape(-1)[known]
        largest = float(self.largest[self.last].reshape(-1)[known].median())
        sensitive = "" if math.isnan(largest) else f", the most sensitive change by {plain(largest)}"
        share = f" for {int((np.asarray(self.verdicts) == self.verdict).sum())} of {self.codes.numel()} inputs"
        typical, steps = float(gain.median()), max(int(self.depth[self.last]), 1)
        rate = plain(math.log(typical) / steps) if typical > 0 else "−∞"
        where = "" if self.verdict not in ("vanishing", "exploding") else self._where()
        return (
            f"{self.verdict}{'' if self.codes.numel() == 1 else share}: at '{self.layers[self.last]}' a random change of the input "
            f"is multiplied by {plain(typical)} ({_range(gain)}; {rate} nats per layer that carries the whole signal)"
            f"{sensitive}{where}"
        )

    def _where(self) -> str:
        """The first layer with the whole signal from which on the median gain stays beyond `FACTOR`."""
        median = self.gain.reshape(len(self.layers), -1).nanmedian(-1).values
        beyond = median < 1 / FACTOR if self.verdict == "vanishing" else median > FACTOR
        index = [i for i in range(len(self.layers)) if bool(self.cut[i])]
        first = next((i for i, j in enumerate(index) if bool(beyond[index[i:]].all())), None)
        if first is None:
            return ""
        name = self.layers[index[first]]
        return f"; by more than a factor of {FACTOR} " + (f"only at '{name}'" if first == len(index) - 1 else f"from '{name}' on")

    def _gradients(self) -> str:
        median = self.gradient.reshape(len(self.layers), -1).nanmedian(-1).values
        first = int(self.cut.nonzero()[0]) if self.cut.any() else 0
        sizes = f"{plain(float(median[first]))} at '{self.layers[first]}', {plain(float(median[-1]))} at '{self.layers[-1]}'"
        return f"gradient norm of {self.loss}: {sizes}{self._of_parameters()}"

    def _of_parameters(self) -> str:
        """The smallest and the largest gradient of a layer with weights of its own, by its parameters."""
        if self.parameter_gradient is None or self.has_weights is None:
            return ""
        median = self.parameter_gradient.reshape(len(self.layers), -1).nanmedian(-1).values
        index = [i for i in self.has_weights.nonzero()[:, 0].tolist() if not median[i].isnan()]
        if len(index) < 2:
            return ""
        ends = (min(index, key=lambda i: float(median[i])), max(index, key=lambda i: float(median[i])))
        return "; of parameters: " + " … ".join(f"{plain(float(median[i]))} at '{self.layers[i]}'" for i in ends)

    def _dead(self) -> str:
        """The layer with the largest share of dead units."""
        if self.dead_units is None or self.unit_count is None or not bool(self.dead_units.any()):
            return ""
        worst = int((self.dead_units / self.unit_count).argmax())
        several = int((self.dead_units > 0).sum())
        more = f", the most of {several} layers with some" if several > 1 else ""
        share = f"{int(self.dead_units[worst]):,} of {int(self.unit_count[worst]):,}"
        return f"dead units: {share} at '{self.layers[worst]}' are 0 for all inputs{more}"

    def _half(self) -> str:
        """What float16 cannot hold."""
        if self.peak is None or self.underflow is None:
            return ""
        peak, lost = (value.reshape(len(self.layers), -1).nan_to_num(0.0).amax(-1) for value in (self.peak, self.underflow))
        found, highest, most = [], int(peak.argmax()), int(lost.argmax())
        if float(peak[highest]) > torch.finfo(torch.float16).max:
            found.append(f"float16 overflows at '{self.layers[highest]}', whose largest number is {plain(float(peak[highest]))}")
        if float(lost[most]) > MUCH:
            found.append(f"float16 rounds {float(lost[most]):.0%} of the gradient at '{self.layers[most]}' to 0")
        return "; ".join(found)

    def _accuracy(self) -> str:
        diverged = int((self.codes == Status.DIVERGED).sum())
        failures = [f"{diverged} of {self.codes.numel()} inputs diverged"] if diverged else []
        if self.settings.get("method") == "whole Jacobian":
            return "; ".join(["singular values of the whole Jacobian", *failures])
        if self.singular_values is None:
            error = float((self.gain_stderr / self.gain)[self.last].nan_to_num(0.0).max())
            return "; ".join([f"gain to ± {error:.1%}; for singular values, pass k or the names of layers", *failures])
        open_ends = int((self.layer_codes == Status.NOT_CONVERGED).sum())
        failures += [f"{open_ends} of {self.layer_codes.numel()} spectra not converged"] if open_ends else []
        return "; ".join([f"residuals of singular values up to {plain(self.worst_residual)} of the largest", *failures])


def _range(values: Tensor) -> str:
    if len(values) == 1:
        return "one input"
    return f"{plain(float(values.min()))} … {plain(float(values.max()))} over the inputs"
