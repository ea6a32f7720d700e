"""Conformance of analyses: their signature, their result, independent items and a reproducible seed."""

import inspect
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any

import torch
from torch import Tensor

from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.systems.classic import henon
from separatrix.testing.statements import agree, attempt, require, same_bits, words

Measure = Callable[[Tensor], Result]

ITEMS = 3  # in a batch


def check_analysis(analysis: Callable[..., Result], system: System | None = None, x0: Tensor | None = None) -> None:
    """Check that an analysis, `measure(system, x0=None, *, …) -> Result`, keeps the contract of analyses.

    Args:
        analysis: the function. If it takes `steps` and `settle`, it is called with small values.
        system: the system to measure. Default: the Hénon map, with two states on its attractor and a diverging one between them.
        x0: three states, shape (3, dim), the middle one of which may diverge.

    Raises:
        AssertionError: the signature has more than two positional arguments or a keyword without a default; the result
            is not frozen, not detached, or lacks the batch axes; one item changes the results of its neighbours; two runs
            with one seed differ.

    Example:
        >>> sx.testing.check_analysis(sx.memory_capacity)  # returns nothing: the contract is kept
    """
    _check_signature(analysis)
    if system is None:
        system, x0 = henon(), torch.tensor([[0.1, 0.1], [1e3, -1e3], [0.3, -0.2]], dtype=torch.float64)
    elif x0 is None:
        x0 = system.initial_state((ITEMS, *system.batch_shape))
    measure = _with_few_steps(analysis, system)
    for check in RESULT_CHECKS:
        attempt(f"the check that {words(check)}", check, measure, x0)


def _check_signature(analysis: Callable[..., Any]) -> None:
    parameters = inspect.signature(analysis).parameters.values()
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    counted = [name for name in positional if name != "steps"]
    told = f"{len(counted)} positional arguments ({', '.join(counted)}); an analysis has at most 2, (system, x0)."
    require(1 <= len(counted) <= 2, told)
    swallowed = [p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    require(not swallowed, f"*{', *'.join(swallowed)} swallows misspelt options; name each.")
    bare = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    require(not bare, f"{', '.join(bare)} has no default.")


def _with_few_steps(analysis: Callable[..., Result], system: System) -> Measure:
    few = {"steps": 60, "settle": 20, "every": 1}  # an interval that adapts to the batch changes the last digits
    known = {name: value for name, value in few.items() if name in inspect.signature(analysis).parameters}
    return lambda x0: analysis(system, x0, **known)


def _result_is_a_record(measure: Measure, x0: Tensor) -> None:
    state = x0.clone().requires_grad_()
    result = measure(state)
    require(isinstance(result, Result), f"the analysis returned a {type(result).__name__}, not a Result.")
    same_bits("the analysis wrote to x0", state.detach(), x0)
    for name, tensor in _fields(result).items():
        require(not tensor.requires_grad, f"{name} is not detached.")
    try:
        result.codes = result.codes  # type: ignore[misc]
    except FrozenInstanceError:
        return
    raise AssertionError(f"a {type(result).__name__} can be written to; declare it @dataclass(frozen=True).")


def _result_carries_the_batch(measure: Measure, x0: Tensor) -> None:
    for x in (x0[0], x0, torch.stack([x0, x0])):
        result, batch = measure(x), tuple(x.shape[:-1])
        require(result.batch == batch, f"the run's batch is {batch} but the result's codes have shape {result.batch}.")
        for name, axes in result.layout.items():
            value = getattr(result, name)
            if value is not None and "batch" in axes.split():
                place = axes.split().index("batch")
                shape = tuple(value.shape[place : place + len(batch)])
                rank = len(axes.split()) - 1 + len(batch)
                fits = shape == batch and value.ndim == rank
                require(fits, f"{name} has shape {tuple(value.shape)}, which is not ({axes}) with batch {batch}.")


def _neighbours_are_left_alone(measure: Measure, x0: Tensor) -> None:
    mixed, calm = measure(x0), measure(torch.stack([x0[0], x0[0], x0[2]]))
    lost = [name for name, value in _per_item(mixed).items() if value[1].isnan().all()]
    told = f"the middle item's {', '.join(lost)} is NaN but its status is ok."
    require(not lost or (mixed.codes[1] != Status.OK).all(), told)
    for i in (0, 2):
        for name, value in {"codes": mixed.codes, **_per_item(mixed)}.items():
            beside = getattr(calm, name)[i]
            agree(f"item {i}'s {name} depends on its neighbour", value[i], beside, 1e-12)


def _seed_repeats(measure: Measure, x0: Tensor) -> None:
    drawn = torch.get_rng_state()
    first, again = _fields(measure(x0)), _fields(measure(x0))
    for name, value in first.items():
        same_bits(f"{name} differs between two runs of one seed", value, again[name])
    require(torch.equal(torch.get_rng_state(), drawn), "the analysis drew on the global random generator.")


RESULT_CHECKS = (_result_is_a_record, _result_carries_the_batch, _neighbours_are_left_alone, _seed_repeats)


def _fields(result: Result) -> dict[str, Tensor]:
    return {f.name: value for f in fields(result) if isinstance(value := getattr(result, f.name), Tensor)}


def _per_item(result: Result) -> dict[str, Tensor]:
    """The tensors that begin with the batch axes; a series of blocks may be divided differently in another run."""
    return {name: value for name, value in _fields(result).items() if result.layout.get(name, "").startswith("batch")}
