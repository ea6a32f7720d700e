"""Contractions, expansions and pairs of both: their factors against dense Jacobians, adversarial slopes and training."""

import copy

import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap

import separatrix as sx

IMAGE = (3, 4, 4)
IMAGE_LAYERS = {
    "contraction": lambda: sx.nn.NonExpansiveConv2d(3, slope=0.3),
    "wide contraction": lambda: sx.nn.NonExpansiveConv2d(3, 5, slope=0.3),
    "narrow contraction": lambda: sx.nn.NonExpansiveConv2d(3, 2, slope=0.3),
    "contraction with zeros": lambda: sx.nn.NonExpansiveConv2d(3, slope=0.3, padding="zeros"),
    "scaled contraction": lambda: sx.nn.NonExpansiveConv2d(3, 4, kernel="scaled", padding="zeros"),
    "expansion": lambda: sx.nn.parts.ExpansiveConv2d(3),
    "expansion with zeros": lambda: sx.nn.parts.ExpansiveConv2d(3, padding="zeros"),
    "gradient expansion": lambda: sx.nn.parts.ExpansiveConv2d(3, symmetric=True, slope=0.2),
    "pair": lambda: sx.nn.parts.AlternatingConv2d(3),
    "published pair": lambda: sx.nn.parts.AlternatingConv2d(3, 4, budget="published", substeps=2),
    "gradient pair": lambda: sx.nn.parts.AlternatingConv2d(3, symmetric=True, slope=0.7, substeps=3),
    "isometry": lambda: sx.nn.IsometryConv2d(3, 4, bias=True),
    "largest": lambda: sx.nn.parts.Pool2d("max"),
    "sums": lambda: sx.nn.parts.Pool2d("sum"),
}
VECTOR_LAYERS = {
    "wide contraction": lambda: sx.nn.NonExpansive(4, 7, slope=0.3),
    "narrow contraction": lambda: sx.nn.NonExpansive(4, 2, slope=0.3),
    "gradient expansion": lambda: sx.nn.parts.Expansive(4, symmetric=True, slope=0.2),
    "published pair": lambda: sx.nn.parts.Alternating(4, 6, budget="published", substeps=2),
    "gradient pair": lambda: sx.nn.parts.Alternating(4, symmetric=True, slope=0.7, substeps=3),
    "given steps": lambda: sx.nn.parts.Alternating(4, step_sizes=(4 / 3, 2.0)),
    "network": lambda: sx.nn.LipschitzNet(4, 2, hidden=6, substeps=2),
    "network of contractions": lambda: sx.nn.LipschitzNet(6, 9, hidden=4, kind="non_expansive"),
}


def built(make: object, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().double()


def scrambled(layer: nn.Module, size: float) -> nn.Module:
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=random, dtype=parameter.dtype))
    return layer


def trained(layer: nn.Module) -> nn.Module:
    """After large steps that raise the norm of the output as they can."""
    random = torch.Generator().manual_seed(2)
    images = torch.randn(32, *IMAGE, generator=random, dtype=torch.float64)
    if list(layer.parameters()):
        optimiser = torch.optim.Adam(layer.parameters(), lr=0.3)
        for _ in range(10):
            optimiser.zero_grad()
            (-layer(images).square().mean()).backward()
            optimiser.step()
    return layer


def jacobian_norms(layer: nn.Module, images: torch.Tensor) -> torch.Tensor:
    count = torch.Size(images.shape[1:]).numel()
    return torch.linalg.matrix_norm(vmap(jacrev(layer))(images).reshape(len(images), -1, count), 2)


@pytest.mark.parametrize("name", IMAGE_LAYERS)
def test_no_jacobian_of_a_layer_of_images_has_a_larger_norm_than_its_guarantee(name):
    changes = (lambda layer: layer, lambda layer: scrambled(layer, 1), lambda layer: scrambled(layer, 30), trained)
    for change in changes:
        layer = change(built(IMAGE_LAYERS[name]))
        random = torch.Generator().manual_seed(0)
        images = torch.randn(6, *IMAGE, generator=random, dtype=torch.float64)
        bound = layer.guarantee.lipschitz
        for size in (0.1, 1.0, 30.0):
            with torch.no_grad():
                assert jacobian_norms(layer, size * images).max() <= bound + 1e-12


@pytest.mark.parametrize("name", VECTOR_LAYERS)
def test_layers_on_vectors_with_other_options_conform(name):
    block = built(VECTOR_LAYERS[name])
    sx.testing.check_block(block)
    if block.horizon is None:
        sx.testing.check_system(block)


@pytest.mark.parametrize("width", [4, 6])
def test_the_factor_of_a_contraction_is_attained_where_all_units_are_off_or_on(width):
    """Far along ±Aᵀ1 all slopes are a or 1: the bound is no looser than it must be."""
    for step in (0.3, 1.2, 1.9):
        block = built(lambda step=step: sx.nn.NonExpansive(4, width, slope=0.5, step_size=step))
        a = block.operator().weight
        ones = torch.linalg.lstsq(a, torch.ones(width, dtype=torch.float64)[:, None]).solution[:, 0]
        biased = copy.deepcopy(block)
        with torch.no_grad():
            biased.bias.copy_(10 * torch.ones(width))  # beyond what a wide A leaves of ±1
            norms = [jacobian_norms(layer, sign * x[None]) for layer, sign, x in ((biased, 1, ones), (biased, -1, 1e3 * ones))]
            biased.bias.neg_()
            norms += [jacobian_norms(biased, -ones[None])]
        assert float(torch.cat(norms).max()) == pytest.approx(block.guarantee.lipschitz, abs=1e-12)


def test_a_contraction_with_fewer_rows_than_columns_leaves_a_direction_as_it_is():
    """The exact factor is 1 then: s_min = 0 in the directions that A maps to zero."""
    block = built(lambda: sx.nn.NonExpansive(4, 2, slope=0.5, step_size=1.0))
    assert block.guarantee.lipschitz == 1
    jacobian = torch.autograd.functional.jacobian(block, torch.randn(4, dtype=torch.float64))
    assert torch.linalg.eigvalsh(jacobian)[-2:].tolist() == pytest.approx([1, 1], abs=1e-12)


def test_with_relu_and_step_2_the_jacobian_is_orthogonal():
    block = built(lambda: sx.nn.NonExpansive(5, step_size=2.0))
    x = torch.randn(7, 5, dtype=torch.float64)
    jacobian = vmap(jacrev(block))(x)
    expected = torch.eye(5, dtype=torch.float64).expand(7, 5, 5)
    torch.testing.assert_close((jacobian @ jacobian.mT).detach(), expected, rtol=0, atol=1e-12)


def test_expansions_are_the_formulas():
    block = built(lambda: sx.nn.parts.Expansive(4, step_size=0.3, slope=0.1))
    with torch.no_grad():
        block.bias.normal_()
        x, w = torch.randn(6, 4, dtype=torch.float64), block.weight()
        inner = nn.functional.leaky_relu(x @ w.mT + block.bias, 0.1)
        torch.testing.assert_close(block(x), x + 0.3 * inner, rtol=0, atol=1e-14)
        block.symmetric = True
        torch.testing.assert_close(block(x), x + 0.3 * inner @ w, rtol=0, atol=1e-14)


def test_a_pair_is_an_expansion_and_its_substeps():
    pair = built(lambda: sx.nn.parts.Alternating(4, substeps=3, step_sizes=(0.4, 0.1)))
    outward, inward = (
        built(lambda: sx.nn.parts.Expansive(4, slope=0.5, step_size=0.1)),
        built(lambda: sx.nn.NonExpansive(4, slope=0.5, step_size=0.4)),
    )
    outward.weight, inward.weight = pair.outward, pair.inward
    x = torch.randn(6, 4, dtype=torch.float64)
    assert torch.equal(pair(x), inward(inward(inward(outward(x)))))


def test_a_kernel_of_one_pixel_is_the_layer_on_vectors_at_each_pixel():
    layer, block = built(lambda: sx.nn.parts.AlternatingConv2d(4, kernel_size=1)), built(lambda: sx.nn.parts.Alternating(4))
    with torch.no_grad():
        for side in ("outward", "inward"):
            getattr(layer, side).frame.load_state_dict(getattr(block, side).state_dict())
            getattr(layer, f"{side}_bias").normal_()
            getattr(block, f"{side}_bias").copy_(getattr(layer, f"{side}_bias"))
    images = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    expected = block(images.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(layer(images), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", IMAGE_LAYERS)
def test_layers_of_images_are_saved_cast_and_take_every_batch(name):
    layer, other = built(IMAGE_LAYERS[name]).float(), built(IMAGE_LAYERS[name], seed=1).float()
    other.load_state_dict(layer.state_dict())
    images = torch.randn(2, *IMAGE)
    expected = layer(images)
    assert torch.equal(other(images), expected)
    assert other.guarantee == layer.guarantee
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(layer(images)).all()
    torch.testing.assert_close(layer(images[0]), expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer(images[:, None]), expected[:, None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["narrow contraction", "gradient pair", "scaled contraction"])
def test_layers_of_images_are_exported(name):
    layer, images = built(IMAGE_LAYERS[name]), torch.randn(2, *IMAGE, dtype=torch.float64)
    torch.testing.assert_close(torch.export.export(layer, (images,)).module()(images), layer(images))


@pytest.mark.parametrize("name", [name for name in IMAGE_LAYERS if name not in ("largest", "sums")])
def test_gradients_reach_all_parameters(name):
    layer = built(IMAGE_LAYERS[name])
    layer(torch.randn(2, *IMAGE, dtype=torch.float64)).square().sum().backward()
    for parameter, tensor in layer.named_parameters():
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all(), parameter


def test_a_weight_is_built_once_a_pass(monkeypatch):
    calls = []
    build = sx.nn.parts.OrthogonalKernel.forward
    monkeypatch.setattr(sx.nn.parts.OrthogonalKernel, "forward", lambda self: calls.append(self) or build(self))
    layer = built(lambda: sx.nn.parts.AlternatingConv2d(3, substeps=4, symmetric=True))
    layer(torch.randn(1, *IMAGE, dtype=torch.float64))
    assert len(calls) == len(set(calls)) == 2


def test_what_is_not_proven_is_refused():
    with pytest.raises(sx.errors.InputError, match=r"padding is 'zeros'.*s_min = 0"):
        sx.nn.parts.AlternatingConv2d(3, padding="zeros")
    with pytest.raises(sx.errors.ShapeError, match="4 → 3"):
        sx.nn.parts.Alternating(4, 3)
    with pytest.raises(sx.errors.ShapeError, match="4 → 3"):
        sx.nn.parts.AlternatingConv2d(4, 3)
    with pytest.raises(sx.errors.InputError, match=r"slope is 1.5.*\[0, 1\]"):
        sx.nn.NonExpansive(4, slope=1.5)
    with pytest.raises(sx.errors.InputError, match=r"kernel is 'free'.*'orthogonal' or 'scaled'"):
        sx.nn.NonExpansiveConv2d(4, kernel="free")
