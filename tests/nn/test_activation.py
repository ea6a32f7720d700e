"""The `activation` argument: names, module classes, modules and functions, and the slopes that blocks take from them."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn import functional

import separatrix as sx
from separatrix.nn.activation import ACTIVATIONS, as_activation, with_slope

RANDOM = {"RReLU"}  # in training it draws its slopes
BLOCKS = {
    "dense field": lambda activation: sx.nn.parts.DenseField(4, (5,), activation=activation),
    "divergence-free": lambda activation: sx.nn.DivergenceFree(4, activation=activation),
    "gradient module": lambda activation: sx.nn.parts.SymplecticGradient(4, activation=activation),
    "Hénon": lambda activation: sx.nn.henonnet(4, layers=2, activation=activation),
    "mass-preserving": lambda activation: sx.nn.MassPreserving(4, activation=activation),
    "mass-preserving network": lambda activation: sx.nn.mass_preserving_network((4, 6), activation=activation),
    "momentum": lambda activation: sx.nn.MomentumNet(4, activation=activation),
    "reversible": lambda activation: sx.nn.ReversibleNet(4, activation=activation),
    "SympNet": lambda activation: sx.nn.sympnet(4, modules="linear", layers=2, activation=activation),
    "volume": lambda activation: sx.nn.VolumePreserving(4, hidden=(5,), activation=activation),
}


def seeded(build, activation):
    torch.manual_seed(0)
    return build(activation)


def elementwise_classes():
    """PyTorch's activation classes that are built without arguments and act elementwise."""
    for name in nn.modules.activation.__all__:
        kind = getattr(nn, name)
        if name not in RANDOM:
            with contextlib.suppress(sx.errors.InputError):
                as_activation(kind)
                yield kind


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_name_is_that_of_the_function_in_pytorch(name):
    z = torch.linspace(-2, 2, 9)
    found = {getattr(place, name) for place in (torch, functional) if hasattr(place, name)}
    assert as_activation(name) in found
    assert all(torch.equal(function(z), as_activation(name)(z)) for function in found)


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
def test_every_elementwise_activation_class_of_pytorch_has_a_name():
    """Class X is the function x of `torch.nn.functional`, underscores aside; PReLU and Threshold need numbers."""
    names = {name.replace("_", ""): name for name in ACTIVATIONS}
    classes = {kind.__name__.lower(): kind for kind in elementwise_classes()}
    assert set(classes) - {"prelu"} == set(names) - {"cos", "erf", "sin", "square"}
    z = torch.linspace(-4, 4, 17)
    for name in set(classes) - {"prelu"}:
        torch.testing.assert_close(as_activation(names[name])(z), classes[name]()(z))


@pytest.mark.parametrize("name", BLOCKS)
def test_a_name_a_class_a_module_and_a_function_make_the_same_block(name):
    x = torch.randn(3, 4)
    for same in (("tanh", nn.Tanh, nn.Tanh(), torch.tanh), ("silu", nn.SiLU, nn.SiLU(), functional.silu)):
        outputs = [seeded(BLOCKS[name], activation)(x) for activation in same]
        assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_each_block_built_from_a_class_owns_its_module():
    """A class with weights, such as PReLU, is built once for each block."""
    network = sx.nn.mass_preserving_network((4, 6), blocks=3, activation=nn.PReLU)
    slopes = [module.weight for module in network.modules() if isinstance(module, nn.PReLU)]
    assert len(set(map(id, slopes))) == 3


@pytest.mark.parametrize("activation", [torch.tanh, nn.Tanh(), nn.SiLU(), functional.gelu, torch.square])
def test_slopes_are_those_of_reverse_ad(activation):
    z = torch.linspace(-3, 3, 31, dtype=torch.float64, requires_grad=True)
    value, slope = with_slope(activation, z)
    torch.testing.assert_close(value, activation(z))
    torch.testing.assert_close(slope, torch.autograd.grad(activation(z).sum(), z)[0])


@pytest.mark.parametrize(
    ("activation", "match"),
    [
        ("tangh", "'tangh'"),
        ("Tanh", "'Tanh'"),
        ("softmax", "'softmax'"),
        (nn.Linear, "Linear"),
        (int, "int"),
        (3, "3"),
        (nn.Softmax(-1), "elementwise"),
        (lambda z: z - z.mean(), "elementwise"),
    ],
)
def test_what_is_not_an_elementwise_activation_is_refused(activation, match):
    with pytest.raises(sx.errors.InputError, match=match):
        as_activation(activation)
