"""Bounds of norms are never below the norm that a dense matrix has, and tight."""

import math

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.nn.norms import chain, proof, torus

ROUNDING = 1e-13
TIGHT = 2e-6  # the first trial is 10⁻⁶ above an estimate that is good to 10⁻⁸

KERNELS = [  # kernel, stride, padding, dilation, groups
    (3, 1, 1, 1, 1),
    (3, 2, 1, 1, 1),
    (3, 1, 2, 2, 1),
    (5, 3, 2, 1, 2),
    (2, 2, 0, 1, 1),
    (4, 2, 1, 1, 1),
    (3, 2, 3, 2, 1),
    (1, 1, 0, 1, 1),
    (1, 2, 0, 1, 2),
    (3, 1, 1, 1, 4),
]


def dense(layers: list[nn.Module], shape: tuple[int, ...]) -> torch.Tensor:
    """The matrix, by running the layers on unit vectors."""
    network = nn.Sequential(*layers).eval()
    size = math.prod(shape)
    with torch.no_grad():
        images = network(torch.eye(size, dtype=torch.float64).view(size, *shape))
        return (images - network(torch.zeros(1, *shape, dtype=torch.float64))).flatten(1).T


def holds_and_is_tight(layers: list[nn.Module], shape: tuple[int, ...]) -> sx.nn.OperatorNorm:
    matrix = dense(layers, shape)
    values = torch.linalg.svdvals(matrix)
    largest = float(values[0])
    smallest = float(values[-1]) if matrix.shape[0] >= matrix.shape[1] else 0.0
    found = sx.nn.operator_norm(layers, shape)
    assert found.lower <= largest * (1 + ROUNDING)
    assert largest * (1 - ROUNDING) <= found.bound <= largest * (1 + TIGHT)
    assert found.bound - found.lower <= TIGHT * found.bound
    assert found.smallest is None or found.smallest <= smallest + ROUNDING * largest
    return found


@pytest.fixture(params=["SVD", "torus", "Cholesky"])
def preferred(request, monkeypatch):
    """Each way to prove is made the cheapest in turn."""
    monkeypatch.setattr(proof, "SMALL", 10**6 if request.param == "SVD" else 0)
    monkeypatch.setattr(torus, "OVERHEAD", -1e30 if request.param == "torus" else 1e30)
    return request.param


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("options", KERNELS, ids=str)
def test_the_bound_of_a_convolution_is_that_of_its_matrix(options, mode, preferred):
    kernel, stride, padding, dilation, groups = options
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, padding_mode=mode).double()
    holds_and_is_tight([layer], (4, 9, 8))


OTHERS = {
    "same, even kernel": (lambda: nn.Conv2d(4, 4, 4, padding="same"), (4, 9, 8)),
    "valid": (lambda: nn.Conv2d(4, 4, 3, padding="valid"), (4, 9, 8)),
    "stride and kernel differ by axis": (lambda: nn.Conv2d(3, 5, (3, 2), (1, 2), (0, 1)), (3, 9, 8)),
    "line": (lambda: nn.Conv1d(4, 4, 5, padding=2), (4, 40)),
    "line, reflected": (lambda: nn.Conv1d(4, 4, 5, padding="same", padding_mode="reflect"), (4, 19)),
    "volume": (lambda: nn.Conv3d(2, 3, 3, padding=1), (2, 5, 6, 4)),
    "kernel larger than the image": (lambda: nn.Conv2d(2, 3, 7, padding=3), (2, 4, 5)),
    "one place": (lambda: nn.Conv2d(4, 4, 3, padding=1), (4, 1, 1)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), (4, 6, 5)),
    "transposed, groups, dilation": (lambda: nn.ConvTranspose2d(4, 6, 4, 3, 1, 0, 2, dilation=2), (4, 6, 5)),
    "transposed, output padding": (lambda: nn.ConvTranspose1d(4, 6, 4, 3, 1, 2), (4, 6)),
    "transposed, volume": (lambda: nn.ConvTranspose3d(4, 6, 3, 2, 1), (4, 3, 4, 2)),
    "matrix, wide": (lambda: nn.Linear(17, 5), (17,)),
    "matrix, tall": (lambda: nn.Linear(7, 19), (7,)),
    "matrix at each place": (lambda: nn.Linear(7, 9), (3, 7)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_bound_of_any_linear_layer_is_that_of_its_matrix(name, preferred):
    torch.manual_seed(0)
    make, shape = OTHERS[name]
    holds_and_is_tight([make().double()], shape)


POOLS = [
    (nn.AvgPool2d(2), (3, 8, 7)),
    (nn.AvgPool2d(3, 2, 1), (3, 8, 7)),
    (nn.AvgPool2d((3, 2), 2, 1, ceil_mode=True, count_include_pad=False), (3, 8, 7)),
    (nn.AvgPool2d(3, 2, 1, True, True), (3, 8, 7)),
    (nn.AvgPool2d(3, divisor_override=5, ceil_mode=True), (3, 8, 7)),
    (nn.AvgPool1d(3, 2, 1), (3, 9)),
    (nn.AvgPool3d(2), (2, 4, 5, 6)),
    (nn.AdaptiveAvgPool2d((3, None)), (3, 8, 7)),
    (nn.AdaptiveAvgPool1d(4), (3, 9)),
    (nn.AdaptiveAvgPool2d(1), (3, 8, 7)),
]


@pytest.mark.parametrize(("pool", "shape"), POOLS, ids=str)
def test_pools_and_their_counts_are_products_over_the_axes(pool, shape):
    assert holds_and_is_tight([pool], shape).method == "separable"


def test_an_average_over_all_places_has_the_norm_of_its_row():
    """‖(1/n, …, 1/n)‖ = 1/√n."""
    assert sx.nn.operator_norm(nn.AdaptiveAvgPool2d(1), (5, 8, 8)).bound == pytest.approx(1 / 8, rel=1e-12)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).double().eval()
    nn.init.uniform_(norm.weight, -2, 2)
    nn.init.uniform_(norm.bias)
    norm.running_var.uniform_(0.1, 2)
    norm.running_mean.normal_()
    return norm


CHAINS = {
    "batch-norm": (lambda: [batch_norm(8)], (8, 3, 4), "diagonal"),
    "two of them": (lambda: [batch_norm(8), batch_norm(8)], (8, 3, 4), "diagonal"),
    "behind a convolution": (lambda: [nn.Conv2d(4, 8, 3, padding=1), batch_norm(8)], (4, 8, 8), None),
    "on both sides": (lambda: [batch_norm(4), nn.Conv2d(4, 8, 3, padding=1, groups=2), batch_norm(8)], (4, 8, 8), None),
    "around a transposed one": (lambda: [batch_norm(8), nn.ConvTranspose2d(8, 6, 3, 2, groups=2), batch_norm(6)], (8, 5, 5), None),
    "flattened": (lambda: [batch_norm(8), nn.Flatten(), nn.Linear(8 * 16, 5)], (8, 4, 4), "SVD"),
    "all one matrix": (
        lambda: [nn.Conv2d(4, 8, 3, padding=1), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 5)],
        (4, 8, 8),
        "SVD",
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_layers_one_after_the_other_are_one_matrix(name, monkeypatch):
    torch.manual_seed(0)
    make, shape, method = CHAINS[name]
    monkeypatch.setattr(proof, "SMALL", 0 if method is None else proof.SMALL)
    layers = [layer.double() for layer in make()]
    assert holds_and_is_tight(layers, shape).method in (method, "torus", "Cholesky")
    assert sx.nn.operator_norm(nn.Sequential(*layers), shape) == sx.nn.operator_norm(layers, shape)


def test_a_long_chain_that_is_no_one_matrix_has_the_product_of_the_bounds(monkeypatch):
    monkeypatch.setattr(chain, "SMALL", 1)
    layers = [nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)]
    one, other = sx.nn.operator_norm(layers[0], (4, 8, 8)), sx.nn.operator_norm(layers[1], (8, 8, 8))
    both = sx.nn.operator_norm(layers, (4, 8, 8))
    assert (both.method, both.lower) == ("product", 0.0)
    assert both.bound == pytest.approx(one.bound * other.bound, rel=1e-14)


def test_what_only_renames_keeps_the_norm():
    layers = [nn.Identity(), nn.Flatten(), nn.Unflatten(1, (3, 4))]
    assert sx.nn.operator_norm(layers, (12, 1, 1)) == sx.nn.OperatorNorm(1.0, 1.0, "identity", 1.0)


def test_circular_padding_proves_the_smallest_singular_value_too(monkeypatch):
    monkeypatch.setattr(proof, "SMALL", 0)
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular").double()
    found = sx.nn.operator_norm(layer, (6, 8, 9))
    values = torch.linalg.svdvals(dense([layer], (6, 8, 9)))
    assert found.method == "Fourier"
    assert found.smallest == pytest.approx(float(values[-1]), rel=1e-6)
    assert found.smallest <= float(values[-1])


def test_an_orthogonal_kernel_with_zeros_around_is_no_isometry():
    """A shift by one place loses a row: the largest singular value is 1 and the smallest 0, in a circle both are 1."""
    layer = nn.Conv2d(3, 3, 3, padding=1, bias=False).double()
    nn.init.zeros_(layer.weight)
    layer.weight.data[:, :, 0, 1] = torch.eye(3)
    found = sx.nn.operator_norm(layer, (3, 7, 7))
    assert (found.bound, found.smallest) == (pytest.approx(1, abs=1e-6), 0.0)
    layer.padding_mode, layer._reversed_padding_repeated_twice = "circular", [1, 1, 1, 1]
    found = sx.nn.operator_norm(layer, (3, 20, 20))
    assert (found.bound, found.smallest) == (pytest.approx(1, abs=1e-9), pytest.approx(1, abs=1e-9))


@pytest.mark.parametrize("options", [dict(padding=1), dict(padding=1, stride=2), dict(padding=2, dilation=2, groups=2)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_power_iteration_stays_below(options, seed, preferred):
    torch.manual_seed(seed)
    layer = nn.Conv2d(6, 6, 3, bias=False, **options).double()
    bound = sx.nn.operator_norm(layer, (6, 11, 12)).bound
    x = torch.randn(1, 6, 11, 12, dtype=torch.float64, requires_grad=True)
    for _ in range(100):
        y = layer(x / x.norm())
        x = torch.autograd.grad(y, x, y)[0].detach().requires_grad_()
    assert float(y.detach().norm()) <= bound


def kernels() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    twins = torch.zeros(6, 6, 3, 3, dtype=torch.float64)
    twins[range(6), range(6)] = torch.ones(3, 3, dtype=torch.float64) / 9
    one = torch.randn(6, 1, 1, 1) * torch.randn(1, 6, 1, 1) * torch.randn(3, 1) * torch.randn(3)
    orthogonal = torch.zeros(6, 6, 3, 3)
    orthogonal[:, :, 1, 1] = torch.linalg.qr(torch.randn(6, 6))[0]
    checkers = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, -1.0, 1.0]]).expand(6, 6, 3, 3)
    return {
        "six equal leading values": twins,
        "six that differ by 10⁻⁹": twins * (1 + 1e-9 * torch.arange(6).view(6, 1, 1, 1)),
        "rank one": one.double(),
        "orthogonal, nearly": (orthogonal + 1e-4 * torch.randn(6, 6, 3, 3)).double(),
        "highest frequency": checkers.double(),
        "one entry": torch.nn.functional.pad(torch.ones(1, 1, 1, 1), (2, 0, 2, 0, 0, 5, 0, 5)).double(),
        "zeros": torch.zeros(6, 6, 3, 3, dtype=torch.float64),
        "huge": 1e150 * torch.randn(6, 6, 3, 3, dtype=torch.float64),
        "tiny": 1e-150 * torch.randn(6, 6, 3, 3, dtype=torch.float64),
    }


@pytest.mark.parametrize("name", kernels())
def test_kernels_that_are_meant_to_break_a_bound_do_not(name, preferred):
    layer = nn.Conv2d(6, 6, 3, padding=1, bias=False).double()
    layer.weight.data = kernels()[name]
    holds_and_is_tight([layer], (6, 10, 9))


def test_the_smallest_numbers_there_are_stay_below_their_bound():
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(layer.weight, 5e-324)
    assert sx.nn.operator_norm(layer, 1).bound >= 5e-324
    nn.init.constant_(layer.weight, 1.7e308)
    assert sx.nn.operator_norm([layer, layer], 1).bound == math.inf
    assert sx.nn.operator_norm([layer, layer], 1).lower < math.inf


@pytest.mark.parametrize("short", [0.9, 0.999])
def test_a_start_that_misses_the_leading_vector_makes_the_bound_looser_and_not_wrong(short, preferred, monkeypatch):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, 3, padding=1).double()
    largest = float(torch.linalg.svdvals(dense([layer], (4, 8, 7)))[0])
    right = proof.from_below
    monkeypatch.setattr(proof, "from_below", lambda a, seed=0: short * right(a, seed=seed))
    found = sx.nn.operator_norm(layer, (4, 8, 7))
    assert largest <= found.bound <= 1.1 * largest
    assert found.lower <= largest


def test_an_estimate_that_misses_is_made_again_from_another_start(monkeypatch):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, 3, padding=1).double()
    right = proof.from_below
    monkeypatch.setattr(proof, "SMALL", 0)
    monkeypatch.setattr(proof, "from_below", lambda a, seed=0: right(a, seed=seed) * (0.9 if seed == 0 else 1.0))
    assert sx.nn.operator_norm(layer, (4, 8, 7)).slack < TIGHT


def test_without_a_budget_the_circular_bound_is_true_and_looser():
    torch.manual_seed(0)
    for mode, most in {"zeros": 1.05, "reflect": 4.1, "replicate": 4.1}.items():
        layer = nn.Conv2d(6, 6, 3, padding=1, padding_mode=mode).double()
        largest = float(torch.linalg.svdvals(dense([layer], (6, 10, 10)))[0])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(proof, "SMALL", 0)
            found = sx.nn.operator_norm(layer, (6, 10, 10), budget=0)
        assert found.method == "circular bound"
        assert largest < found.bound < most * largest


def test_an_image_of_32_by_32_is_proven_to_a_millionth():
    torch.manual_seed(0)
    found = sx.nn.operator_norm(nn.Conv2d(24, 24, 3, padding=1), (24, 32, 32))
    assert found.method == "torus"
    assert found.slack < TIGHT


def test_spectral_norm_divides_by_the_norm_of_a_flat_kernel_which_is_another():
    """PyTorch's issue 99149: after `spectral_norm` the operator's norm is not 1."""
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 3, padding=1), n_power_iterations=50)
    layer.eval()
    flat = float(torch.linalg.matrix_norm(layer.weight.flatten(1), 2))
    assert flat == pytest.approx(1, abs=1e-3)
    assert sx.nn.operator_norm(layer, (3, 16, 16)).lower > 1.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_any_precision_are_taken_as_they_are(dtype):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, padding=1).to(dtype)
    exact = nn.Conv2d(3, 4, 3, padding=1).double()
    exact.load_state_dict(layer.state_dict())
    assert sx.nn.operator_norm(layer, (3, 8, 8)) == sx.nn.operator_norm(exact, (3, 8, 8))


def test_a_parametrised_layer_is_read_as_in_eval_and_left_alone():
    layer = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    found = sx.nn.operator_norm(layer, (3, 9, 9))
    assert layer.training
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    layer.eval()
    assert found == sx.nn.operator_norm(layer, (3, 9, 9))


def spoiled(value: float) -> nn.Module:
    layer = nn.Conv2d(3, 4, 3)
    layer.weight.data[0, 0, 0, 0] = value
    return layer


class Doubled(nn.Conv2d):
    def forward(self, input):
        return 2 * super().forward(input)


image = (3, 8, 8)
BAD = {
    "nan": (lambda: spoiled(math.nan), image, sx.InputError, "the weight of Conv2d has 1 numbers out of 108 that are not finite"),
    "inf": (lambda: spoiled(math.inf), image, sx.InputError, "the weight of Conv2d has 1 numbers out of 108 that are not finite"),
    "no height": (
        lambda: nn.Conv2d(3, 4, 3),
        (3, 8),
        sx.ShapeError,
        r"Conv2d takes .* \(3, height, width\), but the shape is \(3, 8\)",
    ),
    "a batch": (lambda: nn.Conv2d(3, 4, 3), (1, *image), sx.ShapeError, "without its batch"),
    "channels": (lambda: nn.Conv2d(3, 4, 3), (4, 8, 8), sx.ShapeError, r"but the shape is \(4, 8, 8\)"),
    "too small": (
        lambda: nn.Conv2d(3, 4, 9),
        image,
        sx.ShapeError,
        r"sizes \(8, 8\) are too small for Conv2d with the kernel \(9, 9\)",
    ),
    "width": (lambda: nn.Linear(3, 4), 5, sx.ShapeError, r"Linear takes an input of shape \(…, 3\), but the shape is \(5,\)"),
    "pool": (lambda: nn.AvgPool2d(9), image, sx.ShapeError, "does not take the shape"),
    "flat batch": (lambda: nn.Flatten(0), image, sx.ShapeError, "does not take the shape"),
    "normalised": (lambda: batch_norm(4), image, sx.ShapeError, r"BatchNorm2d takes .* \(4, …\)"),
    "training": (lambda: nn.BatchNorm2d(3), image, sx.UnsupportedModuleError, "BatchNorm2d in training mode"),
    "statistics": (
        lambda: nn.BatchNorm2d(3, track_running_stats=False).eval(),
        image,
        sx.UnsupportedModuleError,
        "without running statistics",
    ),
    "not linear": (nn.ReLU, image, sx.UnsupportedModuleError, "ReLU is not a linear layer"),
    "its own forward": (lambda: Doubled(3, 4, 3), image, sx.UnsupportedModuleError, "this Doubled has a forward of its own"),
    "hooks": (
        lambda: nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)),
        image,
        sx.UnsupportedModuleError,
        "this Conv2d runs SpectralNorm",
    ),
    "lazy": (lambda: nn.LazyConv2d(4, 3), image, sx.UnsupportedModuleError, "has no weight yet"),
    "complex": (lambda: nn.Linear(3, 4, dtype=torch.complex64), 3, sx.UnsupportedModuleError, "torch.complex64"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BAD)
def test_what_has_no_norm_is_refused_in_a_clear_line(name):
    make, shape, error, message = BAD[name]
    with pytest.raises(error, match=message):
        sx.nn.operator_norm(make(), shape)
