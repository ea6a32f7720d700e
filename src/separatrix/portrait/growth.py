"""Growth over the whole depth of a network, its verdict in words, and advice."""

import math
from dataclasses import dataclass

from torch import Tensor

from separatrix.analysis.depth.result import FACTOR, DepthProfile
from separatrix.core.wording import counted, plain


@dataclass(frozen=True)
class Growth:
    """Growth of changes and gradients over the whole depth of a network, per input.

    It is measured along the layers through which the whole signal passes.

    Args:
        profile: the growth at each layer.
    """

    profile: DepthProfile

    @property
    def whole(self) -> list[int]:
        """Indices of the layers through which the whole signal passes; of all layers if there are none."""
        found = self.profile.cut.nonzero()[:, 0].tolist()
        return found or list(range(len(self.profile.layers)))

    @property
    def depth(self) -> int:
        """Number of such layers in the network up to the last one measured."""
        return max(int(self.profile.depth[self.whole[-1]]), 1)

    @property
    def gain(self) -> Tensor:
        """R.m.s. size per component, at the last of them, of a random unit change of the input, shape (input); NaN: diverged."""
        return self.profile.gain[self.whole[-1]].reshape(-1)

    @property
    def largest(self) -> Tensor:
        """The same for the most sensitive change, shape (input)."""
        return self.profile.largest[self.whole[-1]].reshape(-1)

    @property
    def rate(self) -> Tensor:
        """ln(gain)/depth, nats per layer, shape (input)."""
        return self.gain.log() / self.depth

    @property
    def returned(self) -> Tensor:
        """Norm of the gradient at the first of them divided by that at the last, shape (input)."""
        first, last = (self.profile.gradient[i].reshape(-1) for i in (self.whole[0], self.whole[-1]))
        return first / last

    @property
    def beyond(self) -> str | None:
        """The layer from which the median gain stays outside 1/10 … 10; None if it ends inside."""
        gains = [median(self.profile.gain[i]) for i in self.whole]
        inside = [place for place, gain in enumerate(gains) if not (gain < 1 / FACTOR or gain > FACTOR)]
        after = inside[-1] + 1 if inside else 0
        return self.profile.layers[self.whole[after]] if after < len(self.whole) else None


def median(values: Tensor) -> float:
    """The median over the inputs that did not diverge; NaN if all did."""
    return float(values.nanmedian())


def about(value: float) -> str:
    """A factor to two digits: 3, 0.17, 8.5 × 10⁻¹⁸."""
    return plain(float(f"{value:.2g}"))


def verdict(growth: Growth) -> str:
    """One sentence: the word, the growth of a change of the input, and the growth of a gradient."""
    word = growth.profile.verdict
    if math.isnan(median(growth.gain)):
        return f"{word}: every input makes the signal infinite or NaN, so there is no growth to measure"
    through = f"across {counted(growth.depth, 'layer')}"
    sensitive = f", but the most sensitive one by {about(median(growth.largest))}" if word == "uneven" else ""
    back = f"the gradient at the first layer is {about(median(growth.returned))} times that at the last"
    return f"{word}: {through}, a random change of the input is multiplied by {about(median(growth.gain))}{sensitive}; {back}"


def advice(growth: Growth) -> tuple[str, ...]:
    """What to change, with numbers."""
    return {
        "vanishing": _if_vanishing,
        "contracting": _if_mild,
        "near-isometric": _if_near_isometric,
        "expanding": _if_mild,
        "exploding": _if_exploding,
        "uneven": _if_uneven,
    }.get(growth.profile.verdict, _if_unknown)(growth)


def _if_vanishing(growth: Growth) -> tuple[str, ...]:
    rate = median(growth.rate)
    erased = rate == -math.inf
    factor = "" if erased else f" to first order, {_scaled(growth, rate)};"
    decay = "The signal is erased completely" if erased else f"The signal decays e-fold every {about(-1 / rate)} layers"
    where = f" and stays below one tenth from '{growth.beyond}' on" if growth.beyond else ""
    return (
        f"{decay}{where}: earlier layers receive equally small gradients, and the output hardly depends on the input.",
        "Add skip connections around the blocks, x + f(x), or normalise between blocks (LayerNorm, BatchNorm).",
        f"Or start from larger weights:{factor} a variance of 2/fan-in preserves the signal's size through a ReLU layer, 1/fan-in "
        "through a linear one.",
    )


def _scaled(growth: Growth, rate: float) -> str:
    """By how much to scale the weights; activations count as layers but have none."""
    factor = math.exp(-rate)
    return (
        f"scale each layer's weights by {about(factor)} if all {growth.depth} layers have weights, or by {about(factor * factor)} "
        "if every second one is an activation"
    )


def _if_exploding(growth: Growth) -> tuple[str, ...]:
    rate = median(growth.rate)
    where = f" and stays beyond a factor of {FACTOR} from '{growth.beyond}' on" if growth.beyond else ""
    return (
        f"The signal grows e-fold every {about(1 / rate)} layers{where}: small input changes and rounding errors are amplified.",
        f"Normalise between blocks, or scale the weights down: to first order, {_scaled(growth, rate)}; in a residual block "
        "x + f(x), scale f by about 1/√depth.",
        f"During training, clip the gradients. If only the last layer exceeds a factor of {FACTOR}, the cause is the scale of the "
        "outputs: if the network is overconfident, train with label smoothing or weight decay.",
    )


def _if_uneven(growth: Growth) -> tuple[str, ...]:
    return (
        "A typical change of the input keeps its size to within a factor of "
        f"{FACTOR}, but the most sensitive one is multiplied by {about(median(growth.largest))}: some small changes of the input "
        "change the output strongly.",
        "If that matters, bound the norm of each layer (spectral normalisation), or train with weight decay or noisy inputs.",
    )


def _if_mild(growth: Growth) -> tuple[str, ...]:
    return (
        f"No change is needed at this depth: signals and gradients keep their size to within a factor of {FACTOR}.",
        f"At twice the depth, the same {about(median(growth.rate))} nats per layer would give a factor of "
        f"{about(math.exp(2 * growth.depth * median(growth.rate)))}.",
    )


def _if_near_isometric(growth: Growth) -> tuple[str, ...]:
    return ("No change is needed: signals and gradients roughly keep their size across the layers.",)


def _if_unknown(growth: Growth) -> tuple[str, ...]:
    return ("Reduce the weights, or rescale the inputs: the signal must stay finite before it can be measured further.",)
