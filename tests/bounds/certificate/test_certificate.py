"""The certificate of a network: never below what any two inputs show, and as tight as products of exact norms are."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev
from torch.nn import functional as F

import separatrix as sx

TIGHT = 1e-4  # what the bound may exceed a product of exact norms by
POINTS = 500  # at which the Jacobian of a network is computed whole


class Of(nn.Module):
    """A module that computes a function of its input and of modules and tensors it holds."""

    def __init__(self, function, **held) -> None:
        super().__init__()
        self.function = function
        for name, value in held.items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class BasicBlock(nn.Module):
    """torchvision's, as its source has it: in-place ReLUs, one of them called twice, and `out += identity`."""

    def __init__(self, inner: int, outer: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm2d(outer)
        changes = stride != 1 or inner != outer
        self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """torchvision's, small: stem, max-pooling with overlap, two stages, mean, head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(4, 4))
        self.layer2 = nn.Sequential(BasicBlock(4, 8, 2), BasicBlock(8, 8))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def seeded(make, seed: int = 0) -> nn.Module:
    """A network with random weights and running statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make()
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d) and part.running_var is not None:
                part.running_mean.normal_()
                part.running_var.uniform_(0.3, 3)
                nn.init.normal_(part.weight)
    return network.double().eval()


def jacobian_norms(network: nn.Module, shape: tuple[int, ...], count: int = POINTS, seed: int = 0) -> Tensor:
    """The largest singular value of the whole Jacobian at random points of several sizes, by reverse mode, one output a pass."""
    random = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-2, 1.5, count, dtype=torch.float64).reshape(-1, *[1] * len(shape))
    x = (sizes * torch.randn(count, *shape, dtype=torch.float64, generator=random)).requires_grad_()
    y = network(x).flatten(1)
    rows = [torch.autograd.grad(y[:, i].sum(), x, retain_graph=True)[0].flatten(1) for i in range(y.shape[1])]
    return torch.linalg.matrix_norm(torch.stack(rows, 1), 2)


def quotients(network: nn.Module, shape: tuple[int, ...], count: int = 4000, seed: int = 1) -> Tensor:
    """‖f(a) − f(b)‖ / ‖a − b‖ of pairs at random, of several sizes and distances."""
    random = torch.Generator().manual_seed(seed)
    size = torch.logspace(-2, 1.5, count, dtype=torch.float64).reshape(-1, *[1] * len(shape))
    apart = 10 ** (torch.rand(count, dtype=torch.float64, generator=random) * 5 - 4).reshape(size.shape)
    a = size * torch.randn(count, *shape, dtype=torch.float64, generator=random)
    b = a + apart * size * torch.randn(count, *shape, dtype=torch.float64, generator=random)
    with torch.no_grad():
        pairs = zip(a.split(1), b.split(1), strict=True)
        far = torch.cat([(network(one) - network(other)).flatten(1).norm(dim=1) for one, other in pairs])
    return far / (a - b).flatten(1).norm(dim=1)


def weight_norm(layer: nn.Module, shape: tuple[int, ...]) -> float:
    """The largest singular value of the dense matrix of an affine layer."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    with torch.no_grad():
        return float(torch.linalg.matrix_norm((layer(basis) - layer(torch.zeros_like(basis))).flatten(1), 2))


NETWORKS = {
    "dense": (lambda: nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 4)), (6,)),
    "smooth": (lambda: nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 9), nn.SiLU(), nn.Linear(9, 9), nn.Mish()), (6,)),
    "normalised": (lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ELU(1.7), nn.Linear(8, 3), nn.Softmax(-1)), (6,)),
    "convolutional": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.LeakyReLU(0.3),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(4, 4, 3),
            nn.PReLU(4),
            nn.Flatten(),
            nn.Linear(16, 3),
        ),
        (2, 8, 8),
    ),
    "padded": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
            nn.ReLU(),
            nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
            nn.Hardswish(),
            nn.AvgPool2d(3, 2, 1, count_include_pad=False),
            nn.ConvTranspose2d(3, 2, 3, 2, 1),
            nn.GroupNorm(2, 2),
        ),
        (2, 6, 6),
    ),
    "resnet": (ResNet, (3, 16, 16)),
    "residual": (
        lambda: nn.Sequential(
            *(sx.nn.Residual(nn.Sequential(nn.Linear(6, 6), nn.Softplus(), nn.Linear(6, 6)), scale=0.5) for _ in "ab")
        ),
        (6,),
    ),
    "dag": (
        lambda: Of(
            lambda m, x: m.c(torch.cat([torch.relu(m.a(x)), x, m.b(x).abs()], 1)) - 3 * x.flip(1),
            a=nn.Linear(6, 5),
            b=nn.Linear(6, 4),
            c=nn.Linear(15, 6),
        ),
        (6,),
    ),
    "sorted": (
        lambda: Of(
            lambda m, x: torch.cat([torch.maximum(*m.a(x).chunk(2, 1)), torch.minimum(*m.a(x).chunk(2, 1))], 1), a=nn.Linear(6, 8)
        ),
        (6,),
    ),
    "upsampled": (
        lambda: nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(2, 4, 3),
            nn.Softsign(),
            nn.PixelShuffle(2),
            nn.ReflectionPad2d(2),
            nn.AdaptiveMaxPool2d(5),
            nn.AdaptiveAvgPool2d(3),
        ),
        (2, 5, 5),
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def certified(request):
    make, shape = NETWORKS[request.param]
    network = seeded(make, 3)
    return network, shape, sx.certificate(network, shape)


def test_no_jacobian_and_no_two_inputs_show_more_than_the_bound(certified):
    network, shape, found = certified
    assert found.is_bounded and found.unknown == () and found.status == "ok"
    count = POINTS if math.prod(shape) < 200 else 60
    assert float(jacobian_norms(network, shape, count).max()) <= found.bound
    assert float(quotients(network, shape, 4 * count).max()) <= found.bound * (1 + 1e-9)  # the quotient's own rounding


def test_what_was_measured_is_shown_by_two_inputs_and_is_above_what_chance_finds(certified):
    network, shape, found = certified
    assert found.lower <= found.bound
    assert found.lower >= 0.9 * float(jacobian_norms(network, shape, 20, seed=5).max())


def test_the_bound_of_a_sequence_is_the_product_of_exact_norms():
    layers = [nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)]
    network = seeded(lambda: nn.Sequential(*layers))
    norms = weight_norm(network[0], (2, 8, 8)) * weight_norm(network[2], (4, 4, 4)) * weight_norm(network[5], (64,))
    assert norms <= sx.certificate(network, (2, 8, 8)).bound <= norms * (1 + TIGHT)


def test_a_linear_network_is_measured_and_bounded_at_the_norm_of_its_product():
    network = seeded(lambda: nn.Sequential(nn.Linear(7, 9), nn.Linear(9, 5), nn.Linear(5, 8)))
    exact = weight_norm(network, (7,))
    found = sx.certificate(network, 7)
    assert exact <= found.bound <= exact * (1 + TIGHT)
    assert found.lower == pytest.approx(exact, rel=1e-8)
    assert found.names == ("0 + 1 + 2",)


def test_a_convolution_and_its_batch_norm_are_one_operator():
    """Σ |γ_c/σ_c| of different channels: the norm of the product is below the product of the norms."""
    network = seeded(lambda: nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)))
    exact = weight_norm(network, (3, 6, 6))
    assert exact <= sx.certificate(network, (3, 6, 6)).bound <= exact * (1 + TIGHT)
    assert exact < 0.9 * weight_norm(network[0], (3, 6, 6)) * weight_norm(network[1], (5, 6, 6))


def test_normalisation_of_the_input_is_multiplied_into_the_first_convolution():
    mean, std = torch.rand(3, 1, 1, dtype=torch.float64), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)[:, None, None]
    network = seeded(lambda: Of(lambda m, x: m.first((x - m.mean) / m.std), first=nn.Conv2d(3, 4, 3), mean=mean, std=std))
    exact = weight_norm(network, (3, 6, 6))
    assert exact <= sx.certificate(network, (3, 6, 6)).bound <= exact * (1 + TIGHT)


def test_a_residual_network_is_bounded_by_the_product_of_one_plus_its_branches():
    network = seeded(lambda: nn.Sequential(*(sx.nn.Residual(nn.Sequential(nn.Linear(5, 5), nn.ReLU())) for _ in range(3))))
    exact = math.prod(1 + weight_norm(block.module[0], (5,)) for block in network)
    assert exact <= sx.certificate(network, 5).bound <= exact * (1 + TIGHT)


def test_paths_that_are_put_side_by_side_add_their_squares():
    network = seeded(lambda: Of(lambda m, x: torch.cat([m.a(x), m.b(x)], 1), a=nn.Linear(4, 3), b=nn.Linear(4, 6)))
    exact = math.hypot(weight_norm(network.a, (4,)), weight_norm(network.b, (4,)))
    assert sx.certificate(network, 4).bound == pytest.approx(exact, rel=TIGHT)


def test_two_outputs_are_one_value():
    network = seeded(lambda: Of(lambda m, x: (m.a(x), {"b": m.b(x)}), a=nn.Linear(4, 3), b=nn.Linear(4, 6)))
    found = sx.certificate(network, 4)
    assert found.bound == pytest.approx(math.hypot(weight_norm(network.a, (4,)), weight_norm(network.b, (4,))), rel=TIGHT)
    assert found.lower == pytest.approx(weight_norm(Of(lambda _, x: torch.cat([network.a(x), network.b(x)], 1)), (4,)), rel=1e-8)


# activations

SLOPED = [
    *(nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.3), nn.LeakyReLU(-1.5), nn.ELU(), nn.ELU(2.5), nn.SELU(), nn.CELU(0.5), nn.GELU()),
    *(nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.Softplus(), nn.Softplus(3.0), nn.Hardtanh(-2, 1), nn.Hardswish(), nn.Hardsigmoid()),
    *(nn.Sigmoid(), nn.Tanh(), nn.LogSigmoid(), nn.Softsign(), nn.Tanhshrink(), nn.Softshrink(), nn.RReLU(0.5, 3.5)),
    *(nn.Threshold(0.5, 0.5), nn.PReLU(init=1.3), Of(lambda _, x: x.sin()), Of(lambda _, x: x.cos()), Of(lambda _, x: x.erf())),
    *(
        Of(lambda _, x: x.atan()),
        Of(lambda _, x: x.asinh()),
        Of(lambda _, x: x.abs()),
        Of(lambda _, x: -x),
        Of(lambda _, x: x.clamp(-1, 2)),
    ),
]


@pytest.mark.parametrize("activation", SLOPED, ids=lambda one: f"{type(one).__name__}{getattr(one, 'approximate', '')}")
def test_the_constant_of_an_activation_is_its_largest_slope(activation):
    """On a grid of spacing 10⁻⁴ the largest slope is missed by less than 10⁻⁸; beside a kink it is that of the side.

    At a kink itself automatic differentiation gives either side's: of Hardswish at 3 it gives 1, should the grid be there.
    """
    activation = activation.double().eval()
    kinks = torch.arange(-25, 26, dtype=torch.float64)
    beside = [kinks.nextafter(torch.full_like(kinks, side)) for side in (-math.inf, math.inf)]
    x = torch.cat([torch.linspace(-25, 25, 500_001, dtype=torch.float64), *beside]).requires_grad_()
    (slope,) = torch.autograd.grad(activation(x).sum(), x)
    found = sx.certificate(activation, 3)
    largest = float(slope.abs().max())
    assert largest <= found.bound * (1 + 1e-12)
    assert found.bound <= largest * (1 + 1e-6)


def test_the_constant_of_hardswish_is_its_slope_at_three_from_the_left():
    """From 3 − δ to 3,  x (x + 3) / 6  rises by (3/2 − δ/6) δ, which no bound below 3/2 allows for every δ."""
    delta = 2.0**-20
    rise = F.hardswish(torch.tensor([3 - delta, 3.0], dtype=torch.float64)).diff().item()
    assert rise / delta == pytest.approx(1.5 - delta / 6, abs=1e-9)
    assert sx.certificate(nn.Hardswish(), 3).bound == pytest.approx(1.5, rel=1e-12)


def test_softmax_and_its_logarithm_are_bounded_and_the_bounds_are_approached():
    for kind, point, exact in ((nn.Softmax(-1), [0.0, 0.0, -60.0], 0.5), (nn.LogSoftmax(-1), [60.0, 0.0, 0.0], math.sqrt(3))):
        found = sx.certificate(kind, 3)
        norm = float(torch.linalg.matrix_norm(jacrev(kind)(torch.tensor(point, dtype=torch.float64)), 2))
        assert norm <= found.bound == pytest.approx(exact, rel=1e-12) and norm == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(
    "layer",
    [
        nn.LayerNorm(6),
        nn.LayerNorm(6, eps=0.3),
        nn.RMSNorm(6, eps=1e-3),
        Of(lambda _, x: F.group_norm(x, 2, eps=0.1)),
        Of(lambda _, x: F.instance_norm(x[:, None], eps=0.1)),
    ],
    ids=["layer", "large ε", "rms", "group", "instance"],
)
def test_normalisation_by_its_own_statistics_is_bounded_by_one_over_root_epsilon(layer):
    """Near a constant input (for RMS: near 0) the slope is 1/√ε."""
    layer = layer.double()
    found = sx.certificate(layer, 6)
    point = torch.zeros(1, 6, dtype=torch.float64)
    norm = float(torch.linalg.matrix_norm(jacrev(lambda x: layer(x).flatten())(point).reshape(6, 6), 2))
    assert norm <= found.bound * (1 + 1e-9) and norm == pytest.approx(found.bound, rel=1e-6)
    assert float(jacobian_norms(layer, (6,), 200).max()) <= found.bound


# pooling and copies

POOLS = [
    (nn.MaxPool2d(3, 2, 1), (2, 9, 9), math.sqrt(4)),
    (nn.MaxPool2d(2), (2, 8, 8), 1.0),
    (nn.MaxPool2d(3, 1), (1, 7, 7), 3.0),
    (nn.MaxPool2d((3, 2), (1, 2), dilation=(2, 1)), (1, 9, 8), math.sqrt(3)),
    (nn.MaxPool2d(3, 2, ceil_mode=True), (1, 6, 6), 2.0),
    (nn.MaxPool1d(5, 2), (2, 13), math.sqrt(3)),
    (nn.AdaptiveMaxPool2d(3), (1, 5, 5), 2.0),
    (nn.AdaptiveMaxPool2d(2), (1, 6, 6), 1.0),
]


@pytest.mark.parametrize(("pool", "shape", "exact"), POOLS, ids=lambda one: str(one)[:40])
def test_max_pooling_is_bounded_by_the_root_of_the_windows_that_share_a_number_and_attains_it(pool, shape, exact):
    """A spike in the place that most windows see is passed on by all of them."""
    found = sx.certificate(pool, shape)
    assert found.bound == pytest.approx(exact, rel=1e-12)
    spikes = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    assert float(pool(spikes).flatten(1).norm(dim=1).max()) == pytest.approx(exact, rel=1e-12)


LINEAR = [
    (nn.AvgPool2d(2), (2, 8, 8)),
    (nn.AvgPool2d(3, 2, 1), (1, 9, 7)),
    (nn.AvgPool2d(3, 1, 1, count_include_pad=False), (1, 6, 6)),
    (nn.AvgPool2d(3, 2, 1, ceil_mode=True), (1, 6, 6)),
    (nn.AvgPool1d(4, 3), (2, 11)),
    (nn.AvgPool3d(2, 1), (1, 4, 3, 3)),
    (nn.AdaptiveAvgPool2d(1), (3, 5, 5)),
    (nn.AdaptiveAvgPool2d((3, 2)), (1, 7, 5)),
    (nn.Upsample(scale_factor=3), (1, 3, 3)),
    (nn.Upsample(scale_factor=2, mode="bilinear"), (1, 4, 5)),
    (nn.Upsample(size=(7, 3), mode="bilinear", align_corners=True), (1, 4, 5)),
    (nn.Upsample(scale_factor=1.7, mode="linear"), (1, 6)),
    (nn.PixelShuffle(2), (4, 3, 3)),
    (nn.PixelUnshuffle(2), (1, 4, 4)),
    (nn.ReflectionPad2d(2), (1, 4, 4)),
    (nn.ReplicationPad2d(1), (1, 4, 4)),
    (nn.CircularPad2d(1), (1, 4, 4)),
    (nn.ConstantPad2d(1, 3.0), (1, 4, 4)),
    (nn.Unfold(2), (1, 4, 4)),
    (nn.ChannelShuffle(2), (4, 2, 2)),
    (Of(lambda _, x: x.mean((2, 3))), (2, 4, 4)),
    (Of(lambda _, x: x.sum(1)), (5,)),
    (Of(lambda _, x: x.mean()[None]), (5,)),
    (Of(lambda _, x: x[:, [0, 0, 2, 0]]), (5,)),
    (Of(lambda _, x: x[:, ::2].repeat(1, 3)), (5,)),
    (Of(lambda _, x: x[:, None].expand(-1, 4, -1)), (5,)),
    (Of(lambda _, x: x.roll(1, 1).flip(1)), (5,)),
    (Of(lambda _, x: x[:, None] + torch.zeros(3, 5)), (5,)),
    (Of(lambda _, x: x[:, :, None] * torch.tensor([1.0, 2.0, -2.0])), (4,)),
    (Of(lambda _, x: x / torch.tensor([1.0, 0.25, 2.0, 1.0])), (4,)),
    (Of(lambda _, x: 3 - 2.5 * x), (4,)),
    (Of(lambda _, x: torch.sub(torch.ones(4), x, alpha=3)), (4,)),
    (Of(lambda _, x: x @ torch.arange(12.0).reshape(4, 3).to(x)), (4,)),
    (Of(lambda _, x: torch.arange(12.0).reshape(3, 4).to(x) @ x.mT), (4,)),
    (Of(lambda _, x: torch.einsum("bi,ij->bj", x, torch.arange(12.0).reshape(4, 3).to(x))), (4,)),
    (Of(lambda _, x: torch.stack([x, 2 * x[:, :1].expand(-1, 4)], 1)[:, 1]), (4,)),
    (Of(lambda _, x: x.masked_fill(torch.tensor([True, False, False, True]), 7.0)), (4,)),
    (nn.Sequential(nn.Conv1d(2, 3, 3, padding="same"), nn.Flatten(), nn.Dropout(0.5)), (2, 5)),
    (nn.Conv2d(4, 4, 3, groups=2, dilation=2, padding=2), (4, 6, 6)),
    (nn.ConvTranspose1d(3, 2, 4, 3, 1, 1, groups=1), (3, 5)),
    (nn.Linear(4, 3), (5, 4)),
]


@pytest.mark.long
@pytest.mark.parametrize(("layer", "shape"), LINEAR, ids=lambda one: str(one)[:30])
def test_a_linear_layer_is_bounded_by_its_largest_singular_value(layer, shape):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for part in layer.modules():
            getattr(part, "reset_parameters", lambda: None)()
    layer = layer.double().eval()
    eye = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, 1, *shape)
    with torch.no_grad():
        columns = torch.stack([(layer(one) - layer(0 * one)).flatten() for one in eye])
    exact = float(torch.linalg.matrix_norm(columns, 2))
    found = sx.certificate(layer, shape)
    assert exact * (1 - 1e-12) <= found.bound
    assert found.bound <= exact * (1 + TIGHT) + 1e-12 or "stack" in found.names
    assert exact * (1 - 1e-6) <= found.lower <= found.bound
