"""The field of dense layers against a plain module and forward AD."""

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.core.tangent import pushforward


@pytest.mark.parametrize("activation", [torch.tanh, nn.SiLU()])
def test_it_is_the_network_of_its_layers(activation):
    field = sx.nn.parts.DenseField(3, (5, 4), activation=activation)
    modules = [field.layers[0]]
    for layer in field.layers[1:]:
        modules += [activation if isinstance(activation, nn.Module) else nn.Tanh(), layer]
    x = torch.randn(2, 6, 3)
    torch.testing.assert_close(field(x), nn.Sequential(*modules)(x))


@pytest.mark.parametrize("activation", [torch.tanh, nn.Softplus()])
@pytest.mark.parametrize("time_dependent", [False, True])
def test_its_tangents_are_forward_ad_s_at_each_item_s_own_time(activation, time_dependent):
    field = sx.nn.parts.DenseField(3, (5, 4), activation=activation, time_dependent=time_dependent).double()
    x, v = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2, 3, dtype=torch.float64)
    for t in (0.3, torch.linspace(0, 1, 6, dtype=torch.float64)):
        wanted = pushforward(lambda y, t=t: field(y, t), x, v)
        for got, exact in zip(field.pushforward(x, v, t), wanted, strict=True):
            torch.testing.assert_close(got, exact, rtol=0, atol=1e-13)
    moved = field(x, 0.0) - field(x, 1.0)
    assert bool((moved != 0).all()) if time_dependent else bool((moved == 0).all())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((0,), "dim is 0"), ((2, ()), "hidden is empty"), ((2, (4, 0)), "hidden is 0"), ((2, 64), "hidden is 64")],
)
def test_bad_sizes_are_named(arguments, words):
    with pytest.raises(sx.errors.ShapeError, match=words):
        sx.nn.parts.DenseField(*arguments)
