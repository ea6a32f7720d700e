"""The portrait of a network without a recurrent part, in which depth plays the role of time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from separatrix.analysis.depth.item_axes import ItemAxes, one_call
from separatrix.analysis.depth.profile import depth_profile
from separatrix.analysis.depth.result import DepthProfile
from separatrix.core.arguments import Arguments
from separatrix.core.checks import as_numbers
from separatrix.core.ending import ending
from separatrix.core.errors import ShapeError
from separatrix.core.randomness import torch_generator
from separatrix.core.result import Status
from separatrix.core.twin import twin
from separatrix.core.wording import counted, plain
from separatrix.portrait.growth import Growth, advice, median, verdict
from separatrix.portrait.portrait import Portrait

GIVEN = "given"  # in the settings, for arguments that are too large to repeat there


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DepthPortrait(Portrait):
    """Portrait of a feed-forward network: whether changes and gradients survive its depth, with the evidence.

    Args:
        profile: the growth of changes and gradients at each layer, per input.
    """

    profile: DepthProfile
    drawn_by: ClassVar[str] = "separatrix.plot.depth_portrait:depth_portrait_figure"

    @property
    def side(self) -> str:
        """The profile's word: "vanishing", "contracting", "near-isometric", "expanding", "exploding", "uneven" or "unknown"."""
        return self.profile.verdict

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of the arguments that `analyze` received."""
        return ("model", "inputs", *(name for name in ("targets", "loss") if self.settings.get(name) == GIVEN))

    @property
    def left_out(self) -> tuple[str, ...]:
        """The layers without singular values, if the measurements ended early."""
        return self.profile.left_out

    @property
    def growth(self) -> Growth:
        """Growth over the whole depth."""
        return Growth(self.profile)

    def headline(self) -> dict[str, Any]:
        """The growth over the whole depth, its rate, and the growth at each layer: medians over the inputs."""
        profile, growth = self.profile, self.growth
        return {
            "ended": profile.ended,
            "left_out": list(self.left_out),
            "gain_factor": median(growth.gain),
            "rate_nats_per_layer": median(growth.rate),
            "most_sensitive_factor": median(growth.largest),
            "gradient_at_first_over_last": median(growth.returned),
            "beyond_a_factor_of_10_from": growth.beyond,
            "depth": growth.depth,
            "inputs": {status.name.lower(): int((profile.codes == status).sum()) for status in Status},
            "layers": list(profile.layers),
            "carries_the_whole_signal": profile.cut.tolist(),
            "layer_gain_factor": _medians(profile.gain),
            "layer_largest_singular_value": _medians(None if profile.singular_values is None else profile.singular_values[..., 0]),
            "layer_gradient": _medians(profile.gradient),
            "layer_parameter_gradient": _medians(profile.parameter_gradient),
            "layer_activation": _medians(profile.activation),
            "layer_dead_units": None if profile.dead_units is None else profile.dead_units.tolist(),
        }


def depth_portrait(
    model: nn.Module,
    inputs: Any,
    *,
    k: int | None,
    copies: int,
    layers: Sequence[str] | None,
    targets: Any,
    loss: Callable[..., Tensor] | None,
    statistics: str,
    seconds: float | None,
    seed: int,
    progress: bool,
) -> DepthPortrait:
    """Profile a network in depth on a sample of its inputs and interpret the result, or what an early end leaves of it."""
    given = one_call(model, inputs, torch.float64)
    count = _count(given)
    lie = ItemAxes(twin(model, dtype=torch.float64), given, 0)
    chosen = torch.randperm(count, generator=torch_generator(seed, "items of a profile"))[:copies].sort().values
    some = given.with_tensors(lie.take(chosen))
    answers = None if targets is None else _one_each(targets, count)[chosen]
    asked = {"k": k, "layers": layers, "targets": answers, "loss": loss, "statistics": statistics}
    with ending(seconds, on_interrupt=True):
        profile = depth_profile(model, some, **asked, seed=seed, progress=progress)
    doubts = "".join(f"unsure: {doubt}; " for doubt in (profile.changed, profile.fresh) if doubt)
    growth = Growth(profile)
    settings = {
        "copies": copies,
        "seconds": seconds,
        "statistics": None if statistics == "running" else statistics,
        "layers": None if layers is None else list(layers),
        "targets": None if targets is None else GIVEN,
        "loss": profile.loss if loss is None else GIVEN,
    }
    return DepthPortrait(
        codes=profile.codes.amax(),
        profile=profile,
        verdict=doubts + verdict(growth),
        advice=advice(growth),
        did=_did(profile, growth, count),
        model=profile.model,
        core=f"{counted(growth.depth, 'layer')} deep, {counted(profile.dim, 'number')} in, {profile.widths[-1]:,} out",
        settings={**profile.settings, **settings},
    )


def _growth_from(profile: DepthProfile) -> str:
    """How the growth was measured."""
    if profile.singular_values is None:
        return "Gains of J = ∂(layer)/∂(input) from a few random tangents; for singular values, pass k or the names of layers."
    how = "from the whole Jacobian"
    if profile.settings["method"] != "whole Jacobian":
        how = f"by iterating J and Jᵀ, with residuals of up to {plain(profile.worst_residual)} relative to the largest"
    return f"The {profile.singular_values.shape[-1]} leading singular values of J = ∂(layer)/∂(input) at each layer, {how}."


def _medians(rows: Tensor | None) -> list[float] | None:
    return None if rows is None else [median(row) for row in rows]


def _count(given: Arguments) -> int:
    """The number of inputs: the length of axis 0 of the first floating-point argument."""
    tensors = given.tensors()
    first = next((tensor for tensor in tensors if tensor.is_floating_point()), tensors[0])
    if first.ndim == 0:
        raise ShapeError(f"the inputs have shape {tuple(first.shape)}; expected a batch of inputs along axis 0.")
    return len(first)


def _one_each(targets: Any, count: int) -> Tensor:
    tensor = as_numbers("targets", targets, None)
    if tensor.ndim == 0 or len(tensor) != count:
        raise ShapeError(
            f"targets have shape {tuple(tensor.shape)}, but there are {counted(count, 'input')}.\n"
            "Pass one target per input along axis 0."
        )
    return tensor


def _did(profile: DepthProfile, growth: Growth, count: int) -> tuple[str, ...]:
    """What was done, one sentence each."""
    measured = profile.codes.numel()
    early = [f"Not measured ({profile.ended}): {profile.missing}."] if profile.ended else []
    of = f"{measured:,} of {counted(count, 'input')}, drawn at random" if measured < count else counted(count, "input")
    sentences = [
        f"{profile.model}, {counted(len(profile.layers), 'layer')} in the order of the forward pass; the whole signal passes "
        f"through {len(growth.whole) if bool(profile.cut.any()) else 0} of them.",
        f"{of.capitalize()}, {counted(profile.dim, 'number')} each.",
        _growth_from(profile),
        f"Gradients of {profile.loss}.",
    ]
    ended = {"did not converge": Status.NOT_CONVERGED, "diverged": Status.DIVERGED}
    counts = {how: int((profile.codes == status).sum()) for how, status in ended.items()}
    return (*sentences, *early, *(f"{n} of {counted(measured, 'input')} {how}." for how, n in counts.items() if n))
