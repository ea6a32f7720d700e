"""The report's view of the portrait of a feed-forward network."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor

from separatrix import plot
from separatrix.analysis.depth.result import FACTOR
from separatrix.core.result import Status
from separatrix.core.wording import counted
from separatrix.portrait.depth import DepthPortrait
from separatrix.portrait.growth import about, median
from separatrix.report.drawing import drawn
from separatrix.report.view import WIDE, Cell, Drawing, Mark, Quantity, Section, View

MARKS = {
    "vanishing": Mark("▼", "down"),
    "contracting": Mark("▽", "edge"),
    "near-isometric": Mark("◆", "edge"),
    "expanding": Mark("△", "edge"),
    "exploding": Mark("▲", "up"),
    "uneven": Mark("◈", "up"),
    "unknown": Mark("✕", "broken"),
}


def _overview(portraits: Mapping[str, DepthPortrait]) -> Figure:
    return plot.compare_depths({name: portrait.profile for name, portrait in portraits.items()}, width=WIDE)


def _sections(portraits: Mapping[str, DepthPortrait]) -> list[Section]:
    drawings = [
        Drawing(drawn(portrait.profile.plot(), f"depth{number}"), name) for number, (name, portrait) in enumerate(portraits.items())
    ]
    caption = (
        "Above: the size of a change of the input at each layer, for a random change (gain) and for the most sensitive ones "
        "(singular values); the grey band is a factor of 10 either way. Below: the gradient that reaches the layer. Filled "
        "markers: layers through which the whole signal passes; open markers: layers inside a block that the signal can bypass. "
        "Lines: median over the inputs; bands: their full range."
    )
    return [Section("layers", "Layer by layer", caption, drawings, is_wide=True), _sizes(portraits)]


def _sizes(portraits: Mapping[str, DepthPortrait]) -> Section:
    figures = {name: plot.layer_sizes_figure(portrait.profile) for name, portrait in portraits.items()}
    drawings = [Drawing(drawn(figure, f"sizes{number}"), name) for number, (name, figure) in enumerate(figures.items())]
    caption = (
        "Above: the gradient of the loss by the parameters of each layer that has weights, for each input alone. Middle: the size "
        "of the activations; what lies above the line overflows in float16. Below: units that are 0 for all inputs and at all "
        "positions, and the share of the gradient at the layer that is lost in float16, for the input that loses most. Lines: "
        "median over the inputs; bands: their full range."
    )
    return Section("sizes", "Gradients of parameters, half precision, dead units", caption, drawings, is_wide=True)


def _gain(portrait: DepthPortrait) -> Cell:
    return _over_inputs(portrait.growth.gain)


def _rate(portrait: DepthPortrait) -> Cell:
    return Cell(about(median(portrait.growth.rate)), f"over {counted(portrait.growth.depth, 'layer')}")


def _largest(portrait: DepthPortrait) -> Cell:
    if portrait.profile.singular_values is None:
        return Cell("not measured")
    return _over_inputs(portrait.growth.largest)


def _returned(portrait: DepthPortrait) -> Cell:
    return _over_inputs(portrait.growth.returned)


def _beyond(portrait: DepthPortrait) -> Cell:
    return Cell(portrait.growth.beyond or "nowhere")


def _layers(portrait: DepthPortrait) -> Cell:
    profile = portrait.profile
    return Cell(f"{int(profile.cut.sum())} of {len(profile.layers)}")


def _inputs(portrait: DepthPortrait) -> Cell:
    codes = portrait.profile.codes
    counts = [(int((codes == status).sum()), status.words) for status in Status]
    return Cell(", ".join(f"{count} {word}" for count, word in counts if count or word == "ok"))


def _over_inputs(values: Tensor) -> Cell:
    finite = values[~values.isnan()]
    if not len(finite):
        return Cell("unknown")
    spread = f"{about(float(finite.min()))} … {about(float(finite.max()))} over {counted(len(finite), 'input')}"
    return Cell(about(median(values)), spread if len(finite) > 1 else "")


DEPTH = View(
    question="Do changes and gradients survive the depth of the network, by how much do they grow, and how reliable is the answer?",
    marks=MARKS,
    overview=_overview,
    overview_note="Depth plays the role of time. Left: the r.m.s. size of a random change of the input; the grey band is a "
    f"factor of {FACTOR} either way. Right: the gradient that reaches each layer. Both follow the layers through which the whole "
    "signal passes. Lines: median over the inputs; bands: their full range.",
    quantities=(
        Quantity("Gain over the depth", "factor", "r.m.s. growth of a random change; median", _gain, is_key=True),
        Quantity("Rate", "nats per layer", "ln(gain) divided by the depth", _rate),
        Quantity("Most sensitive change", "factor", "σ₁ on the scale of the gain; median", _largest),
        Quantity("Gradient at the first layer over that at the last", "factor", "median", _returned),
        Quantity(f"Outside a factor of {FACTOR}", "", "from this layer to the end", _beyond),
        Quantity("Layers that carry the whole signal", "", "of the layers measured", _layers),
        Quantity("Inputs", "", "number by outcome", _inputs),
    ),
    sections=_sections,
    arguments=("k", "copies", "layers", "statistics", "seed"),
    record="profile",
    glossary=(
        (
            "gain ‖J‖/√d",
            "r.m.s. change per component of a layer when the input changes at random by an r.m.s. of 1 per component: from the "
            "Jacobian J = ∂(layer)/∂(input), with d components in the layer. 1: changes keep their size.",
        ),
        (
            "singular values σ₁ ≥ σ₂ ≥ …",
            "growth along the most sensitive direction of the input, the second most sensitive, and so on.",
        ),
        (
            "vanishing, contracting, near-isometric, expanding, exploding",
            "gain over the depth below 1/10, below 1/2, up to 2, up to 10, and above 10.",
        ),
        ("uneven", "a moderate gain, but a most sensitive direction that grows more than tenfold."),
        (
            "carries the whole signal",
            "everything that reaches the output passes through this layer; in a residual network, the sums after the blocks.",
        ),
        ("nat", "unit of a natural logarithm: a growth of 1 nat is a growth by the factor e ≈ 2.72."),
        ("e-fold", "by the factor e; at 0.1 nats per layer a change grows e-fold every 10 layers."),
        ("not converged", "some singular values of this input did not reach the tolerance; its gain and gradients are valid."),
    ),
)
