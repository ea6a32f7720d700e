"""A training step of the classifier of factor 1 against that of the unconstrained residual network of equal shape."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

import separatrix as sx
from timing import Row, interleaved

IMAGES, SIDE, CLASSES, WIDTHS, BLOCKS = 128, 32, 10, (32, 64, 128), 2
GOAL = 2.5


def rows() -> list[Row]:
    """Forward, backward and the optimiser's step, in float32, with either kind of block."""
    torch.manual_seed(0)
    images, classes = torch.rand(IMAGES, 3, SIDE, SIDE), torch.randint(CLASSES, (IMAGES,))
    shape = {"image_size": SIDE, "widths": WIDTHS, "blocks": BLOCKS}
    networks = {
        "alternating": sx.nn.LipschitzConvNet(3, CLASSES, **shape),
        "non_expansive": sx.nn.LipschitzConvNet(3, CLASSES, kind="non_expansive", **shape),
        "unconstrained": sx.nn.ResidualConvNet(3, CLASSES, **shape),
    }
    seconds = interleaved({name: training_step(network, images, classes) for name, network in networks.items()})
    against = f"the unconstrained residual network of equal shape, {BLOCKS} blocks a stage"
    return [
        Row(
            f"a training step of LipschitzConvNet, {kind}, {IMAGES} images {SIDE} × {SIDE}, widths {WIDTHS}",
            seconds[kind],
            against,
            seconds["unconstrained"],
            "s",
            floor=True,
            goal=GOAL,
        )
        for kind in ("alternating", "non_expansive")
    ]


def training_step(network: nn.Module, images: torch.Tensor, classes: torch.Tensor) -> Callable[[], None]:
    """Work that learns from one mini-batch."""
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimiser.zero_grad()
        functional.multi_margin_loss(network(images), classes).backward()
        optimiser.step()

    return step
