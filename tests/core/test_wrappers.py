"""Compiled, data-parallel and otherwise wrapped models: measured as what they wrap, and never compiled."""

import functools
import types

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx


def refuse_to_compile(*_: object) -> None:
    raise AssertionError("the model was compiled")


compiled = functools.partial(torch.compile, backend=refuse_to_compile)


class Layer(nn.Module):
    """x ↦ tanh(W x + b)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        return torch.tanh(self.linear(x))


class Reader(nn.Module):
    """A GRU with a readout, the GRU compiled."""

    def __init__(self, wrap=compiled) -> None:
        super().__init__()
        self.rnn = wrap(nn.GRU(3, 5, batch_first=True))
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        """The readout of the last step."""
        return self.out(self.rnn(x)[0][:, -1])


class Lit(nn.Module):
    """The shape of a training module: the network under `model`, a loss beside it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        """The network's answer."""
        return self.model(x)


def in_place(module: nn.Module) -> nn.Module:
    """Compiled by its own method, which keeps the object."""
    module.compile(backend=refuse_to_compile)
    return module


def in_mixed_precision(module: nn.Module) -> nn.Module:
    """A forward replaced by one under autocast, as Accelerate prepares a model."""
    module._original_forward = module.forward
    half = torch.autocast("cpu", torch.bfloat16)(type(module).forward)
    module.forward = types.MethodType(half, module)
    return module


WRAPS = [compiled, nn.DataParallel, Lit, in_place, in_mixed_precision, lambda module: Lit(compiled(nn.DataParallel(module)))]


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_wrapped_network_has_the_networks_own_exponents(wrap):
    torch.manual_seed(0)
    layer, gru, inputs = Layer(), nn.GRU(3, 4), torch.randn(30, 3)
    systems = [lambda layer, gru: sx.Map(layer, 3), lambda layer, gru: sx.Recurrent(gru, inputs)]
    for build in systems:
        expected = sx.lyapunov_spectrum(build(layer, gru), steps=20, settle=5).exponents
        wrapped = build(wrap(layer), wrap(gru))
        assert torch.equal(sx.lyapunov_spectrum(wrapped, steps=20, settle=5).exponents, expected)


@pytest.mark.parametrize("wrap", WRAPS)
def test_depth_and_certificate_look_through_wrappers(wrap):
    torch.manual_seed(0)
    layer, x = Layer(), torch.randn(2, 3)
    profile, certificate = sx.depth_profile(layer, x), sx.certificate(layer, 3)
    wrapped = nn.Sequential(wrap(layer))
    assert torch.equal(sx.depth_profile(wrapped, x).singular_values[-1], profile.singular_values[-1])
    assert sx.certificate(wrap(layer), 3).bound == certificate.bound


def test_gradients_reach_the_wrapped_networks_weights():
    gru = nn.GRU(3, 4)
    sx.Recurrent(compiled(gru), torch.randn(9, 3)).step(torch.ones(4)).sum().backward()
    assert gru.weight_hh_l0.grad.abs().max() > 0


def test_a_compiled_function_is_used_as_it_was():
    system = sx.Map(compiled(lambda x: x / 2), 2)
    assert torch.equal(system.step(torch.ones(2)), torch.full((2,), 0.5))


@pytest.mark.parametrize("name", [None, "rnn", "_orig_mod.rnn", "module.rnn", "rnn._orig_mod", "model.rnn"])
def test_a_compiled_core_is_found_by_the_name_its_author_knows(name):
    torch.manual_seed(0)
    model, x = Reader(), torch.randn(4, 6, 3)
    plain = Reader(lambda module: module)
    plain.load_state_dict({key.replace("_orig_mod.", ""): value for key, value in model.state_dict().items()})
    asked = {"k": 1, "copies": 2, "steps": 30, "settle": 5, "also": "none"}
    expected = sx.analyze(plain, x, **asked)
    for wrapped in (model, compiled(model), nn.DataParallel(model), in_place(model)):
        portrait = sx.analyze(wrapped, x, module=name, **asked)
        assert torch.equal(portrait.spectrum.exponents, expected.spectrum.exponents)
        assert portrait.core == expected.core


def test_a_training_modules_core_is_found_inside_its_model():
    torch.manual_seed(0)
    portrait = sx.analyze(Lit(compiled(Reader())), torch.randn(4, 6, 3), module="rnn", k=1, copies=2, steps=30, also="none")
    assert portrait.core == "GRU(3 → 5) at 'rnn'"
