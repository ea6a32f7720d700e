"""Depth profiles: the default one against a forward and a backward pass, and singular values against dense Jacobians."""

import copy

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


class Block(nn.Module):
    """A causal transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.before, self.between = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.act, self.narrow = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width), the same after."""
        q, k, v = self.qkv(self.before(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.narrow(self.act(self.wide(self.between(x))))


def transformer(blocks: int, width: int) -> nn.Sequential:
    """Tokens to scores of 100 words."""
    layers = [Block(width, 4) for _ in range(blocks)]
    return nn.Sequential(nn.Embedding(100, width), *layers, nn.LayerNorm(width), nn.Linear(width, 100))


def rows() -> list[Row]:
    """The default profile of a transformer, singular values behind four of its blocks, and those of a small convolutional one."""
    return [*against_a_pass(), *against_dense()]


def against_a_pass() -> list[Row]:
    """One input through 6 blocks of width 128, 64 tokens; the pass in float64, as the profile, and in float32, as in training."""
    torch.manual_seed(0)
    net, tokens = transformer(6, 128), torch.randint(100, (1, 64))
    double, blocks = copy.deepcopy(net).double(), ["1", "3", "5", "6"]
    ways = {
        "default": lambda: sx.depth_profile(net, tokens),
        "named": lambda: sx.depth_profile(net, tokens, k=1, layers=blocks),
        "pass": lambda: there_and_back(double, tokens),
        "single": lambda: there_and_back(net, tokens),
    }
    seconds = interleaved(ways, repeats=5)
    profile, named = "default depth profile of a transformer of 6 blocks", "largest singular value behind 4 of its blocks"
    passes = {"pass": "a forward and a backward pass, float64", "single": "the same, float32"}
    goals = [(profile, "default", 20.0), (named, "named", 200.0)]
    return [
        Row(work, seconds[way], passes[side], seconds[side], "s", floor=True, goal=goal if side == "pass" else None)
        for work, way, goal in goals
        for side in passes
    ]


def there_and_back(net: nn.Module, tokens: Tensor) -> None:
    """One forward and one backward pass."""
    torch.autograd.grad(net(tokens).square().mean(), list(net.parameters()))


def against_dense() -> list[Row]:
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
