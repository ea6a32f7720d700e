"""Isometries by parametrisation: exact for every value of the free numbers, and images of every size."""

import copy

import pytest
import torch
from torch.nn import functional

import separatrix as sx
from separatrix.nn.nonexpansive.operators import Convolution, Matrix

ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5}  # of some dozen products of 64 numbers


def scrambled(module: torch.nn.Module, size: float, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.to(dtype).parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=random, dtype=dtype))
    return module


def dense(layer: torch.nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    """The matrix of a linear map on images, by its values at the unit images."""
    size = torch.Size(shape).numel()
    with torch.no_grad():
        return layer(torch.eye(size, dtype=torch.float64).reshape(-1, *shape)).reshape(size, -1).mT


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("size", [0.0, 1.0, 1e3, 1e12])
@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (6, 6), (64, 64), (64, 10)])
def test_a_matrix_is_an_isometry_whatever_its_parameters(shape, size, dtype):
    q = scrambled(sx.nn.parts.OrthogonalMatrix(*shape), size, dtype)().double()
    assert q.shape == shape
    torch.testing.assert_close(q.mT @ q, torch.eye(shape[1], dtype=torch.float64), rtol=0, atol=ROUNDING[dtype])


def test_the_reflections_at_once_are_their_product_one_by_one():
    matrix = sx.nn.parts.OrthogonalMatrix(5, 3).double()
    one_by_one = torch.eye(5, dtype=torch.float64)
    for i in range(3):
        v = torch.zeros(5, dtype=torch.float64)
        v[i], v[i + 1 :] = 1, matrix.reflections[i + 1 :, i].detach()
        one_by_one = one_by_one @ (torch.eye(5, dtype=torch.float64) - 2 * torch.outer(v, v) / v.dot(v))
    torch.testing.assert_close(matrix().detach(), one_by_one[:, :3], rtol=0, atol=1e-14)


def test_a_matrix_can_be_trained_to_any_rotation():
    """The nearest isometry of a tall matrix in the Frobenius norm is its polar factor UVᵀ."""
    torch.manual_seed(0)
    wanted = torch.randn(6, 3, dtype=torch.float64)
    matrix = sx.nn.parts.OrthogonalMatrix(6, 3).double()
    optimiser = torch.optim.LBFGS(matrix.parameters(), max_iter=300, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        distance = (matrix() - wanted).square().sum()
        distance.backward()
        return distance

    optimiser.step(loss)
    u, _, v = torch.linalg.svd(wanted, full_matrices=False)
    torch.testing.assert_close(matrix().detach(), u @ v, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [1.0, 1e3])
@pytest.mark.parametrize("image", [(1, 1), (2, 2), (3, 3), (4, 7), (8, 8)])
@pytest.mark.parametrize(("channels", "out", "kernel"), [(4, 4, 3), (3, 5, 3), (1, 1, 3), (2, 3, 5), (2, 2, 1)])
def test_a_convolution_is_an_isometry_of_images_of_every_size(channels, out, kernel, image, size):
    layer = scrambled(sx.nn.IsometryConv2d(channels, out, kernel_size=kernel), size)
    values = torch.linalg.svdvals(dense(layer, (channels, *image)))
    torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-12)


def test_under_zero_padding_the_norm_is_at_most_1_and_the_smallest_singular_value_can_be_0():
    """A pure shift of the image, which is in the family, loses an edge."""
    shift = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    shift[0, 0, 1, 2] = 1
    values = torch.linalg.svdvals(dense(Convolution(shift, "zeros"), (1, 4, 4)))
    assert values.max() == 1 and values.min() == 0
    random = scrambled(sx.nn.IsometryConv2d(3, 4, padding="zeros"), 1.0)
    assert torch.linalg.svdvals(dense(random, (3, 6, 6))).max() <= 1 + 1e-12


def test_circular_padding_is_pytorchs():
    torch.manual_seed(0)
    kernel, images = torch.randn(5, 3, 5, 5, dtype=torch.float64), torch.randn(2, 3, 6, 9, dtype=torch.float64)
    expected = functional.conv2d(functional.pad(images, (2, 2, 2, 2), mode="circular"), kernel)
    torch.testing.assert_close(Convolution(kernel)(images), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(Convolution(kernel)(images[0]), expected[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(Convolution(kernel)(images[None]), expected[None], rtol=0, atol=1e-12)


@pytest.mark.parametrize("padding", ["circular", "zeros"])
@pytest.mark.parametrize("image", [(2, 2), (5, 4)])
def test_the_adjoint_is_the_transposed_matrix(padding, image):
    torch.manual_seed(0)
    a = Convolution(torch.randn(3, 2, 3, 3, dtype=torch.float64), padding)
    matrix, transposed = dense(a, (2, *image)), dense(a.adjoint(), (3, *image))
    torch.testing.assert_close(transposed, matrix.mT, rtol=0, atol=1e-13)
    weight = torch.randn(3, 2, dtype=torch.float64)
    torch.testing.assert_close(Matrix(weight).adjoint()(torch.eye(3, dtype=torch.float64)), weight, rtol=0, atol=0)


@pytest.mark.parametrize("size", [0.0, 1e-160, 1.0, 1e160])
@pytest.mark.parametrize("padding", ["circular", "zeros"])
def test_a_scaled_kernel_has_norm_at_most_1_under_every_padding(padding, size):
    kernel = scrambled(sx.nn.parts.ScaledKernel(3, 2), size)()
    for image in ((1, 1), (2, 3), (6, 6)):
        assert torch.linalg.svdvals(dense(Convolution(kernel, padding), (2, *image))).max() <= 1 + 1e-12
    assert size == 0 or kernel.abs().max() > 1e-3  # divided by no more than it takes


def test_a_frozen_network_is_the_same_without_building_and_the_network_stays_as_it_was():
    torch.manual_seed(0)
    network = sx.nn.LipschitzConvNet(1, 3, image_size=4, widths=(4,))
    before = copy.deepcopy(network.state_dict())
    images = torch.rand(5, 1, 4, 4, requires_grad=True)
    frozen = sx.nn.parts.frozen(network)
    assert torch.equal(frozen(images), network(images))
    assert frozen.guarantee == network.guarantee
    assert not any(isinstance(m, sx.nn.parts.OrthogonalMatrix) for m in frozen.modules())
    expected = torch.autograd.grad(network(images).square().sum(), images)[0]
    assert torch.equal(torch.autograd.grad(frozen(images).square().sum(), images)[0], expected)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_a_layer_alone_can_be_frozen():
    kernel = sx.nn.parts.OrthogonalKernel(4, 2)
    assert torch.equal(sx.nn.parts.frozen(kernel)(), kernel())


def test_autocast_and_half_precision_weights_do_not_cost_the_orthogonality():
    layer = sx.nn.parts.OrthogonalMatrix(32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q = layer()
    torch.testing.assert_close(q.mT @ q, torch.eye(32), rtol=0, atol=1e-5)
    half = sx.nn.parts.OrthogonalMatrix(32, 32).bfloat16()()
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float().mT @ half.float(), torch.eye(32), rtol=0, atol=0.03)  # an entry's digits: 2^−9


def test_isometries_that_cannot_be_are_refused():
    with pytest.raises(sx.errors.ShapeError, match="4 → 3"):
        sx.nn.Isometry(4, 3)
    with pytest.raises(sx.errors.ShapeError, match="8 → 4"):
        sx.nn.IsometryConv2d(8, 4)
    with pytest.raises(sx.errors.ShapeError, match=r"out is 5.*dim = 3"):
        sx.nn.Coisometry(3, 5)
    with pytest.raises(sx.errors.ShapeError, match=r"kernel_size is 4"):
        sx.nn.parts.OrthogonalKernel(3, 3, kernel_size=4)
    with pytest.raises(sx.errors.InputError, match=r"padding is 'reflect'.*'circular' or 'zeros'"):
        sx.nn.IsometryConv2d(3, 3, padding="reflect")


@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_single_channel_stays_where_it_is(size):
    """Half of one channel is none: were every projector 0, each image would only be moved to a corner."""
    image = torch.randn(1, 4, 6)
    for padding in ("circular", "zeros"):
        torch.testing.assert_close(sx.nn.IsometryConv2d(1, kernel_size=size, padding=padding)(image).abs(), image.abs())
