"""The model and the inputs of a certificate: what is accepted, and at which starts it is evaluated."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.bounds.certificate.graph import quiet, tensors, told
from separatrix.bounds.certificate.steepest import SCALES
from separatrix.core.checks import as_inputs
from separatrix.core.errors import InputError, ModelError, SeparatrixError, ShapeError, UnsupportedModuleError
from separatrix.core.randomness import torch_generator
from separatrix.core.tangent import plain_kernels
from separatrix.core.twin import twin

MOST_INPUTS = 8  # of the user's inputs from which the ascent starts
MOST_REPLAYED = 3  # starts at which the operators are compared with the network
EXTREMES = (1e-30, 1e-6, 1e3, 1e6, 1e30)  # factors that scale a start
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)  # to try if a network fails in float64


def checked_shape(given: Any) -> tuple[int, ...]:
    """The shape of one input as a tuple; refuses anything else."""
    sizes = (
        (given,) if isinstance(given, int) else tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else None
    )
    if sizes is None or not sizes or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise InputError(
            f"input_shape is {given!r}; expected the shape of one input without batch axis, such as 64 or (3, 32, 32)."
        )
    return sizes


def check_model(model: Any) -> None:
    """Refuse what is no module whose layers can be inspected."""
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModuleError(f"expected a plain nn.Module, whose layers can be inspected; got a {type(model).__name__}.")
    scripted = next((name for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)), None)
    if scripted is not None:
        raise UnsupportedModuleError(
            f"'{scripted}' is compiled by TorchScript, so its operators cannot be seen.\nPass the module that it was made from."
        )
    if any(nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise ModelError(f"{type(model).__name__} has uninitialised weights without a shape.\nCall it once on its inputs.")


def starts_of(shape: tuple[int, ...], inputs: Tensor | None, count: int, seed: int) -> Tensor:
    """Random inputs of several sizes, followed by the user's; (count, *shape), float64."""
    random = torch_generator(seed, "starts of an ascent")
    scales = [scale for scale, _ in zip(itertools.cycle(SCALES), range(count), strict=False)]
    drawn = torch.randn(count, *shape, dtype=torch.float64, generator=random)
    begin = drawn * torch.tensor(scales, dtype=torch.float64).reshape(-1, *[1] * len(shape))
    if inputs is None:
        return begin
    given = as_inputs("the inputs", inputs).double().cpu()
    if given.shape[1:] != shape or not len(given):
        raise ShapeError(
            f"inputs have shape {tuple(given.shape)}; expected (count, {', '.join(map(str, shape))}) for inputs of shape {shape}."
        )
    return torch.cat([begin, given[:MOST_INPUTS]])


def replayed(begin: Tensor) -> Tensor:
    """Inputs at which operators and network are compared: if code tests numbers, it tests them against 0, 1 and large ones."""
    first, ones = begin[:1], torch.ones_like(begin[:1])
    one_hot = torch.zeros_like(ones).flatten(1).index_fill(1, torch.tensor([0], device=ones.device), 1.0).reshape(ones.shape)
    scaled = [scale * first for scale in EXTREMES]
    return torch.cat([begin[:MOST_REPLAYED], 0 * ones, ones, one_hot, (10 * first).round(), *scaled])


def without_gradients(network: nn.Module) -> nn.Module:
    """A twin with its own weights and counters: derivatives are with respect to the input only, and its writes stay local."""
    for part in network.modules():
        own = {name: tensor if tensor is None else tensor.detach().clone() for name, tensor in part._parameters.items()}
        part._parameters.update({name: own[name] if own[name] is None else nn.Parameter(own[name], False) for name in own})
        part._buffers.update(
            {name: tensor if tensor is None else tensor.detach().clone() for name, tensor in part._buffers.items()}
        )
    return network


def runs(network: nn.Module, x: Tensor, shape: tuple[int, ...], model: nn.Module) -> bool:
    """Whether the network takes real numbers; False if it takes integers."""
    kind = type(model).__name__
    try:
        with torch.no_grad(), plain_kernels(), quiet():
            flat(network(x.clone()), 1)
        return True
    except InputError:
        raise
    except Exception as error:  # the user's code: whatever it raises is the message
        if _takes_whole_numbers(network, x):
            return False
        raise _refusal(model, x, error, f"{kind} fails on an input of shape {shape}, with a batch axis of 1 before it") from error


def _refusal(model: nn.Module, x: Tensor, error: Exception, what: str) -> SeparatrixError:
    """The cause of a failure: the shape, the precision in which the network can run, or the network itself."""
    reason = told(error, 200)
    narrow = next((dtype for dtype in PRECISIONS if _takes(model, x, dtype)), None)
    if narrow is not None:
        name = str(narrow).removeprefix("torch.")
        return ModelError(
            f"{what} in float64, in which it is evaluated, although it runs in {name}: {reason}.\n"
            f"Register the tensors that stay in {name} on the module, so that .double() converts them; or pass the model before "
            "quantisation."
        )
    if not isinstance(error, RuntimeError | ValueError | IndexError | AssertionError) or "dtype" in str(error):
        return ModelError(f"{what}: {reason}.\nThe shape is not the cause: fix the error in forward.")
    return ShapeError(
        f"{what}: {reason}.\n"
        "Pass the shape of one input without its batch axis, as the model takes it; if it is right, fix the error in forward."
    )


def _takes(model: nn.Module, x: Tensor, dtype: torch.dtype) -> bool:
    """Whether the unchanged model, in evaluation mode, runs in a precision."""
    try:
        with torch.no_grad(), plain_kernels(), quiet():
            flat(twin(model, dtype=dtype, device=x.device)(x.to(dtype)), 1)
        return True
    except Exception:  # user code may raise anything; then it does not run in this precision
        return False


def _takes_whole_numbers(network: nn.Module, x: Tensor) -> bool:
    try:
        with torch.no_grad(), plain_kernels():
            network(torch.zeros(x.shape, dtype=torch.int64, device=x.device))
        return True
    except Exception:  # then the kind of number is not the cause
        return False


def flat(output: Any, count: int) -> Tensor:
    """All real tensors that a network returns, as one row per item."""
    parts = [part.reshape(count, -1) for part in tensors(output)]
    if not parts:
        raise InputError(
            f"the model returned a {type(output).__name__} without a floating-point tensor.\n"
            "It must return tensors, alone or in dictionaries, lists, tuples or dataclasses."
        )
    return torch.cat([part.double() for part in parts], dim=-1)
