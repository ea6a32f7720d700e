"""Along training: one analysis on every checkpoint of a network, and its answers followed from each to the next."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from separatrix.analysis.along.tracks import follow
from separatrix.analysis.fixed.result import FixedPoints
from separatrix.core.errors import InputError, ModelError, SeparatrixError
from separatrix.core.evolve import check_system_type
from separatrix.core.progress import watched_count
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, plain

Analysis = Callable[[System], Result]


class _Apart(Exception):
    """Results of one class that have no common batch."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Separate(Result):
    """Results of checkpoints that cannot be one result, each by itself.

    Args:
        each: the label of the checkpoint, as text, ↦ its result; those that were refused are left out.
    """

    each: dict[str, Result]
    drawn_by: ClassVar[str] = "separatrix.plot.along:separate_figure"

    def summary(self) -> str:
        """What was found on each."""
        return "".join(f"\n{label}: {result.summary()}" for label, result in self.each.items())


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Along(Result):
    """What an analysis found on every checkpoint, in the order in which they were given.

    Args:
        labels: (checkpoint), their names as numbers: epochs, steps of training.
        result: the analysis's own result, with the checkpoints as the first axis of its batch: its `exponents` are
            (checkpoint, *batch, k). Of fixed points, the `Tracks` that they make. A series that is shorter is filled up with NaN;
            what is no tensor (steps, notes) is that of the first checkpoint with an answer. Where checkpoints differ in what is
            one for a whole batch (the attractors of `basins_of_attraction`, a portrait's plane): `Separate` results.
        codes: (checkpoint), the worst status of a checkpoint's runs; `diverged` where it was refused, with NaN for numbers.
        failures: what the analysis, or the building of the system, said of the checkpoints that it refused: (label, message).
    """

    labels: Tensor
    result: Result
    failures: tuple[tuple[str, str], ...] = ()

    drawn_by: ClassVar[str] = "separatrix.plot.along:along_figure"
    layout: ClassVar[dict[str, str]] = {"labels": "batch"}

    def summary(self) -> str:
        """How many checkpoints, what was found on them, and what was refused."""
        first, last = plain(float(self.labels[0])), plain(float(self.labels[-1]))
        lines = [f"along {counted(len(self.labels), 'checkpoint')}, {first} … {last}: {self.result.summary()}"]
        return "\n".join([*lines, *(f"{label}: {message}" for label, message in self.failures)])


def along(
    checkpoints: Mapping[Any, Any] | Sequence[Any],
    analysis: Analysis,
    *,
    build: Callable[[Any], System] | None = None,
    model: nn.Module | None = None,
    gate: float = 0.5,
    progress: bool = False,
    throw: bool = False,
) -> Along:
    """Run an analysis on every checkpoint of a network, and follow what it finds.

    Checkpoints are kept while training with  `checkpoints[epoch] = copy.deepcopy(model.state_dict())`  and read from files with
    `torch.load(path, weights_only=True)`.  One whose weights or runs are not finite aborts nothing: it has its status, and the
    others are followed past it. Fixed points are matched from one checkpoint to the next: see `Tracks`.

    Args:
        checkpoints: number ↦ checkpoint, in order; or a sequence, which is counted from 0. A checkpoint is what `build` takes; with
            `model`, a state dict; without both, a System.
        analysis: any function from a System to a Result, such as `sx.lyapunov_spectrum`; with options,
            `lambda system: sx.lyapunov_spectrum(system, k=1)`.
        build: checkpoint ↦ System.
        model: a network of the right shape. `build` then gets a copy of it that holds the checkpoint's weights:
            `build=lambda net: sx.Recurrent(net.rnn)`.  It is not changed itself.
        gate: how far a fixed point may move from where it is expected and still be the same, as root mean square over the
            components, relative to that of the largest point of all checkpoints, or of the guesses if that is more.
        progress: show a bar.
        throw: raise what a checkpoint was refused for, instead of going on.

    Returns:
        Along: `labels`, `result` with the checkpoints as its first axis (for fixed points, `Tracks`), and `status`.

    Raises:
        InputError: there are no checkpoints, their labels do not increase, or their results are of several classes.
        ModelError: a state dict does not fit the model.
        SeparatrixError: what the analysis says, if it refuses every checkpoint.
    """
    labels, given = _listed(checkpoints)
    system_of = _builder(analysis, build, model, gate)
    results: list[Result | None] = []
    refused: dict[int, SeparatrixError] = {}
    systems: list[System | None] = []
    for tick in watched_count(len(given), "along checkpoints", progress):
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
    known = [result for result in results if result is not None]
    if not known:
        raise refused[0]
    if isinstance(known[0], FixedPoints):
        together: Result = follow(labels, systems, results, gate)
        codes = together.codes
    else:
        together = _together(labels, results, known[0])
        codes = together.codes.reshape(len(labels), -1).amax(-1) if together.codes[0].numel() else together.codes
    return Along(
        codes=codes,
        labels=labels,
        result=together,
        failures=tuple((plain(float(labels[i])), str(error).splitlines()[0]) for i, error in refused.items()),
        settings={"analysis": getattr(analysis, "__name__", type(analysis).__name__), "gate": gate},
    )


def _listed(checkpoints: Mapping[Any, Any] | Sequence[Any]) -> tuple[Tensor, list[Any]]:
    """The labels as numbers, and the checkpoints."""
    if not isinstance(checkpoints, Mapping | Sequence) or isinstance(checkpoints, str | bytes):
        raise InputError(
            f"checkpoints are a {type(checkpoints).__name__}.\nPass a dictionary, epoch ↦ state dict, or a list of checkpoints."
        )
    if isinstance(checkpoints, Mapping) and checkpoints and all(isinstance(value, Tensor) for value in checkpoints.values()):
        raise InputError("checkpoints are one state dict, name ↦ tensor.\nPass a dictionary of them, epoch ↦ state dict.")
    names = list(checkpoints) if isinstance(checkpoints, Mapping) else list(range(len(checkpoints)))
    given = list(checkpoints.values()) if isinstance(checkpoints, Mapping) else list(checkpoints)
    if not given:
        raise InputError("there are no checkpoints.\nPass at least one.")
    for name in names:
        if isinstance(name, bool) or not isinstance(name, int | float) or not math.isfinite(name):
            raise InputError(f"a checkpoint is named {name!r}, but they are followed over numbers.\nName each by its epoch.")
    if any(b <= a for a, b in pairwise(names)):
        i = next(i for i in range(len(names) - 1) if names[i + 1] <= names[i])
        raise InputError(f"checkpoint {names[i + 1]} comes after {names[i]}; they are given in increasing order.\nSort them.")
    return torch.tensor(names, dtype=torch.float64), given


def _builder(analysis: Any, build: Any, model: nn.Module | None, gate: float) -> Callable[[Any], System]:
    """checkpoint ↦ System, from what was asked."""
    if not callable(analysis):
        raise InputError(f"the analysis is {analysis!r}, no function from a System to a Result.\nPass sx.lyapunov_spectrum, say.")
    if not (isinstance(gate, int | float) and 0 < gate < math.inf):
        raise InputError(f"gate is {gate!r}; it is a positive number.")
    if build is not None and not callable(build):
        raise InputError(f"build is a {type(build).__name__}, no function from a checkpoint to a System.")
    if model is None:
        return _checked if build is None else lambda checkpoint: _checked(build(checkpoint))
    if build is None:
        raise InputError("model was given without build.\nSay how it is a system: build=lambda net: sx.Recurrent(net), say.")
    return lambda checkpoint: _checked(build(_with_weights(model, checkpoint)))


def _checked(system: Any) -> System:
    check_system_type(system)
    return system


def _with_weights(model: nn.Module, weights: Any) -> nn.Module:
    """A copy of the model that holds these weights."""
    if not isinstance(weights, Mapping):
        raise ModelError(f"a checkpoint is a {type(weights).__name__}, no state dict.\nKeep model.state_dict() of each epoch.")
    held = copy.deepcopy(model)
    try:
        held.load_state_dict(weights)
    except RuntimeError as error:
        told = " ".join(str(error).split())
        raise ModelError(f"a checkpoint does not fit this {type(model).__name__}: {told}") from None
    return held


def _measured(analysis: Analysis, system: System) -> Result:
    result = analysis(system)
    if not isinstance(result, Result):
        raise ModelError(f"the analysis returned a {type(result).__name__}, no Result.\nPass a function that returns one.")
    return result


def _together(labels: Tensor, results: Sequence[Result | None], model: Result) -> Result:
    """One result of all checkpoints, or each by itself where they have no common batch."""
    try:
        return _side_by_side(results, model)
    except _Apart:
        gone = torch.tensor(int(Status.DIVERGED), dtype=torch.int8)
        codes = [gone if result is None else result.codes.max() for result in results]
        answered = zip(labels.tolist(), results, strict=True)
        return Separate(codes=torch.stack(codes), each={plain(label): r for label, r in answered if r is not None})


def _side_by_side(results: Sequence[Result | None], model: Result) -> Result:
    """Results of one class as one, with a new first batch axis; None becomes NaN and `diverged`."""
    for result in results:
        if result is not None and type(result) is not type(model):
            raise InputError(
                f"the analysis gave a {type(model).__name__} and then a {type(result).__name__}; it must give one class."
            )
    values: dict[str, Any] = {}
    for field in fields(model):
        parts = [None if result is None else getattr(result, field.name) for result in results]
        first = getattr(model, field.name)
        if field.name == "codes":
            gone = torch.full_like(model.codes, int(Status.DIVERGED))
            values["codes"] = torch.stack([gone if part is None else part for part in parts])
        elif isinstance(first, Result):
            values[field.name] = _side_by_side(parts, first)
        elif field.name in model.layout and first is not None:
            values[field.name] = _stacked(field.name, parts, first, model.layout[field.name].split())
    return replace(model, **values)


def _stacked(name: str, parts: Sequence[Tensor | None], first: Tensor, axes: list[str]) -> Tensor:
    """One field of all checkpoints, with the new axis where its batch axes begin."""
    known = [part for part in parts if part is not None]
    if "batch" not in axes:
        if any(part.shape != first.shape or not torch.equal(part.nan_to_num(), first.nan_to_num()) for part in known):
            raise _Apart
        return first
    place = axes.index("batch")
    shape = tuple(max(sizes) for sizes in zip(*(part.shape for part in known), strict=True))
    if not first.is_floating_point() and any(part.shape != first.shape for part in known):
        raise _Apart
    return torch.stack([_filled(part, shape, first) for part in parts], dim=place)


def _filled(part: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A tensor with NaN, or 0, where it does not reach."""
    blank = like.new_full(shape, math.nan if like.is_floating_point() else 0)
    if part is not None:
        blank[tuple(slice(0, size) for size in part.shape)] = part
    return blank
