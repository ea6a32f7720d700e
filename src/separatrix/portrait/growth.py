"""Growth over the whole depth of a network, its verdict in words, and advice."""

import math
from dataclasses import dataclass
from itertools import pairwise

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
    def normalises(self) -> bool:
        """Whether the network has a normalisation layer that is not fresh."""
        return any("Norm" in kind for kind in self.profile.kinds) and not self.profile.fresh

    @property
    def bypasses(self) -> bool:
        """Whether the signal can bypass a layer with weights, as in a residual block."""
        weights = self.profile.has_weights
        return weights is not None and bool((weights.bool() & ~self.profile.cut.bool()).any())

    @property
    def weighted(self) -> int:
        """Number of layers with weights of their own through which the whole signal passes."""
        weights = self.profile.has_weights
        return 0 if weights is None else int((weights.bool() & self.profile.cut.bool()).sum())

    @property
    def worst(self) -> tuple[str, float] | None:
        """The layer with the largest factor in the direction of the whole, if it is e times the typical one; and that factor."""
        gains = [1.0, *(median(self.profile.gain[i]) for i in self.whole)]
        if len(gains) < 3 or not all(gain > 0 and math.isfinite(gain) for gain in gains):
            return None
        steps = [math.log(after / before) for before, after in pairwise(gains)]
        place = (min if gains[-1] < 1 else max)(range(len(steps)), key=lambda i: steps[i])
        typical = sorted(steps)[len(steps) // 2]
        return (self.profile.layers[self.whole[place]], math.exp(steps[place])) if abs(steps[place] - typical) > 1 else None

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
    decay = "The signal is erased completely" if rate == -math.inf else f"The signal decays e-fold every {about(-1 / rate)} layers"
    scaled = "" if rate == -math.inf else _scaled(growth)
    right = "A variance of 2/fan-in preserves the signal's size through a ReLU layer, 1/fan-in through a linear one."
    return (
        f"{decay}{_from_where(growth, 'stays below one tenth')}: earlier layers receive equally small gradients, and the output "
        "hardly depends on the input.",
        *_worst(growth, "loss"),
        *_wiring(growth),
        *([f"{scaled} {right}"] if scaled else []),
    )


def _if_exploding(growth: Growth) -> tuple[str, ...]:
    rate, scaled = median(growth.rate), _scaled(growth)
    return (
        f"The signal grows e-fold every {about(1 / rate)} layers{_from_where(growth, f'stays beyond a factor of {FACTOR}')}: small "
        "input changes and rounding errors are amplified.",
        *_worst(growth, "growth"),
        *([] if growth.normalises else ["Normalise between blocks (LayerNorm, BatchNorm)."]),
        *([scaled] if scaled else []),
        *(["In a residual block x + f(x), scale f by about 1/√depth."] if growth.bypasses else []),
        f"During training, clip the gradients. If only the last layer exceeds a factor of {FACTOR}, the cause is the scale of the "
        "outputs: if the network is overconfident, train with label smoothing or weight decay.",
    )


def _from_where(growth: Growth, stays: str) -> str:
    """From which layer on the signal is lost; that only the last one loses it is no such layer."""
    if growth.beyond is None:
        return ""
    is_last = growth.beyond == growth.profile.layers[growth.whole[-1]]
    return f", most of all at the last, '{growth.beyond}'" if is_last else f" and {stays} from '{growth.beyond}' on"


def _worst(growth: Growth, what: str) -> tuple[str, ...]:
    """The layer with the largest share, if it stands out."""
    if (found := growth.worst) is None:
        return ()
    name, factor = found
    return (f"The largest {what} in one step is at '{name}', by a factor of {about(factor)}: begin there.",)


def _wiring(growth: Growth) -> tuple[str, ...]:
    """Connections and layers that keep a signal, as far as the network has none yet."""
    skip = "add skip connections around the blocks, x + f(x)"
    normalise = "normalise between blocks (LayerNorm, BatchNorm)"
    missing = ([] if growth.bypasses else [skip]) + ([] if growth.normalises else [normalise])
    text = ", or ".join(missing)
    return (f"{text[:1].upper()}{text[1:]}.",) if missing else ()


def _scaled(growth: Growth) -> str:
    """By how much to scale the weights along the signal; empty where that says nothing: behind a normalisation, within blocks."""
    count = growth.weighted
    if growth.normalises or not count:
        return ""
    factor = about(math.exp(-math.log(median(growth.gain)) / count))
    if count == 1:
        return f"To first order, scale the weights of the one layer that has some by {factor}."
    return f"To first order, scale the weights of each of the {count} layers that have some by {factor}."


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
