"""Several networks as one."""

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.nn.latent.stacked import StackedLinear, member, perceptron


def test_a_stack_is_as_many_linear_layers():
    stack = StackedLinear(3, 4, models=2).double()
    for shape in ((5, 3), (6, 5, 3)):  # items; and an axis before the models
        x = torch.randn(*shape[:-2], 2, *shape[-2:], dtype=torch.float64)
        for i in range(2):
            expected = x.select(-3, i) @ stack.weight[i].T + stack.bias[i]
            assert (stack(x).select(-3, i) - expected).abs().max() < 1e-14


def test_one_model_is_a_linear_layer_and_begins_as_one():
    torch.manual_seed(0)
    own = StackedLinear(400, 300)
    torch.manual_seed(1)
    theirs = nn.Linear(400, 300)
    for name in ("weight", "bias"):
        a, b = getattr(own, name).detach(), getattr(theirs, name).detach()
        assert a.shape == b.shape
        assert a.abs().max() <= 400**-0.5 and float(a.std()) == pytest.approx(float(b.std()), rel=0.1)  # 300 draws: 4 % each
    theirs.load_state_dict(own.state_dict())
    x = torch.randn(7, 400)
    assert torch.equal(own(x), theirs(x))


def test_a_member_is_a_copy():
    stack, single = perceptron([2, 5, 3], models=4), perceptron([2, 5, 3])
    member(stack, single, 3)
    x = torch.randn(6, 2)
    assert (single(x) - stack(x.expand(4, 6, 2))[3]).abs().max() < 1e-6
    with pytest.raises(sx.errors.InputError, match=r"i is 4.*0 to 3"):
        member(stack, single, 4)
