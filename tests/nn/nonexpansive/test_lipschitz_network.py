"""Assembled networks: the guarantee of the whole, and no pair of inputs that breaks it."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap

import separatrix as sx

SMALL = {"image_size": 8, "widths": (4, 6), "blocks": 1}
NETWORKS = {
    "alternating": lambda: sx.nn.LipschitzConvNet(1, 3, **SMALL),
    "published": lambda: sx.nn.LipschitzConvNet(2, 3, budget="published", substeps=2, symmetric=True, **SMALL),
    "contractions": lambda: sx.nn.LipschitzConvNet(1, 3, kind="non_expansive", pool="sum", **SMALL),
    "more classes than features": lambda: sx.nn.LipschitzConvNet(1, 30, **SMALL),
}


def built(name: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name]().double()


def scrambled(network: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(3 * torch.randn(parameter.shape, generator=random, dtype=parameter.dtype))
    return network


def trained(network: nn.Module) -> nn.Module:
    """After large steps towards scores that one pixel decides, which needs a large slope."""
    random = torch.Generator().manual_seed(2)
    images = torch.rand(32, *network.shape, generator=random, dtype=torch.float64)
    classes = (images[:, 0, 3, 3] > 0.5).long()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.1)
    for _ in range(15):
        optimiser.zero_grad()
        nn.functional.multi_margin_loss(network(images), classes).backward()
        optimiser.step()
    return network


@pytest.mark.parametrize("change", [lambda network: network, scrambled, trained], ids=["default", "scrambled", "trained"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_guarantee_is_at_most_1_and_holds_at_jacobians_and_between_images(name, change):
    network = change(built(name)).requires_grad_(False)
    bound = network.guarantee.lipschitz
    assert 0 < bound <= 1
    random = torch.Generator().manual_seed(0)
    for size in (0.1, 1.0, 10.0):
        one, two = size * torch.randn(2, 8, *network.shape, generator=random, dtype=torch.float64)
        norms = torch.linalg.matrix_norm(vmap(jacrev(network))(one).flatten(2), 2)
        assert norms.max() <= bound + 1e-12
        slope = (network(one) - network(two)).norm(dim=-1) / (one - two).flatten(1).norm(dim=-1)
        assert slope.max() <= bound + 1e-12


def test_the_guarantee_is_the_product_of_the_layers():
    network = built("alternating")
    product = torch.tensor([layer.guarantee.lipschitz for layer in network.features]).double().prod()
    assert network.guarantee.lipschitz == pytest.approx(float(product), rel=1e-6)
    assert built("contractions").guarantee == sx.nn.Guarantee(lipschitz=1.0)


def test_nothing_is_guaranteed_of_the_unconstrained_twins_which_have_the_same_shape():
    plain, ours = sx.nn.ResidualConvNet(1, 3, **SMALL), sx.nn.LipschitzConvNet(1, 3, **SMALL)
    images = torch.rand(2, 5, 1, 8, 8)
    assert plain(images).shape == ours(images).shape == (2, 5, 3)
    assert [tuple(layer(torch.rand(1, 1, 8, 8)).shape) for layer in (plain.features, ours.features)] == [(1, 6, 2, 2)] * 2
    assert sx.nn.guarantee_of(plain) == sx.nn.ResidualNet(4, 2, hidden=6).guarantee == sx.nn.Guarantee()
    assert sx.nn.ResidualNet(4, 2, hidden=6)(torch.rand(5, 4)).shape == (5, 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_saved_and_loaded(name):
    network, other = built(name), built(name, seed=1)
    other.load_state_dict(network.state_dict())
    images = torch.rand(3, *network.shape, dtype=torch.float64)
    assert torch.equal(other(images), network(images))
    assert other.guarantee == network.guarantee
    assert torch.equal(pickle.loads(pickle.dumps(network))(images), network(images))


def test_a_network_can_be_laid_out_without_memory_and_filled_later():
    with torch.device("meta"):
        empty = NETWORKS["alternating"]()
    network = built("alternating").float()
    empty.load_state_dict(network.state_dict(), assign=True)
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(empty(images), network(images))


@pytest.mark.long
def test_a_network_is_compiled_in_one_graph_and_exported():
    network = sx.nn.LipschitzConvNet(1, 3, image_size=4, widths=(4,), blocks=1)
    images = torch.rand(3, *network.shape)
    expected = network(images)
    compiled = torch.compile(copy.deepcopy(network), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), expected)
    torch.testing.assert_close(torch.export.export(network, (images,)).module()(images), expected)


def test_what_cannot_be_built_is_refused():
    with pytest.raises(sx.errors.InputError, match=r"kind is 'plain'.*'alternating' or 'non_expansive'"):
        sx.nn.LipschitzConvNet(1, 3, kind="plain")
    with pytest.raises(sx.errors.InputError, match=r"pool is 'mean'.*'max' or 'sum'"):
        sx.nn.LipschitzConvNet(1, 3, pool="mean")
    with pytest.raises(sx.errors.ShapeError, match=r"3 stages.*8 × 8 pixels.*4 × 4"):
        sx.nn.LipschitzConvNet(1, 3, image_size=4)
    with pytest.raises(sx.errors.ShapeError, match="8 → 4"):
        sx.nn.LipschitzConvNet(1, 3, widths=(8, 4))
    with pytest.raises(sx.errors.ShapeError, match=r"images of shape \(1, 8, 8\).*\(1, 9, 9\)"):
        built("alternating")(torch.rand(1, 9, 9))
    with pytest.raises(sx.errors.InputError, match="blocks is -1"):
        sx.nn.LipschitzNet(4, blocks=-1)
    for name, empty in (("hidden", lambda: sx.nn.NonExpansive(4, hidden=0)), ("in_channels", lambda: sx.nn.IsometryConv2d(0, 4))):
        with pytest.raises(sx.errors.ShapeError, match=f"{name} is 0"):
            empty()


def test_no_images_give_no_scores():
    assert sx.nn.LipschitzConvNet(1, 3, image_size=4, widths=(2,))(torch.rand(0, 1, 4, 4)).shape == (0, 3)
