"""Surrogate inputs for a control: some statistical properties of a drive are kept and all others destroyed."""

from typing import Any, Literal

import torch
from torch import Tensor

from separatrix.core.checks import as_inputs, check_choice, check_seed
from separatrix.core.errors import ShapeError
from separatrix.core.randomness import torch_generator

KINDS = ("shuffled", "phase")


def surrogate(inputs: Any, *, kind: Literal["shuffled", "phase"] = "shuffled", seed: int = 0) -> Tensor:
    """Draw surrogate inputs: an effect that persists under them does not depend on the properties that they destroy.

    Args:
        inputs: shape (time, inputs) or (time, *batch, inputs), time first; tensor or array.
        kind: "shuffled" permutes the steps: the inputs of a step stay together and keep their distribution, but their order is
            lost. "phase" gives each frequency a random phase, the same for all inputs of an item: mean, power spectrum and
            cross-spectra are preserved to rounding error, while all other structure, such as pauses, bursts or a skewed
            distribution, is lost. Each item of the batch has its own draw.
        seed: seed of the draw.

    Returns:
        The surrogate, with the shape and dtype of the inputs; integers become float64.

    Raises:
        InputError: the kind is unknown, or the inputs are not finite numbers.
        ShapeError: the inputs do not have shape (time, *batch, inputs), or have fewer than 4 steps.
    Source: Theiler et al. 1992, Physica D 58, 77; several inputs with one phase: Prichard & Theiler 1994, Phys. Rev. Lett. 73, 951.

    Example:
        >>> ramp = torch.arange(8.0)[:, None]
        >>> shuffled = sx.surrogate(ramp)
        >>> bool((shuffled == ramp).all()), shuffled.sort(dim=0).values[:, 0]
        (False, tensor([0., 1., 2., 3., 4., 5., 6., 7.]))
    """
    values = as_inputs("the inputs", inputs)
    check_choice("kind", kind, KINDS)
    if values.ndim < 2 or len(values) < 4:
        raise ShapeError(f"the inputs have shape {tuple(values.shape)}; expected (time, *batch, inputs) with at least 4 steps.")
    generator = torch_generator(check_seed(seed), "surrogate")
    items = values.reshape(len(values), -1, values.shape[-1])
    made = _shuffled(items, generator) if kind == "shuffled" else _rephased(items, generator)
    return made.reshape(values.shape)


def _shuffled(items: Tensor, generator: torch.Generator) -> Tensor:
    """(time, items, inputs), each item with its own permutation."""
    order = torch.rand(items.shape[:2], dtype=torch.float64, generator=generator).argsort(0).to(items.device)
    return items.gather(0, order[..., None].expand_as(items))


def _rephased(items: Tensor, generator: torch.Generator) -> Tensor:
    """(time, items, inputs), with random phases per item; the mean and, for an even length, the highest frequency have none."""
    spectrum = torch.fft.rfft(items.double(), dim=0)
    angle = 2 * torch.pi * torch.rand(spectrum.shape[:2], dtype=torch.float64, generator=generator)
    angle[0] = 0
    if len(items) % 2 == 0:
        angle[-1] = 0
    turn = torch.polar(torch.ones_like(angle), angle).to(items.device)
    return torch.fft.irfft(spectrum * turn[..., None], n=len(items), dim=0).to(items.dtype)
