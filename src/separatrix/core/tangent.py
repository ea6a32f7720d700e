"""Derivatives of any function along tangents and cotangents.

Tangents are rows: `v` has shape (*batch, k, dim), with k tangents for each state.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from traceback import walk_tb
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from separatrix.core.errors import UnsupportedModuleError

Function = Callable[[Tensor], Tensor]

# Note [Ladder of tangents]
# Forward AD is the first choice: k tangents at about the cost of k forward passes, without a graph. Three things can prevent it.
# Fused kernels (mkldnn and cuDNN recurrent layers, flash and memory-efficient attention) have no forward derivative: then the plain
# kernels are used. vmap refuses modules that write to buffers or branch on data: then the tangents go one after the other. A few
# operators have no forward derivative at all: then the vector-Jacobian product is differentiated, which takes reverse mode twice.
# A finite difference is never used: it would be wrong by 1e-8, and nobody would notice.


def pushforward(f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    r"""f(x) and the pushed tangents,  v ↦ Df(x) v.

    Args:
        f: maps (*batch, dim) to (*batch, width), each batch item independently.
        x: states, shape (*batch, dim).
        v: tangents as rows, shape (*batch, k, dim).

    Returns:
        f(x), shape (*batch, width), and the pushed tangents, shape (*batch, k, width).

    Raises:
        UnsupportedModuleError: f can be differentiated neither in forward mode nor twice in reverse mode.
    """
    value, pushed, _ = climb(f, x, v, 0)
    return value, pushed


def jacobian(f: Function, x: Tensor) -> Tensor:
    """The dense Jacobian ∂f_i/∂x_j, shape (*batch, width, dim), of f at states x of shape (*batch, dim)."""
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).expand(*x.shape[:-1], -1, -1)
    return pushforward(f, x, identity)[1].mT


def pullback(f: Function, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) and the pulled-back cotangents,  w ↦ Df(x)ᵀ w,  as rows, shape (*batch, k, width) → (*batch, k, dim)."""
    value, back = torch.func.vjp(f, x)[:2]
    rows = [back(row)[0] for row in w.unbind(-2)]
    return value, torch.stack(rows, dim=-2)


def climb(f: Function, x: Tensor, v: Tensor, rung: int) -> tuple[Tensor, Tensor, int]:
    """`pushforward`, starting at a given rung of the ladder, and the rung that worked. See Note [Ladder of tangents]."""
    if v.shape[-2] == 0:
        value = f(x)
        return value, value.new_zeros(*value.shape[:-1], 0, value.shape[-1]), rung
    failures: list[Exception] = []
    for height in range(rung, len(LADDER)):
        try:
            value, pushed = LADDER[height](f, x, v)
            return value, pushed, height
        except (RuntimeError, NotImplementedError, ValueError) as failure:
            if height == rung:
                f(x)  # an error of f itself is raised here, not reported as one of differentiation
            failures.append(failure)
    raise no_derivative(_layer(failures), failures[-1], f" (forward mode: {_first_line(failures[0])})")


def _all_at_once(f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return vmap(lambda tangent: _along(f, x, tangent), in_dims=-2, out_dims=(None, -2), randomness="same")(v)


def _along(f: Function, x: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """One tangent. A step that ignores x would return it without vmap's axis, which crashes torch 2.13: hence the zero."""
    value, pushed = jvp(f, (x,), (tangent,))[:2]
    return value, pushed + torch.zeros_like(tangent).sum()


def _all_at_once_in_plain_kernels(f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    with plain_kernels():
        return _all_at_once(f, x, v)


def _one_by_one(f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    with plain_kernels():
        pairs = [_along(f, x, tangent) for tangent in v.unbind(-2)]
        return pairs[0][0], torch.stack([pushed for _, pushed in pairs], dim=-2)


def twice_reverse(f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """`pushforward` without forward AD: J v as the derivative of w ↦ Jᵀ w, which is linear, so w = 0 suffices."""
    keep = torch.is_grad_enabled() and (v.requires_grad or x.requires_grad or f(x).requires_grad)
    with plain_kernels(), torch.inference_mode(False), torch.enable_grad():
        state = x if x.requires_grad else x.detach().clone().requires_grad_()
        value = f(state)
        w = torch.zeros_like(value, requires_grad=True)
        (back,) = torch.autograd.grad(value, state, w, create_graph=True)
        rows = [torch.autograd.grad(back, w, row.clone(), create_graph=keep, retain_graph=True)[0] for row in v.unbind(-2)]
    pushed = torch.stack(rows, dim=-2)
    return (value, pushed) if keep else (value.detach(), pushed.detach())


RUNGS = (_all_at_once, _all_at_once_in_plain_kernels, _one_by_one, twice_reverse)
LADDER = RUNGS


def leave_uncompiled() -> None:
    """Exclude the ladder from `torch.compile`: forward AD under vmap does not work with symbolic shapes (torch 2.13)."""
    global LADDER
    LADDER = tuple(torch.compiler.disable(rung) for rung in RUNGS)


# Note [Tangents as a batch]
# On small states nearly all the time of forward AD under vmap goes into the transforms, not into the numbers. One copy of the state
# for each tangent, along a new first axis, needs no transform and takes about half of the time. But a function may have
# been written for a state without that axis, and then compute something else, be it only from some step or state on. So `Tangents`
# compares the first result with vmap's, and every result with itself: the k copies of f(x) with f(x), which an index that means
# another axis does not survive, and one more tangent, a combination of the others, with the combination of what became of them,
# which no mean, roll or product over the copies survives. Each number is compared in its own unit. What fails is given up for good:
# vmap then answers that call and the later ones. The value returned is f(x), so that an orbit does not depend on k.
#
# What is left then is what PyTorch (2.13) does about a factor or a term without a tangent: it takes a stand-in for zeros, whose
# shape and type are found in Python, 0.1 ms each time. With zeros that are there the same operator takes 0.004 ms.

AS_A_BATCH = 4096  # numbers in the tangents, up to which this is faster
ALIKE = 7 / 12  # power of the round-off within which the copies have to agree: 1e-9 in float64, 1e-4 in float32


def alike(copies: Tensor, value: Tensor) -> bool:
    """Whether two tensors, of which the first may have more axes, are the same but for rounding."""
    if torch.equal(copies, value.expand_as(copies)):
        return True
    return torch.allclose(copies, value, rtol=torch.finfo(value.dtype).eps ** ALIKE, atol=0.0, equal_nan=True)


@cache
def _weights(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Unlike weights, one for each tangent, that do not add up to 1; shape (count)."""
    with torch.inference_mode(False):
        return 0.7 * (2.3 * torch.arange(1, count + 1, dtype=dtype, device=device)).sin() + 0.9


def _is_combined(last: Tensor, parts: Tensor) -> bool:
    """Whether the last pushed tangent is the sum of these parts but for rounding, wherever they are finite."""
    bound = torch.finfo(last.dtype).eps ** ALIKE * parts.abs().sum(-2)
    return not bool(((last - parts.sum(-2)).abs() > bound).any())


SLOW = {"add", "addcmul", "addmm", "baddbmm", "div", "layer_norm", "linear", "maximum", "minimum", "mul", "sub", "__rdiv__"}


class _ZerosThatAreThere(TorchFunctionMode):
    """Within it, factors and terms without a tangent get one of zeros. See Note [Tangents as a batch]."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if getattr(func, "__name__", "") in SLOW and len(args) > 1:
            tangents = [_tangent(arg) for arg in args]
            moving = next((arg for arg, tangent in zip(args, tangents, strict=True) if tangent is not None), None)
            if moving is not None:
                pairs = zip(args, tangents, strict=True)
                args = tuple(_standing(arg, moving) if tangent is None else arg for arg, tangent in pairs)
        return func(*args, **(kwargs or {}))


def _tangent(arg: Any) -> Tensor | None:
    return forward_ad.unpack_dual(arg).tangent if isinstance(arg, Tensor) else None


def _standing(arg: Any, moving: Tensor) -> Any:
    """A number or a tensor of numbers with a tangent of zeros; anything else as it is."""
    if type(arg) in (int, float) and moving.is_floating_point():
        arg = torch.tensor(arg, dtype=moving.dtype, device=moving.device)
    if not isinstance(arg, Tensor) or not arg.is_floating_point():
        return arg
    return forward_ad.make_dual(arg, torch.zeros_like(arg))


def as_a_batch(f: Function, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor] | None:
    """`pushforward` by one copy of x for each tangent; None where f takes the copies for something else, or cannot be tried.

    See Note [Tangents as a batch].
    """
    with torch.no_grad():
        value, weights = f(x), _weights(v.shape[-2], v.dtype, v.device)
        try:
            combined = (weights[:, None] * v).sum(-2, keepdim=True)  # the last, known from the others
            rows = torch.cat([v, combined], dim=-2).movedim(-2, 0).contiguous()
            with forward_ad.dual_level(), _ZerosThatAreThere():
                dual = f(forward_ad.make_dual(x.expand_as(rows).contiguous(), rows))
                copies, pushed = forward_ad.unpack_dual(dual)
        except Exception:  # f, or its derivative, does not take states of this shape
            return None
        if pushed is None or copies.shape != (len(rows), *value.shape) or not alike(copies, value):
            return None
        pushed = pushed.movedim(0, -2)
        if not _is_combined(pushed[..., -1, :], weights[:, None] * pushed[..., :-1, :]):
            return None
    return value, pushed[..., :-1, :]


def plain_kernels() -> ExitStack:
    """A context that disables fused kernels, which have no forward derivative."""
    stack = ExitStack()
    stack.enter_context(_without_mkldnn())
    stack.enter_context(torch.backends.cudnn.flags(enabled=False))
    stack.enter_context(sdpa_kernel(SDPBackend.MATH))
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    stack.callback(torch.backends.mha.set_fastpath_enabled, fused)
    return stack


@contextmanager
def _without_mkldnn() -> Iterator[None]:
    """Unlike `torch.backends.mkldnn.flags(enabled=False)`, this leaves TF32 unchanged and does not warn about Intel GPUs."""
    enabled = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = enabled


def no_derivative(where: str, failure: Exception, more: str = "") -> UnsupportedModuleError:
    """The error for a failed automatic differentiation: where it failed, and what to do."""
    if "use_reentrant" in str(failure):
        return UnsupportedModuleError(
            f"{where} cannot be differentiated: torch.utils.checkpoint with use_reentrant=True does not support it.\n"
            "Pass use_reentrant=False to checkpoint; the results are the same."
        )
    return UnsupportedModuleError(
        f"{where} cannot be differentiated: {_first_line(failure)}{more}.\n"
        "Replace the operator named here by a differentiable one, or give the system its own pushforward."
    )


def _layer(failures: list[Exception]) -> str:
    """The innermost module on the last traceback that contains one; the traceback of a backward pass does not."""
    for failure in reversed(failures):
        frames = [frame for frame, _ in walk_tb(failure.__traceback__)]
        owners = [frame.f_locals.get("self") for frame in frames]
        layers = [type(owner).__name__ for owner in owners if isinstance(owner, torch.nn.Module)]
        if layers:
            return f"the layer {layers[-1]}"
    return "the step"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")[:200]
