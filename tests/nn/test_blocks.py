"""Every block of the table: its guarantee at random weights and after training, and that it is a plain module and a system."""

import copy

import pytest
import torch

import separatrix as sx

SIZE = 6


def built(name: str, seed: int = 0) -> sx.nn.Block:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return sx.tables.BLOCKS[name](SIZE)


@pytest.mark.parametrize("name", sx.tables.BLOCKS)
def test_its_guarantee_holds_at_random_weights_and_after_training(name):
    block = built(name)
    assert block.guarantee != sx.nn.Guarantee(), f"{name} guarantees nothing."
    sx.testing.check_block(block)


@pytest.mark.parametrize("name", sx.tables.BLOCKS)
def test_it_is_a_system(name):
    sx.testing.check_system(built(name))


@pytest.mark.parametrize("name", sx.tables.BLOCKS)
def test_its_weights_are_saved_and_loaded(name):
    block, other = built(name, 0), built(name, 1)
    other.load_state_dict(block.state_dict())
    x = torch.randn(5, block.dim)
    assert torch.equal(other(x), block(x))
    assert other.guarantee == block.guarantee


@pytest.mark.long
@pytest.mark.parametrize("name", sx.tables.BLOCKS)
def test_it_is_compiled_exported_and_cast(name):
    """Captured in one graph; what a compiler makes of the graph is PyTorch's, and the export traces it to the last operation."""
    block = built(name)
    x = torch.randn(5, block.dim)
    expected = block(x)
    captured = torch.compile(copy.deepcopy(block), backend="eager", fullgraph=True)
    assert torch.allclose(captured(x), expected, rtol=1e-5, atol=1e-6)
    exported = torch.export.export(block, (x,)).module()
    assert torch.allclose(exported(x), expected, rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(block(x)).all()


@pytest.mark.parametrize("name", sx.tables.BLOCKS)
def test_gradients_reach_all_its_parameters(name):
    block = built(name)
    block(torch.randn(16, block.dim)).square().sum().backward()
    for parameter, tensor in block.named_parameters():
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all(), parameter


@pytest.mark.parametrize("name", sx.tables.BLOCKS)
def test_states_of_another_width_are_refused_in_words(name):
    block = built(name)
    for x in (torch.zeros(3, SIZE + 2), torch.zeros(())):
        with pytest.raises(sx.errors.ShapeError, match=rf"{type(block).__name__} expects states of shape \(\*batch, {SIZE}\)"):
            block(x)


@pytest.mark.parametrize("name", sx.tables.BLOCKS)
def test_it_is_made_and_used_without_numbers(name):
    """On the device "meta", where the shapes of large networks are tried."""
    with torch.device("meta"):
        block = sx.tables.BLOCKS[name](SIZE)
    assert block(torch.zeros(5, SIZE, device="meta")).shape == (5, block.out)


@pytest.mark.parametrize("name", sorted(sx.tables.BLOCKS.keys() - {"hamiltonian"}))
def test_weights_of_few_digits_give_states_of_few(name):
    """In bfloat16 as `nn.Linear` does, but for an implicit equation, which refuses it."""
    x = torch.randn(5, SIZE)
    y = built(name).bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), built(name)(x), rtol=0.1, atol=0.3)


@pytest.mark.parametrize("name", sx.tables.BLOCKS)
def test_it_follows_a_layer_that_autocast_has_made_shorter(name):
    model = torch.nn.Sequential(torch.nn.Linear(3, SIZE), built(name))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(torch.randn(5, 3))
        y.sum().backward()
    assert torch.isfinite(y).all()


def test_the_depth_of_a_network_of_blocks_is_measured_block_by_block():
    """The singular values behind the last one are those of the dense Jacobian."""
    network = sx.nn.LipschitzNet(4, blocks=2).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    found = sx.depth_profile(network, x, k=4)
    assert found.layers == tuple(f"blocks.{i}" for i in range(len(network.blocks)))
    jacobians = torch.stack([torch.autograd.functional.jacobian(network, one) for one in x])
    assert torch.allclose(found.singular_values[-1], torch.linalg.svdvals(jacobians), rtol=1e-6)


@pytest.mark.parametrize("name", sx.tables.BLOCKS)
def test_its_certificate_is_no_lower_than_its_dense_jacobians(name):
    """Or it gives no bound; in either case without a crash."""
    block = built(name)
    found = sx.certificate(block, SIZE, starts=2, steps=3)
    x = torch.randn(4, SIZE, dtype=torch.float64)
    norms = [torch.linalg.matrix_norm(torch.autograd.functional.jacobian(block.double(), one), 2) for one in x]
    assert found.status in ("ok", "no_bound")
    assert max(norms) <= found.bound * (1 + 1e-9)
