"""Leading singular values of every block of a convolutional residual network, against a dense Jacobian of each."""

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

import separatrix as sx
from timing import Row, interleaved

CHANNELS, SIDE, BLOCKS, IMAGES, LEADING = 8, 16, 6, 2, 8


class Residual(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(images, CHANNELS, SIDE, SIDE), the same after."""
        return x + self.second(torch.relu(self.first(x)))


def rows() -> list[Row]:
    """Eight singular values behind each block, to a residual of 1 %, in float64; the dense side has all of them."""
    torch.manual_seed(0)
    enter = nn.Conv2d(3, CHANNELS, 3, padding=1)
    net = nn.Sequential(enter, *[Residual() for _ in range(BLOCKS)]).double()
    images = torch.randn(IMAGES, 3, SIDE, SIDE, dtype=torch.float64)
    names = [str(n) for n in range(1, BLOCKS + 1)]
    ours, dense = sx.depth_profile(net, images, k=LEADING, layers=names), by_dense_jacobians(net, images)
    apart = ((ours.singular_values - dense).abs() / dense[..., :1]).max()
    if apart > 1e-2:
        raise RuntimeError(f"the two sides differ by {apart:.2g} of the largest singular value.")
    seconds = interleaved(
        {
            "ours": lambda: sx.depth_profile(net, images, k=LEADING, layers=names),
            "dense": lambda: by_dense_jacobians(net, images),
        },
        repeats=3,
    )
    work = f"{LEADING} singular values behind each of {BLOCKS} residual blocks of {CHANNELS} × {SIDE} × {SIDE}, {IMAGES} images"
    return [Row(work, seconds["ours"], "`vmap(jacrev)` of each and its SVD", seconds["dense"], "s")]


def by_dense_jacobians(net: nn.Sequential, images: Tensor) -> Tensor:
    """The leading singular values behind each block, shape (block, image, LEADING)."""
    found = []
    for n in range(1, BLOCKS + 1):
        part = net[: n + 1]
        jacobian = vmap(jacrev(lambda x, part=part: part(x[None])[0].flatten()))(images).flatten(2)
        found.append(torch.linalg.svdvals(jacobian)[..., :LEADING])
    return torch.stack(found).detach()
