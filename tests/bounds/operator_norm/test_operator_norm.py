"""Bounds of norms are never below the norm that a dense matrix has, and tight."""

import importlib
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import separatrix as sx
from separatrix.bounds.operator_norm import chain, pieces, proof, torus
from separatrix.bounds.operator_norm.lanczos import from_below

door = importlib.import_module("separatrix.bounds.operator_norm.operator_norm")  # the name in `sx.nn` is the function's
ROUNDING = 1e-13
TIGHT = 4e-6  # the first trial is 3 · 10⁻⁶ above an estimate that is good to 10⁻⁶

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


def assert_holds_and_is_tight(layers: list[nn.Module], shape: tuple[int, ...]) -> sx.results.OperatorNorm:
    matrix = dense(layers, shape)
    values = torch.linalg.svdvals(matrix)
    largest = float(values[0])
    smallest = float(values[-1]) if matrix.shape[0] >= matrix.shape[1] else 0.0
    found = sx.operator_norm(layers, shape)
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
    assert_holds_and_is_tight([layer], (4, 9, 8))


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
    assert_holds_and_is_tight([make().double()], shape)


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
    (nn.AvgPool2d(3, 1, 1, divisor_override=-2), (3, 8, 7)),
    (nn.AvgPool3d(2, 1, 1, ceil_mode=True, divisor_override=3), (2, 3, 4, 3)),
    (nn.AdaptiveAvgPool1d(13), (3, 9)),
]


@pytest.mark.parametrize(("pool", "shape"), POOLS, ids=str)
def test_pools_and_their_counts_are_products_over_the_axes(pool, shape):
    assert assert_holds_and_is_tight([pool], shape).method == "separable"


def test_an_average_over_all_places_has_the_norm_of_its_row():
    """‖(1/n, …, 1/n)‖ = 1/√n."""
    assert sx.operator_norm(nn.AdaptiveAvgPool2d(1), (5, 8, 8)).bound == pytest.approx(1 / 8, rel=1e-12)


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
    assert assert_holds_and_is_tight(layers, shape).method in (method, "torus", "Cholesky")
    assert sx.operator_norm(nn.Sequential(*layers), shape) == sx.operator_norm(layers, shape)


def channelwise(channels: int) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(channels).double().eval()
    nn.init.uniform_(norm.weight, 0.2, 2)
    norm.running_var.uniform_(0.1, 2)
    norm.running_mean.normal_()
    return norm


LAYOUTS = {  # a Linear acts on the last axis, whatever its neighbours call channels
    "flattened behind": (lambda: [nn.Linear(3, 2), nn.Flatten(), nn.Linear(8, 3)], (4, 3)),
    "channels behind": (lambda: [nn.Linear(4, 4), channelwise(4)], (4, 4)),
    "channels before": (lambda: [channelwise(3), nn.Linear(3, 3)], (3, 3)),
    "image behind": (lambda: [nn.Linear(6, 6), nn.Conv2d(2, 3, 3)], (2, 5, 6)),
    "line before": (lambda: [nn.Conv1d(2, 3, 3, padding=1), nn.Linear(6, 6)], (2, 6)),
    "pool before": (lambda: [nn.AvgPool1d(2), nn.Linear(3, 3)], (2, 6)),
    "at the same places": (lambda: [nn.Linear(6, 4), nn.Linear(4, 5)], (7, 6)),
    "some axes flattened": (lambda: [nn.Linear(6, 4), nn.Flatten(1, 2), channelwise(12)], (3, 6)),
    "axes counted from the end": (lambda: [nn.Flatten(-2), nn.Linear(6, 6), nn.Unflatten(-1, (2, 3)), channelwise(2)], (2, 3)),
    "last axis unflattened": (lambda: [nn.Linear(4, 3), nn.Unflatten(-1, (1, 3)), nn.Conv2d(2, 2, (1, 2))], (2, 4)),
    "channels merged": (lambda: [nn.Conv1d(2, 4, 3, padding=1), nn.Flatten(), nn.Unflatten(1, (2, 12)), channelwise(2)], (2, 6)),
    "pool of one place behind": (lambda: [nn.Linear(1, 1), nn.AdaptiveAvgPool1d(4)], (2, 1)),
    "transposed": (lambda: [nn.Linear(5, 4), nn.ConvTranspose1d(3, 2, 3, 2, 1, 1), nn.Linear(8, 2)], (3, 5)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_all_layers_keep_the_order_of_the_tensor(name):
    torch.manual_seed(0)
    make, shape = LAYOUTS[name]
    layers = [layer.double() for layer in make()]
    found = assert_holds_and_is_tight(layers, shape)
    matrix = dense(layers, shape)
    least = float(torch.linalg.svdvals(matrix)[-1]) if matrix.shape[0] >= matrix.shape[1] else 0.0
    assert found.smallest == pytest.approx(least, abs=1e-10)


def test_a_long_chain_of_matrices_at_many_places_is_that_of_one_place():
    torch.manual_seed(0)
    layers = [nn.Linear(40, 30).double(), nn.Linear(30, 40).double()]
    product = layers[1].weight.detach() @ layers[0].weight.detach()
    assert sx.operator_norm(layers, (10_000, 40)).bound == pytest.approx(float(torch.linalg.matrix_norm(product, 2)), rel=1e-9)


SKIPPING = {  # what a stride never reads is taken to nothing
    "line": (lambda: nn.Conv1d(1, 3, 1, stride=2), (1, 16)),
    "image": (lambda: nn.Conv2d(2, 10, 1, stride=2), (2, 6, 6)),
    "one axis of two": (lambda: nn.Conv2d(2, 10, (1, 3), stride=(2, 1), padding=(0, 1)), (2, 6, 6)),
    "groups": (lambda: nn.Conv1d(2, 8, 1, stride=3, groups=2), (2, 7)),
}


@pytest.mark.parametrize("name", SKIPPING)
@pytest.mark.parametrize("small", [0, 1024])
def test_places_that_no_output_reads_make_the_smallest_singular_value_zero(name, small, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(proof, "SMALL", small)
    make, shape = SKIPPING[name]
    assert assert_holds_and_is_tight([make().double()], shape).smallest in (0.0, None)


def test_a_transposed_convolution_that_leaves_places_empty_still_keeps_all_it_reads():
    """Its matrix is W at every second place: the singular values are those of W."""
    torch.manual_seed(0)
    layer = nn.ConvTranspose1d(2, 3, 1, stride=2).double()
    values = torch.linalg.svdvals(layer.weight.detach()[..., 0])
    found = sx.operator_norm(layer, (2, 7))
    assert (found.bound, found.smallest) == (pytest.approx(float(values[0]), rel=1e-9), pytest.approx(float(values[-1]), rel=1e-9))


def test_a_singular_operator_on_the_torus_leaves_the_proof_to_another_way(monkeypatch):
    """As rows of zeros made it in `ConvTranspose3d(6, 4, (2, 1, 2), (3, 2, 2), (0, 1, 0), groups=2)`: inv raised."""
    torch.manual_seed(0)
    monkeypatch.setattr(proof, "SMALL", 0)
    monkeypatch.setattr(torus, "OVERHEAD", -1e30)
    monkeypatch.setattr(torch.linalg, "inv_ex", lambda matrix: (torch.zeros_like(matrix), torch.ones(matrix.shape[:-2])))
    layer = nn.Conv2d(4, 4, 3, padding=1).double()
    largest = float(torch.linalg.svdvals(dense([layer], (4, 8, 7)))[0])
    found = sx.operator_norm(layer, (4, 8, 7))
    assert found.method == "Cholesky"
    assert largest <= found.bound <= 1.001 * largest  # each failure asks for less


def test_a_long_chain_that_is_no_one_matrix_has_the_product_of_the_bounds(monkeypatch):
    monkeypatch.setattr(chain, "SMALL", 1)
    layers = [nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)]
    one, other = sx.operator_norm(layers[0], (4, 8, 8)), sx.operator_norm(layers[1], (8, 8, 8))
    both = sx.operator_norm(layers, (4, 8, 8))
    assert both.method == "product"
    largest = float(torch.linalg.svdvals(dense([layer.double() for layer in layers], (4, 8, 8)))[0])
    assert 0.9 * largest < both.lower <= largest <= both.bound  # measured by power iteration
    assert both.bound == pytest.approx(one.bound * other.bound, rel=1e-14)


def test_what_only_renames_keeps_the_norm():
    layers = [nn.Identity(), nn.Flatten(), nn.Unflatten(1, (3, 4))]
    assert sx.operator_norm(layers, (12, 1, 1)) == sx.results.OperatorNorm(1.0, 1.0, "identity", 1.0)


def test_circular_padding_proves_the_smallest_singular_value_too(monkeypatch):
    monkeypatch.setattr(proof, "SMALL", 0)
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular").double()
    found = sx.operator_norm(layer, (6, 8, 9))
    values = torch.linalg.svdvals(dense([layer], (6, 8, 9)))
    assert found.method == "Fourier"
    assert found.smallest == pytest.approx(float(values[-1]), rel=1e-6)
    assert found.smallest <= float(values[-1])


def test_an_orthogonal_kernel_with_zeros_around_is_no_isometry():
    """A shift by one place loses a row: the largest singular value is 1 and the smallest 0, in a circle both are 1."""
    layer = nn.Conv2d(3, 3, 3, padding=1, bias=False).double()
    nn.init.zeros_(layer.weight)
    layer.weight.data[:, :, 0, 1] = torch.eye(3)
    found = sx.operator_norm(layer, (3, 7, 7))
    assert (found.bound, found.smallest) == (pytest.approx(1, abs=1e-6), 0.0)
    layer.padding_mode, layer._reversed_padding_repeated_twice = "circular", [1, 1, 1, 1]
    found = sx.operator_norm(layer, (3, 20, 20))
    assert (found.bound, found.smallest) == (pytest.approx(1, abs=1e-9), pytest.approx(1, abs=1e-9))


@pytest.mark.parametrize("options", [dict(padding=1), dict(padding=1, stride=2), dict(padding=2, dilation=2, groups=2)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_power_iteration_stays_below(options, seed, preferred):
    torch.manual_seed(seed)
    layer = nn.Conv2d(6, 6, 3, bias=False, **options).double()
    bound = sx.operator_norm(layer, (6, 11, 12)).bound
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
    assert_holds_and_is_tight([layer], (6, 10, 9))


def test_the_smallest_numbers_there_are_stay_below_their_bound():
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(layer.weight, 5e-324)
    assert sx.operator_norm(layer, 1).bound >= 5e-324
    nn.init.constant_(layer.weight, 1.7e308)
    assert sx.operator_norm([layer, layer], 1).bound == math.inf
    assert sx.operator_norm([layer, layer], 1).lower < math.inf


@pytest.mark.parametrize("short", [0.9, 0.999])
def test_a_start_that_misses_the_leading_vector_makes_the_bound_looser_and_not_wrong(short, preferred, monkeypatch):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, 3, padding=1).double()
    largest = float(torch.linalg.svdvals(dense([layer], (4, 8, 7)))[0])
    right = proof.from_below
    monkeypatch.setattr(proof, "from_below", lambda a, seed=0, slack=0.0: short * right(a, seed=seed))
    found = sx.operator_norm(layer, (4, 8, 7))
    assert largest <= found.bound <= 1.1 * largest
    assert found.lower <= largest


def test_an_estimate_that_misses_is_made_again_from_another_start(monkeypatch):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, 3, padding=1).double()
    right = proof.from_below
    monkeypatch.setattr(proof, "SMALL", 0)
    monkeypatch.setattr(proof, "from_below", lambda a, seed=0, slack=0.0: right(a, seed=seed) * (0.9 if seed == 0 else 1.0))
    assert sx.operator_norm(layer, (4, 8, 7)).slack < TIGHT


def test_without_a_budget_the_circular_bound_is_true_and_looser():
    torch.manual_seed(0)
    for mode, most in {"zeros": 1.05, "reflect": 4.1, "replicate": 4.1}.items():
        layer = nn.Conv2d(6, 6, 3, padding=1, padding_mode=mode).double()
        largest = float(torch.linalg.svdvals(dense([layer], (6, 10, 10)))[0])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(proof, "SMALL", 0)
            found = sx.operator_norm(layer, (6, 10, 10), budget=0)
        assert found.method == "circular bound"
        assert largest < found.bound < most * largest


def test_an_image_of_32_by_32_is_proven_to_a_millionth():
    torch.manual_seed(0)
    found = sx.operator_norm(nn.Conv2d(24, 24, 3, padding=1), (24, 32, 32))
    assert found.method == "torus"
    assert found.slack < TIGHT


def test_spectral_norm_divides_by_the_norm_of_a_flat_kernel_which_is_another():
    """PyTorch's issue 99149: after `spectral_norm` the operator's norm is not 1."""
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 3, padding=1), n_power_iterations=50)
    layer.eval()
    flat = float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2))
    assert flat == pytest.approx(1, abs=1e-3)
    assert sx.operator_norm(layer, (3, 16, 16)).lower > 1.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_any_precision_are_taken_as_they_are(dtype):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, padding=1).to(dtype)
    exact = nn.Conv2d(3, 4, 3, padding=1).double()
    exact.load_state_dict(layer.state_dict())
    assert sx.operator_norm(layer, (3, 8, 8)) == sx.operator_norm(exact, (3, 8, 8))


def test_a_parametrised_layer_is_read_as_in_eval_and_left_alone():
    layer = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    found = sx.operator_norm(layer, (3, 9, 9))
    assert layer.training
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    layer.eval()
    assert found == sx.operator_norm(layer, (3, 9, 9))


def spoiled(value: float) -> nn.Module:
    layer = nn.Conv2d(3, 4, 3)
    layer.weight.data[0, 0, 0, 0] = value
    return layer


class PlusInput(nn.Sequential):
    def forward(self, input):
        return input + super().forward(input)


class Twice(nn.Sequential):
    def __iter__(self):
        return iter(2 * list(self._modules.values()))


class CalledTwice(nn.Linear):
    def __call__(self, input):
        return 2 * super().__call__(input)


class Trebled(torch.Tensor):
    """A weight that changes what multiplies by it."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        return 3 * result if function is F.linear else result


class AtRandom(nn.Module):
    def forward(self, weight):
        return weight * torch.rand(())


def with_attribute(layer: nn.Module, **attributes) -> nn.Module:
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


def hooked(layer: nn.Module, *, before: bool = False) -> nn.Module:
    (layer.register_forward_pre_hook if before else layer.register_forward_hook)(ten_times)
    return layer


def ten_times(module, inputs, output=None):
    return tuple(10 * one for one in inputs) if output is None else 10 * output


def parametrised(layer: nn.Module, how: nn.Module) -> nn.Module:
    nn.utils.parametrize.register_parametrization(layer, "weight", how)
    return layer


line = (2, 3)
CHANGED = {
    "container's forward": (lambda: PlusInput(nn.Linear(3, 3)), "this PlusInput has a forward of its own"),
    "container within": (lambda: nn.Sequential(nn.Sequential(PlusInput(nn.Linear(3, 3)))), "this PlusInput has a forward"),
    "container in a list": (lambda: [nn.Identity(), [PlusInput(nn.Linear(3, 3))]], "this PlusInput has a forward"),
    "container's layers": (lambda: Twice(nn.Linear(3, 3)), "this Twice has a __iter__ of its own"),
    "container's hook": (lambda: hooked(nn.Sequential(nn.Linear(3, 3))), "this Sequential runs the hook ten_times"),
    "container's hook before": (
        lambda: hooked(nn.Sequential(nn.Linear(3, 3)), before=True),
        "this Sequential runs the hook ten_times",
    ),
    "an empty container's hook": (lambda: [hooked(nn.Sequential()), nn.Linear(3, 3)], "this Sequential runs the hook ten_times"),
    "hook on what changes nothing": (lambda: [hooked(nn.Identity()), nn.Linear(3, 3)], "this Identity runs the hook ten_times"),
    "call": (lambda: CalledTwice(3, 3), "this CalledTwice has a __call__ of its own"),
    "convolution of an instance": (
        lambda: with_attribute(nn.Conv1d(2, 2, 3, padding=1), _conv_forward=lambda x, w, b: F.conv1d(x.roll(1), w, b, 1, 1)),
        "this Conv1d has _conv_forward replaced on the instance",
    ),
    "forward of an instance": (
        lambda: with_attribute(nn.Linear(3, 3), forward=lambda x: 10 * x),
        "this Linear has forward replaced on the instance",
    ),
    "forward of a container": (lambda: with_attribute(nn.Sequential(), forward=lambda x: 10 * x), "has forward replaced"),
    "weight that changes products": (
        lambda: with_attribute(nn.Linear(3, 3), weight=nn.Parameter(torch.randn(3, 3).as_subclass(Trebled))),
        "do not compute what their weights say",
    ),
    "weight at random": (lambda: parametrised(nn.Linear(3, 3), AtRandom()), "do not compute what their weights say"),
    "padding that the run does not see": (
        lambda: with_attribute(nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"), padding=(0,)),
        "do not compute what their weights say",
    ),
    "old weight norm": (lambda: nn.utils.weight_norm(nn.Linear(3, 3)), "this Linear runs WeightNorm"),
    "a table of layers": (lambda: nn.ModuleList([nn.Linear(3, 3)]), "ModuleList is not a supported linear layer"),
    "no layer": (lambda: [nn.Linear(3, 3), None], "expected a layer or a list of layers, got a NoneType"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHANGED)
def test_what_runs_otherwise_than_its_class_says_is_refused_by_name(name):
    torch.manual_seed(0)
    make, message = CHANGED[name]
    with pytest.raises(sx.errors.UnsupportedModuleError, match=message):
        sx.operator_norm(make(), line)


def test_a_hook_of_all_modules_is_refused():
    handle = nn.modules.module.register_module_forward_hook(ten_times)
    try:
        with pytest.raises(sx.errors.UnsupportedModuleError, match="ten_times, a global hook"):
            sx.operator_norm(nn.Linear(3, 3), line)
    finally:
        handle.remove()


GUARDS = {
    "at large inputs": lambda x, y: y * 100 if float(x.abs().max()) > 1e5 else y,
    "at small inputs": lambda x, y: y * 100 if 0 < float(x.abs().max()) < 1e-3 else y,
    "at zero": lambda x, y: y + 1 if float(x.abs().max()) == 0 else y,
    "slope": lambda x, y: torch.where(y > 0, y, 0.5 * y),
    "saturation": lambda x, y: y.clamp(-1e4, 1e4),
    "jump": lambda x, y: y + (float(x.mean()) > 0),
}


@pytest.mark.parametrize("name", GUARDS)
def test_a_product_that_is_replaced_behind_the_layer_is_found_by_running_it(name, monkeypatch):
    """PyTorch's own function is replaced, which no structure of the layer shows."""
    torch.manual_seed(0)
    layer, product = nn.Linear(3, 3), F.linear
    monkeypatch.setattr(F, "linear", lambda x, w, b=None: GUARDS[name](x, product(x, w, b)))
    with pytest.raises(sx.errors.UnsupportedModuleError, match="do not compute what their weights say"):
        sx.operator_norm(layer, line)


def test_large_constants_are_not_taken_for_another_function():
    """They cancel: what is left has the rounding of what was there."""
    torch.manual_seed(0)
    layer, norm = nn.Linear(3, 3), channelwise(2)
    layer.bias.data *= 1e12
    norm.running_mean[:] = 1e12
    plain = [nn.Linear(3, 3, bias=False), channelwise(2)]
    plain[0].weight, plain[1].weight, plain[1].running_var = layer.weight, norm.weight, norm.running_var
    assert sx.operator_norm([layer, norm], line).bound == pytest.approx(sx.operator_norm(plain, line).bound, rel=1e-12)


def test_hooks_of_gradients_do_not_matter():
    torch.manual_seed(0)
    layer = nn.Linear(3, 3)
    wanted = sx.operator_norm(layer, line)
    layer.register_full_backward_hook(lambda *_: None)
    assert sx.operator_norm(layer, line) == wanted


@pytest.mark.parametrize("size", [(9,), (6, 11, 12)], ids=["measured whole", "by power iteration"])
@pytest.mark.parametrize("part", ["bound", "smallest"])
def test_a_bound_that_a_measurement_exceeds_is_an_error_and_no_result(size, part, monkeypatch):
    torch.manual_seed(0)
    layer = nn.Linear(9, 9) if len(size) == 1 else nn.Conv2d(6, 6, 3, padding=1)
    right = door._norm_of

    def wrong(piece, budget):
        found = right(piece, budget)
        return sx.results.OperatorNorm(
            *((0.9 * found.bound, 0.0, "") if part == "bound" else (found.bound, 0.0, "", found.bound * 1.1))
        )

    monkeypatch.setattr(door, "_norm_of", wrong)
    with pytest.raises(sx.errors.ContradictionError, match=rf"{part} = .*quotient"):
        sx.operator_norm(layer, size)


def test_a_matrix_that_is_not_that_of_its_piece_is_an_error(monkeypatch):
    torch.manual_seed(0)
    right = pieces.Copies.dense
    monkeypatch.setattr(pieces.Copies, "dense", lambda self: right(self).flip(0))
    with pytest.raises(sx.errors.ContradictionError, match="the matrix of a Copies"):
        sx.operator_norm([nn.Linear(3, 2), nn.Flatten(), nn.Linear(8, 3)], (4, 3))


def test_what_a_layer_holds_is_read_from_its_weight():
    """Pruned in place: the attributes keep the old sizes, as PyTorch's forward does not ask them."""
    torch.manual_seed(0)
    layer = nn.Conv1d(4, 4, 3, padding=1).double()
    layer.weight, layer.stride, layer.padding = nn.Parameter(layer.weight.detach()[:, :2].clone()), 2, 1
    assert_holds_and_is_tight([layer], (2, 9))


class Doubled(nn.Conv2d):
    def forward(self, input):
        return 2 * super().forward(input)


image = (3, 8, 8)
BAD = {
    "nan": (lambda: spoiled(math.nan), image, sx.errors.InputError, "1 of 108 numbers of the weight of Conv2d"),
    "inf": (lambda: spoiled(math.inf), image, sx.errors.InputError, "1 of 108 numbers of the weight of Conv2d"),
    "no height": (
        lambda: nn.Conv2d(3, 4, 3),
        (3, 8),
        sx.errors.ShapeError,
        r"Conv2d takes .* \(3, height, width\), but the shape is \(3, 8\)",
    ),
    "a batch": (lambda: nn.Conv2d(3, 4, 3), (1, *image), sx.errors.ShapeError, "without its batch"),
    "channels": (lambda: nn.Conv2d(3, 4, 3), (4, 8, 8), sx.errors.ShapeError, r"but the shape is \(4, 8, 8\)"),
    "too small": (
        lambda: nn.Conv2d(3, 4, 9),
        image,
        sx.errors.ShapeError,
        r"sizes \(8, 8\) are too small for Conv2d with the kernel \(9, 9\)",
    ),
    "width": (
        lambda: nn.Linear(3, 4),
        5,
        sx.errors.ShapeError,
        r"Linear takes an input of shape \(…, 3\), but the shape is \(5,\)",
    ),
    "rank of a norm": (lambda: nn.BatchNorm2d(3).eval(), 3, sx.errors.ShapeError, "of 3 axes, but the shape is"),
    "no numbers": (lambda: nn.Linear(3, 4), (0, 3), sx.errors.ShapeError, "expected the shape of one input"),
    "no shape": (lambda: nn.Linear(3, 4), (), sx.errors.ShapeError, "expected the shape of one input"),
    "half a number": (lambda: nn.Linear(3, 4), (2.5, 3), sx.errors.ShapeError, "expected the shape of one input"),
    "no outputs": (lambda: nn.AdaptiveAvgPool1d(0), (2, 3), sx.errors.ShapeError, "does not take the shape"),
    "no weight": (lambda: nn.Linear(3, 0), 3, sx.errors.InputError, r"Linear is empty, shape \(0, 3\)"),
    "no divisor": (
        lambda: with_attribute(nn.AvgPool2d(2), divisor_override=0),
        image,
        sx.errors.InputError,
        "divides by divisor_override = 0",
    ),
    "axes of a batch": (lambda: nn.Flatten(-3), (1, 1), sx.errors.ShapeError, "does not take the shape"),
    "bias": (
        lambda: with_attribute(nn.Linear(3, 3), bias=nn.Parameter(torch.tensor([0.0, math.nan, 0.0]))),
        3,
        sx.errors.InputError,
        "a bias or a mean is not",
    ),
    "meta": (lambda: nn.Linear(3, 4, device="meta"), 3, sx.errors.UnsupportedModuleError, "on the meta device"),
    "pool": (lambda: nn.AvgPool2d(9), image, sx.errors.ShapeError, "does not take the shape"),
    "flat batch": (lambda: nn.Flatten(0), image, sx.errors.ShapeError, "does not take the shape"),
    "normalised": (lambda: batch_norm(4), image, sx.errors.ShapeError, r"BatchNorm2d takes .* \(4, …\)"),
    "training": (lambda: nn.BatchNorm2d(3), image, sx.errors.UnsupportedModuleError, "BatchNorm2d in training mode"),
    "statistics": (
        lambda: nn.BatchNorm2d(3, track_running_stats=False).eval(),
        image,
        sx.errors.UnsupportedModuleError,
        "without running statistics",
    ),
    "not linear": (nn.ReLU, image, sx.errors.UnsupportedModuleError, "ReLU is not a supported linear layer"),
    "its own forward": (lambda: Doubled(3, 4, 3), image, sx.errors.UnsupportedModuleError, "this Doubled has a forward of its own"),
    "hooks": (
        lambda: nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)),
        image,
        sx.errors.UnsupportedModuleError,
        "this Conv2d runs SpectralNorm",
    ),
    "lazy": (lambda: nn.LazyConv2d(4, 3), image, sx.errors.UnsupportedModuleError, "has no weight yet"),
    "complex": (lambda: nn.Linear(3, 4, dtype=torch.complex64), 3, sx.errors.UnsupportedModuleError, "torch.complex64"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BAD)
def test_what_has_no_norm_is_refused_in_a_clear_line(name):
    make, shape, error, message = BAD[name]
    with pytest.raises(error, match=message):
        sx.operator_norm(make(), shape)


def test_a_small_budget_costs_no_second_estimate(monkeypatch):
    """Where no proof may be tried, more of Lanczos' iteration helps none; what it gives is the circular bound of the same norm."""
    from separatrix.bounds.operator_norm import proof

    calls = []
    monkeypatch.setattr(proof, "from_below", lambda *args, **named: calls.append(named) or from_below(*args, **named))
    layer = nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")
    found, exact = sx.operator_norm(layer, (2, 24, 24), budget=1.0), sx.operator_norm(layer, (2, 24, 24))
    assert found.lower <= exact.bound <= found.bound and found.method == "circular bound" and len(calls) == 2


def test_a_kernel_that_reads_padding_only_has_a_small_bound(monkeypatch):
    """The middle row of the kernel is 0, an image of one row never meets the others: A = 0, to which no margin is relative."""
    monkeypatch.setattr(proof, "SMALL", 0)
    layer = nn.Conv2d(2, 3, 3, padding=1, bias=False).double()
    with torch.no_grad():
        layer.weight[:, :, 1] = 0
    found = sx.operator_norm(layer, (2, 1, 9))
    assert found.lower == 0 and 0 <= found.bound <= float(layer.weight.abs().sum())
