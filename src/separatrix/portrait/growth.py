"""What a profile says of the whole depth, and what that means in words."""

import math
from dataclasses import dataclass

from torch import Tensor

from separatrix.analysis.depth.result import FACTOR, DepthProfile
from separatrix.core.wording import counted, plain


@dataclass(frozen=True)
class Growth:
    """How changes and gradients come through the whole depth of a network, input by input.

    Args:
        profile: of each layer. The layers meant here are those through which the whole signal passes.
    """

    profile: DepthProfile

    @property
    def whole(self) -> list[int]:
        """Indices of these layers; of all layers where there are none."""
        found = self.profile.cut.nonzero()[:, 0].tolist()
        return found or list(range(len(self.profile.layers)))

    @property
    def depth(self) -> int:
        """How many of them there are in the network up to the last one measured."""
        return max(int(self.profile.depth[self.whole[-1]]), 1)

    @property
    def gain(self) -> Tensor:
        """How large a random change of the input is at the last of them, number for number, shape (input); NaN: diverged."""
        return self.profile.gain[self.whole[-1]].reshape(-1)

    @property
    def largest(self) -> Tensor:
        """The same of the most sensitive change, shape (input)."""
        return self.profile.largest[self.whole[-1]].reshape(-1)

    @property
    def rate(self) -> Tensor:
        """ln gain over the depth, nats per layer, shape (input)."""
        return self.gain.log() / self.depth

    @property
    def returned(self) -> Tensor:
        """The gradient's norm at the first of them over that at the last, shape (input)."""
        first, last = (self.profile.gradient[i].reshape(-1) for i in (self.whole[0], self.whole[-1]))
        return first / last

    @property
    def beyond(self) -> str | None:
        """The layer from which on the median gain stays outside of 1/10 … 10; None where it ends inside."""
        gains = [median(self.profile.gain[i]) for i in self.whole]
        inside = [place for place, gain in enumerate(gains) if not (gain < 1 / FACTOR or gain > FACTOR)]
        after = inside[-1] + 1 if inside else 0
        return self.profile.layers[self.whole[after]] if after < len(self.whole) else None


def median(values: Tensor) -> float:
    """Over the inputs that did not diverge; NaN where all did."""
    return float(values.nanmedian())


def about(value: float) -> str:
    """A factor to two digits: 3, 0.17, 8.5 × 10⁻¹⁸."""
    return plain(float(f"{value:.2g}"))


def verdict(growth: Growth) -> str:
    """One sentence: the word, what becomes of a change of the input, and what of a gradient."""
    word = growth.profile.verdict
    if math.isnan(median(growth.gain)):
        return f"{word}: every input leaves the finite numbers, so there is no growth to measure"
    through = f"across {counted(growth.depth, 'layer')}"
    sensitive = f", but the most sensitive one {about(median(growth.largest))} times" if word == "uneven" else ""
    back = f"a gradient arrives at the first layer {about(median(growth.returned))} times as large as it leaves the last"
    return f"{word}: {through} a random change of the input becomes {about(median(growth.gain))} times as large{sensitive}; {back}"


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
    factor = "" if erased else f" to first order, each of the {growth.depth} layers by the factor {about(math.exp(-rate))};"
    lost = "Everything is erased" if erased else f"The signal fades e-fold every {about(-1 / rate)} layers"
    where = f" and is below a tenth from '{growth.beyond}' on" if growth.beyond else ""
    return (
        f"{lost}{where}: the layers before it learn from gradients as faint, and the output hardly depends on the input.",
        "Lead the signal around each block, x + f(x), or normalise between blocks (LayerNorm, BatchNorm).",
        f"Or begin with larger weights:{factor} variance 2/fan-in keeps the size through a ReLU, 1/fan-in through a linear layer.",
    )


def _if_exploding(growth: Growth) -> tuple[str, ...]:
    rate = median(growth.rate)
    where = f", beyond a factor of {FACTOR} from '{growth.beyond}' on" if growth.beyond else ""
    return (
        f"The signal grows e-fold every {about(1 / rate)} layers{where}: small changes of the input, and rounding, are amplified.",
        f"Normalise between blocks, or shrink the weights: to first order, each of the {growth.depth} layers by the factor "
        f"{about(math.exp(-rate))}; of a residual block x + f(x), f by about 1/√depth.",
        "While it trains, clip the gradients. If only the last layer is beyond, it is the scale of the answers: train with label "
        "smoothing or weight decay if that is too sure of itself.",
    )


def _if_uneven(growth: Growth) -> tuple[str, ...]:
    return (
        f"A typical change keeps its size, but the most sensitive one grows {about(median(growth.largest))} times: an input can be "
        "changed a little so that the output changes much.",
        "If that matters, bound each layer (spectral normalisation) or train with weight decay or noise on the inputs.",
    )


def _if_mild(growth: Growth) -> tuple[str, ...]:
    return (
        f"Nothing has to change at this depth: signals and gradients come through within a factor of {FACTOR}.",
        f"Twice as deep, the same {about(median(growth.rate))} nats per layer would make it a factor of "
        f"{about(math.exp(2 * growth.depth * median(growth.rate)))}.",
    )


def _if_near_isometric(growth: Growth) -> tuple[str, ...]:
    return ("Nothing has to change in depth: signals and gradients come through at about their size.",)


def _if_unknown(growth: Growth) -> tuple[str, ...]:
    return ("Lower the weights, or scale the inputs: the signal must stay finite before anything else is measured.",)
