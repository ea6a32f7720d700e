"""Along training or widths: an analysis of every checkpoint of a network, with its results followed from one to the next."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from separatrix.analysis.along.tracks import follow
from separatrix.analysis.along.widths import WidthScaling, scaling
from separatrix.analysis.depth.coordinates import CoordinateSizes
from separatrix.analysis.fixed.result import FixedPoints
from separatrix.core.checks import check_number, check_positive
from separatrix.core.errors import InputError, ModelError, SeparatrixError
from separatrix.core.evolve import check_system_type
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, plain

Measured = System | nn.Module | list[nn.Module]
Analysis = Callable[[Any], Result]


class _CannotStack(Exception):
    """Results of one class that do not fit into one batch."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Separate(Result):
    """Separate results of the checkpoints, for results that do not fit into one batch.

    Args:
        each: label of the checkpoint, as text, ↦ its result; checkpoints that were refused are left out.
    """

    each: dict[str, Result]
    drawn_by: ClassVar[str] = "separatrix.plot.along:separate_figure"

    def summary(self) -> str:
        """The summary of each checkpoint's result."""
        return "".join(f"\n{label}: {result.summary()}" for label, result in self.each.items())


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Along(Result):
    """The results of an analysis over checkpoints, in the order of the checkpoints.

    Args:
        labels: (checkpoint), their labels as numbers: epochs, training steps or widths.
        result: the result of the analysis, with the checkpoints as its first batch axis: `exponents` is (checkpoint, *batch, k).
            For fixed points, their `Tracks`; for sizes of activations, their `WidthScaling`. Shorter series are padded with NaN;
            fields that are not tensors (steps, notes) are those of the first checkpoint with a result. If the checkpoints differ
            in a field that describes a whole batch (the attractors of `basins_of_attraction`, the plane of a portrait),
            `Separate` results.
        codes: (checkpoint), the worst status of the checkpoint's runs; `diverged`, with NaN values, if it was refused.
        failures: (label, message) of each checkpoint that was refused by the analysis, or whose system could not be built.
    """

    labels: Tensor
    result: Result
    failures: tuple[tuple[str, str], ...] = ()

    drawn_by: ClassVar[str] = "separatrix.plot.along:along_figure"
    layout: ClassVar[dict[str, str]] = {"labels": "batch"}

    def summary(self) -> str:
        """The number of checkpoints, the summary of their results, and the failures."""
        first, last = plain(float(self.labels[0])), plain(float(self.labels[-1]))
        what = "width" if isinstance(self.result, WidthScaling) else "checkpoint"
        lines = [f"along {counted(len(self.labels), what)}, {first} … {last}: {self.result.summary()}"]
        return "\n".join([*lines, *(f"{label}: {message}" for label, message in self.failures)])


def along(
    checkpoints: Mapping[Any, Any] | Sequence[Any],
    analysis: Analysis,
    *,
    build: Callable[[Any], System | nn.Module | list[nn.Module]] | None = None,
    model: nn.Module | None = None,
    gate: float = 0.5,
    progress: bool = False,
    throw: bool = False,
) -> Along:
    """Run an analysis on every checkpoint of a network, and follow its results from checkpoint to checkpoint.

    Store checkpoints during training with  `checkpoints[epoch] = copy.deepcopy(model.state_dict())`,  or read them from files with
    `torch.load(path, weights_only=True)`.  A checkpoint with weights or runs that are not finite gets a status and does not stop
    the others. Fixed points are matched from one checkpoint to the next: see `Tracks`. Sizes of activations of networks of growing
    width are fitted by powers of the width: see `coordinate_sizes` and `WidthScaling`.

    Args:
        checkpoints: number ↦ checkpoint, in increasing order, or a sequence, which is numbered from 0. A checkpoint is the argument
            of `build`; with `model`, a state dict; without either, what the analysis takes.
        analysis: any function from a System to a Result, such as `sx.lyapunov_spectrum`; with options,
            `lambda system: sx.lyapunov_spectrum(system, k=1)`. Or from a network, or a list of networks, to a Result.
        build: checkpoint ↦ System, or network, or list of networks.
        model: a network with the architecture of the checkpoints. `build` then receives a copy of it with the checkpoint's weights:
            `build=lambda net: sx.Recurrent(net.rnn)`.  The model itself is not changed.
        gate: maximum distance of a fixed point from its predicted position, as root mean square over the components, relative to
            that of the largest point of all checkpoints, or of the guesses if that is larger.
        progress: show a progress bar.
        throw: raise instead of marking checkpoints that are refused, diverged or did not converge.

    Returns:
        Along: `labels`, `result` with the checkpoints as its first axis (for fixed points, `Tracks`), and `status`.

    Raises:
        InputError: there are no checkpoints, their labels do not increase, or their results are of different classes.
        ModelError: a state dict does not fit the model.
        SeparatrixError: the error of the analysis, if it refuses every checkpoint, or with `throw=True` the first one.
        DivergedError, NotConvergedError: with `throw=True`.

    Example:
        >>> found = sx.along(
        ...     {0: 0.5, 10: 2.0}, lambda system: sx.lyapunov_spectrum(system, steps=100),
        ...     build=lambda a: sx.Map(lambda x: a * x, dim=1),
        ... )
        >>> found.result.exponents[:, 0]  # ln 0.5 and ln 2
        tensor([-0.6931,  0.6931], dtype=torch.float64)
    """
    labels, given = _listed(checkpoints)
    system_of = _builder(analysis, build, model, gate)
    results: list[Result | None] = []
    refused: dict[int, SeparatrixError] = {}
    systems: list[System | None] = []
    for tick in watched_count(len(given), "Checkpoints", progress):
        system, result = None, None
        try:
            system = system_of(given[tick.index])
            result = _measured(analysis, system)
        except ModelError:
            raise
        except SeparatrixError as error:
            if throw:
                raise
            refused[tick.index] = error
        results.append(result)
        systems.append(system if isinstance(result, FixedPoints) else None)
    answered = [result for result in results if result is not None]
    if not answered:
        raise refused[0]
    _check_one_class(answered)
    if isinstance(answered[0], FixedPoints):
        together: Result = follow(labels, systems, results, gate)
    elif isinstance(answered[0], CoordinateSizes):
        together = scaling(labels, results)
    else:
        together = _together(labels, results, answered[0])
    codes = together.codes.reshape(len(labels), -1).amax(-1) if together.codes[0].numel() else together.codes
    found = Along(
        codes=codes,
        labels=labels,
        result=together,
        failures=tuple((plain(float(labels[i])), str(error).splitlines()[0]) for i, error in refused.items()),
        settings={"analysis": getattr(analysis, "__name__", type(analysis).__name__), "gate": gate},
    )
    return found.or_raise(throw)


def _listed(checkpoints: Mapping[Any, Any] | Sequence[Any]) -> tuple[Tensor, list[Any]]:
    """The labels as numbers, and the checkpoints."""
    if not isinstance(checkpoints, Mapping | Sequence) or isinstance(checkpoints, str | bytes):
        raise InputError(
            f"expected a dictionary or a list of checkpoints, got a {type(checkpoints).__name__}.\n"
            "Pass a dictionary, epoch ↦ state dict, or a list of checkpoints."
        )
    if isinstance(checkpoints, Mapping) and checkpoints and all(isinstance(value, Tensor) for value in checkpoints.values()):
        raise InputError("expected several checkpoints, got one state dict.\nPass a dictionary, epoch ↦ state dict.")
    labels = list(checkpoints) if isinstance(checkpoints, Mapping) else list(range(len(checkpoints)))
    given = list(checkpoints.values()) if isinstance(checkpoints, Mapping) else list(checkpoints)
    if not given:
        raise InputError("expected at least 1 checkpoint, got 0.")
    for label in labels:
        check_number("a label", label, way_out="Label each checkpoint by a number, such as its epoch or its width.")
    if any(b <= a for a, b in pairwise(labels)):
        i = next(i for i in range(len(labels) - 1) if labels[i + 1] <= labels[i])
        raise InputError(f"labels must increase, but checkpoint {labels[i + 1]} follows {labels[i]}.\nSort the checkpoints.")
    return torch.tensor(labels, dtype=torch.float64), given


def _builder(analysis: Any, build: Any, model: nn.Module | None, gate: float) -> Callable[[Any], Measured]:
    """The function checkpoint ↦ System, or what else the analysis takes."""
    if not callable(analysis):
        raise InputError(f"analysis must be a function from a System to a Result, got {analysis!r}.\nPass sx.lyapunov_spectrum.")
    check_positive("gate", gate)
    if build is not None and not callable(build):
        raise InputError(f"build must be a function from a checkpoint to a System, got a {type(build).__name__}.")
    if model is None:
        return _checked if build is None else lambda checkpoint: _checked(build(checkpoint))
    if build is None:
        raise InputError("model needs build.\nDefine how the model becomes a system, such as build=lambda net: sx.Recurrent(net).")
    return lambda checkpoint: _checked(build(_with_weights(model, checkpoint)))


def _checked(subject: Any) -> Measured:
    """A System, or networks for an analysis of these."""
    networks = subject if isinstance(subject, list) else [subject]
    if not networks:
        raise InputError("expected at least 1 network, got an empty list.")
    if not all(isinstance(network, nn.Module) for network in networks):
        check_system_type(subject)
    return subject


def _with_weights(model: nn.Module, weights: Any) -> nn.Module:
    """A copy of the model with these weights."""
    if not isinstance(weights, Mapping):
        raise ModelError(f"expected a state dict, got a {type(weights).__name__}.\nPass model.state_dict() of each epoch.")
    loaded = copy.deepcopy(model)
    try:
        loaded.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"a checkpoint does not fit this {type(model).__name__}: {reason}") from None
    return loaded


def _measured(analysis: Analysis, system: Measured) -> Result:
    result = analysis(system)
    if not isinstance(result, Result):
        raise ModelError(f"the analysis must return a Result, got a {type(result).__name__}.")
    return result


def _check_one_class(results: Sequence[Result]) -> None:
    other = next((result for result in results if type(result) is not type(results[0])), None)
    if other is not None:
        raise InputError(
            f"the analysis returned a {type(results[0]).__name__} and then a {type(other).__name__}; "
            "it must return the same class for every checkpoint."
        )


def _together(labels: Tensor, results: Sequence[Result | None], model: Result) -> Result:
    """One result for all checkpoints, or separate ones if they do not fit into one batch."""
    try:
        return _side_by_side(results, model)
    except _CannotStack:
        diverged = torch.tensor(int(Status.DIVERGED), dtype=torch.int8)
        codes = [diverged if result is None else result.codes.max() for result in results]
        labelled = zip(labels.tolist(), results, strict=True)
        return Separate(codes=torch.stack(codes), each={plain(label): r for label, r in labelled if r is not None})


def _side_by_side(results: Sequence[Result | None], model: Result) -> Result:
    """Results of one class stacked along a new first batch axis; None becomes NaN and `diverged`."""
    values: dict[str, Any] = {}
    for field in fields(model):
        parts = [None if result is None else getattr(result, field.name) for result in results]
        first = getattr(model, field.name)
        if field.name == "codes":
            diverged = torch.full_like(model.codes, int(Status.DIVERGED))
            values["codes"] = torch.stack([diverged if part is None else part for part in parts])
        elif isinstance(first, Result):
            values[field.name] = _side_by_side(parts, first)
        elif field.name in model.layout and first is not None:
            values[field.name] = _stacked(field.name, parts, first, model.layout[field.name].split())
    return replace(model, **values)


def _stacked(name: str, parts: Sequence[Tensor | None], first: Tensor, axes: list[str]) -> Tensor:
    """One field of all checkpoints, with the new axis before its batch axes."""
    given = [part for part in parts if part is not None]
    if "batch" not in axes:
        if any(part.shape != first.shape or not torch.equal(part.nan_to_num(), first.nan_to_num()) for part in given):
            raise _CannotStack
        return first
    place = axes.index("batch")
    shape = tuple(max(sizes) for sizes in zip(*(part.shape for part in given), strict=True))
    if not first.is_floating_point() and any(part.shape != first.shape for part in given):
        raise _CannotStack
    return torch.stack([_filled(part, shape, first) for part in parts], dim=place)


def _filled(part: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A tensor padded to a shape with NaN, or with 0 if it holds integers."""
    blank = like.new_full(shape, math.nan if like.is_floating_point() else 0)
    if part is not None:
        blank[tuple(slice(0, size) for size in part.shape)] = part
    return blank
