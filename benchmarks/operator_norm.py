"""Proven norms of every layer of a convolutional network for CIFAR-10, against power iteration, which proves nothing."""

import torch
from torch import Tensor, nn

import separatrix as sx
from timing import Row, stopwatch

WIDTHS, SIDE, DEPTH = (32, 64, 128), 32, 5
ITERATIONS, GOAL, MINUTE, TIGHT = 300, 30.0, 60.0, 1e-4


def rows() -> list[Row]:
    """The whole network against the goal; then one layer of each kind, with its method and how loose its bound can be at most."""
    torch.manual_seed(0)
    layers = network()
    sx.operator_norm(*layers[0])  # the first call pays for loading
    found: list[sx.results.OperatorNorm] = []
    seconds = [stopwatch(lambda layer=layer, shape=shape: found.append(sx.operator_norm(layer, shape))) for layer, shape in layers]
    loose = sum(one.slack for one in found)
    if loose > TIGHT:
        raise AssertionError(f"the product of the bounds is proven to {loose:.2g} of the product of the norms, not to {TIGHT:g}.")
    weights = sum(layer.weight.numel() for layer, _ in layers)
    work = (
        f"norms of all {len(layers)} layers of a network of {weights:,} weights at {SIDE} × {SIDE}, product proven to {loose:.0e}"
    )
    whole = Row(work, sum(seconds), "goal", GOAL, "s", floor=True, goal=1.0)
    kinds = {layer.weight.shape: n for n, (layer, _) in enumerate(layers)}
    return [whole, *(row_of(*layers[n], found[n], seconds[n]) for n in kinds.values()), of_a_residual_network()]


def of_a_residual_network() -> Row:
    """The certificate of a ResNet-18 at 224 pixels, proofs and search, against the goal."""
    model = residual_network()
    certified: list[sx.results.Certificate] = []
    seconds = stopwatch(lambda: certified.append(sx.certificate(model, (3, 224, 224))))
    slack = certified[0].settings["slack"]
    work = f"certificate of a ResNet-18 at 224 × 224, {len(certified[0].names)} layers, norms to {slack:.0%}"
    return Row(work, seconds, "goal", MINUTE, "s", floor=True, goal=1.0)


class Residual(nn.Module):
    """The basic block of He et al. 2015, arXiv:1512.03385."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        parts = (nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.branch = nn.Sequential(*parts, nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        is_same = channels == width
        across = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.across = nn.Identity() if is_same else across

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.across(x))


def residual_network() -> nn.Module:
    """A ResNet-18 with torchvision's initial weights."""
    torch.manual_seed(0)
    stem = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    blocks = [Residual(64 << max(n - 1, 0), 64 << n, 2 if n else 1) for n in range(4)]
    again = [Residual(64 << n, 64 << n, 1) for n in range(4)]
    stages = [block for pair in zip(blocks, again, strict=True) for block in pair]
    model = nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return model


def network() -> list[tuple[nn.Module, tuple[int, ...]]]:
    """Every layer with its input's shape: for each width a lift and convolutions, the image halved after them; a head."""
    layers, channels, side = [], 3, SIDE
    for width in WIDTHS:
        for _ in range(DEPTH):
            layers.append((nn.Conv2d(channels, width, 3, padding=1), (channels, side, side)))
            channels = width
        side //= 2
    return [*layers, (nn.Linear(channels * side**2, 10), (channels * side**2,))]


def row_of(layer: nn.Module, shape: tuple[int, ...], found: sx.results.OperatorNorm, seconds: float) -> Row:
    """A layer in words."""
    work = f"norm of {type(layer).__name__} {shape[0]} → {layer.weight.shape[0]}"
    work += f", 3 × 3 at {shape[1]} × {shape[2]}" if len(shape) == 3 else ""
    theirs = stopwatch(lambda: by_power_iteration(layer, shape))
    note = f"{found.method}, proven to {found.slack:.0e}"
    return Row(work, seconds, f"{ITERATIONS} power iterations, float64", theirs, "s", note=note)


def by_power_iteration(layer: nn.Module, shape: tuple[int, ...]) -> float:
    """An estimate from below, as papers' scripts make it."""
    weight = layer.weight.detach().double()
    x = torch.randn(1, *shape, dtype=torch.float64)
    for _ in range(ITERATIONS):
        y = forward(weight, x)
        x = nn.functional.conv_transpose2d(y, weight, padding=1) if weight.dim() == 4 else y @ weight
        x /= x.norm()
    return float(forward(weight, x).norm())


def forward(weight: Tensor, x: Tensor) -> Tensor:
    """The layer without its bias."""
    return nn.functional.conv2d(x, weight, padding=1) if weight.dim() == 4 else x @ weight.mT
