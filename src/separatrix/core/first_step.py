"""Trial of the first step of a run: its shape, its purity, and the independence of the items of a batch."""

import torch
from torch import Tensor

from separatrix.core.derived import widths
from separatrix.core.errors import HorizonError, InputError, SeparatrixError, ShapeError
from separatrix.core.parametric import Parametric
from separatrix.core.purity import Purity
from separatrix.core.randomness import undisturbed
from separatrix.core.system import Map, System

MOVED = 0.1  # relative displacement of the other items of a batch if all are equal: far above COUPLED
COUPLED = 1e-4  # change of an item that shows a coupling, relative to the largest number; adaptive steps differ by their tolerance
NOT_THE_FUNCTIONS = (SeparatrixError, MemoryError, torch.OutOfMemoryError)
"""Errors in a user's function that are passed on unchanged: they explain themselves, or are not caused by the function."""


def check_step(system: System, x: Tensor, original: System) -> None:
    """Try the step of a twin twice from the same state.

    Args:
        system: the twin.
        x: the initial states of the run.
        original: the user's system.
    """
    if system.horizon is not None and system.horizon < 1:
        raise HorizonError("this system cannot take a step: its horizon is 0.")
    with torch.no_grad(), undisturbed():
        watch = Purity(system, original)
        after = _tried(system, x)
        watch.took_a_step()
        again = system.step(x.clone(), 0)
        watch.took_a_step()
        watch.check(after, again, lambda: system.step(x.clone(), 0))
        _check_items(system, x, after)


def _tried(system: System, x: Tensor) -> Tensor:
    """The states after one step; refuses a step that fails, writes to its argument, or changes the shape."""
    trial = x.clone()
    try:
        after = system.step(trial, 0)
    except NOT_THE_FUNCTIONS:
        raise
    except Exception as error:  # user code may raise anything; the message repeats it
        if isinstance(error, RuntimeError) and "dtype" in str(error):
            raise InputError(
                f"the state is {x.dtype} but the system's function holds tensors of another dtype ({_said(error)}).\n"
                "Pass x0 in that dtype, or give the system the nn.Module itself, which is then cast."
            ) from error
        raise first_call_failed(system, "the step", x, error) from error
    if not isinstance(after, Tensor):
        raise InputError(
            f"expected a tensor from the step, got a {type(after).__name__}.\n"
            f"{type(system).__name__}.step must return the next state, in the shape of its argument."
        )
    if (not trial.is_inference() and trial._version > 0) or not torch.equal(trial, x):
        raise InputError(
            "the step changes its argument in place, which destroys the previous state.\n"
            "Return a new tensor: x * 2 instead of x.mul_(2), a module with inplace=False, or begin with x = x.clone()."
        )
    wanted = widths(system)[:2][-1]
    if after.shape != (*x.shape[:-1], wanted):
        raise ShapeError(
            f"the step maps states of shape {tuple(x.shape)} to {tuple(after.shape)}; expected {(*x.shape[:-1], wanted)}.\n"
            f"{type(system).__name__}.step must keep the batch axes and return {wanted} numbers along the last axis."
        )
    return after


def _check_items(system: System, x: Tensor, after: Tensor) -> None:
    """Refuse a step in which an item of a batch depends on the others: if they are moved, it must not change."""
    if x.shape[:-1].numel() < 2:
        return
    rows = x.reshape(-1, x.shape[-1])
    held = torch.arange(len(rows), device=x.device).reshape(x.shape[:-1]) % 2 == 0
    moved = rows.roll(1, 0).reshape(x.shape)  # states that the step accepts, since it accepts them elsewhere
    if bool((moved == x).all()):
        moved = x * (1 + MOVED) + (MOVED if bool((x == 0).all()) else 0.0)
    try:
        beside = system.step(torch.where(held[..., None], x, moved), 0)
    except Exception:  # the user's code does not accept these states
        return
    own, other = after[held], beside[held]
    gap = (own - other).abs().amax()
    if gap > COUPLED * own.abs().amax():
        place = int((own - other).abs().argmax())
        raise InputError(
            "the items of a batch depend on each other: when every other state is moved, the next state of an unmoved item changes "
            f"from {float(own.flatten()[place]):.9g} to {float(other.flatten()[place]):.9g}.\n"
            "Write a step that treats each item independently, or combine coupled items into one state. A single state without a "
            "batch runs unchanged."
        )


def first_call_failed(owner: Parametric, what: str, x: Tensor, error: Exception) -> InputError:
    """The error for a user's function that fails on its first states; the message says how the function is called.

    Args:
        owner: the system or the field that calls it.
        what: name of the function, such as "the step".
        x: the states.
        error: the exception that it raised.
    """
    reason = f"{type(error).__name__}: {_said(error)}".rstrip(".")
    return InputError(f"{what} failed on states of shape {tuple(x.shape)}: {reason}.\n{how_called(owner, x, error)}")


def how_called(owner: Parametric, x: Tensor, error: Exception) -> str:
    """A sentence on how a user's function is called, to fit the exception that it raised."""
    numbers = (
        f"It receives states of {x.shape[-1]} numbers along the last axis and must return as many: write x[..., i] for x[i], "
        "x @ W.T for W @ x."
    )
    timed = next((part for part in owner.modules() if isinstance(part, Parametric) and hasattr(part, "time_dependent")), None)
    if timed is None:
        return numbers
    with_time = "f(x, n)" if isinstance(timed, Map) else "f(x, t)"
    if timed.time_dependent:
        return f"{numbers} It is called as {with_time}, with the state first."
    return f"It is called as f(x); as {with_time} with time_dependent=True." if "positional argument" in str(error) else numbers


def _said(error: Exception) -> str:
    """The message of an exception in one line; TorchScript puts it last."""
    lines = str(error).strip().splitlines() or ["no message"]
    return f"in a part compiled by TorchScript: {lines[-1]}" if "TorchScript" in lines[0] else lines[0]
