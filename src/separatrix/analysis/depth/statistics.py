"""The statistics of BatchNorm layers: whether they are fresh, and those of a batch, held fixed."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from separatrix.core.errors import InputError

STATISTICS = ("running", "batch")
Norm = nn.modules.batchnorm._BatchNorm


def norms_of(model: nn.Module) -> dict[str, Norm]:
    """The BatchNorm layers of a model by name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, Norm)}


def fresh(model: nn.Module) -> str:
    """A warning if the running statistics of BatchNorm layers are those they are created with; otherwise empty."""
    tracked = {name: part for name, part in norms_of(model).items() if part.running_mean is not None}
    untouched = [name for name, part in tracked.items() if _is_untouched(part)]
    if not untouched:
        return ""
    which = f"'{untouched[0]}'" if len(tracked) == 1 else f"{len(untouched)} of {len(tracked)} BatchNorm layers"
    return (
        f"{which} still {'has' if len(untouched) == 1 else 'have'} running mean 0 and variance 1, as before any training, so in "
        "evaluation mode nothing is normalised there: use statistics='batch' (--statistics batch), or train first"
    )


def hold_batch_statistics(twin: nn.Module, run: Callable[[], object]) -> None:
    """Give the BatchNorm layers of a twin the statistics of one pass, each from inputs that those before it have normalised.

    The twin then computes in evaluation mode what the model computes in training mode for this batch.

    Args:
        twin: the twin, whose buffers are its own.
        run: runs the twin on the whole batch.

    Raises:
        InputError: a layer is called twice, or has a single number per channel.
    """
    norms, done = norms_of(twin), set[str]()
    if not norms:
        raise InputError("statistics is 'batch', but the model has no BatchNorm layer.\nLeave statistics out.")

    def measure(name: str, layer: Norm, given: tuple[Tensor, ...]) -> None:
        values = given[0].detach()
        rest = [axis for axis in range(values.ndim) if axis != 1]
        if name in done:
            raise InputError(
                f"{name!r} is called twice in a pass, so it has no single batch statistics.\nUse statistics='running'."
            )
        if values.numel() == values.shape[1]:
            raise InputError(f"{name!r} has one number per channel, whose variance is 0.\nPass more inputs.")
        done.add(name)
        held = {"running_mean": values.mean(rest), "running_var": values.var(rest, correction=0)}
        layer._buffers.update(held)

    for name, layer in norms.items():
        own = layer.__dict__["_forward_pre_hooks"] = OrderedDict(layer._forward_pre_hooks)
        own[_KEY] = lambda part, given, name=name: measure(name, part, given)
    try:
        run()
    finally:
        for layer in norms.values():
            layer._forward_pre_hooks.pop(_KEY)


_KEY = -1  # of the hook among a layer's own


def _is_untouched(layer: Norm) -> bool:
    mean, variance = layer.running_mean, layer.running_var
    return mean is not None and variance is not None and bool((mean == 0).all()) and bool(torch.all(variance == 1))
