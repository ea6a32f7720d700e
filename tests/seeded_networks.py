"""Networks and inputs that follow from a seed, without touching the global generator."""

import torch
from torch import Tensor, nn


def seeded(make, seed: int = 0):
    """What a function makes when the global generator starts from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def linear(*weights: Tensor) -> nn.Sequential:
    """A stack of linear layers with these weights, without biases."""
    layers = [nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=torch.float64) for w in weights]
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight = nn.Parameter(weight)
    return nn.Sequential(*layers)
