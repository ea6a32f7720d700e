"""Every block of the table: its guarantee at random weights and after training, and that it is a plain module and a system."""

import copy

import pytest
import torch

import separatrix as sx

SIZE = 6

pytestmark = pytest.mark.skipif(not sx.nn.BLOCKS, reason="no block is in the table")


def built(name: str, seed: int = 0) -> sx.nn.Block:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return sx.nn.BLOCKS[name](SIZE)


@pytest.mark.parametrize("name", sx.nn.BLOCKS)
def test_its_guarantee_holds_at_random_weights_and_after_training(name):
    block = built(name)
    assert block.guarantee != sx.nn.Guarantee(), f"{name} guarantees nothing."
    sx.testing.check_block(block)


@pytest.mark.parametrize("name", sx.nn.BLOCKS)
def test_it_is_a_system(name):
    sx.testing.check_system(built(name))


@pytest.mark.parametrize("name", sx.nn.BLOCKS)
def test_its_weights_are_saved_and_loaded(name):
    block, other = built(name, 0), built(name, 1)
    other.load_state_dict(block.state_dict())
    x = torch.randn(5, block.dim)
    assert torch.equal(other(x), block(x))
    assert other.guarantee == block.guarantee


@pytest.mark.parametrize("name", sx.nn.BLOCKS)
def test_it_is_compiled_exported_and_cast(name):
    torch.compiler.reset()  # blocks share the code of `forward`, which is compiled for a few of them only
    block = built(name)
    x = torch.randn(5, block.dim)
    expected = block(x)
    assert torch.allclose(
        torch.compile(copy.deepcopy(block), backend="aot_eager", fullgraph=True)(x), expected, rtol=1e-5, atol=1e-6
    )
    exported = torch.export.export(block, (x,)).module()
    assert torch.allclose(exported(x), expected, rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(block(x)).all()


@pytest.mark.parametrize("name", sx.nn.BLOCKS)
def test_gradients_reach_all_its_parameters(name):
    block = built(name)
    block(torch.randn(16, block.dim)).square().sum().backward()
    for parameter, tensor in block.named_parameters():
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all(), parameter
