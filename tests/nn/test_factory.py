"""`device` and `dtype` of the modules of `sx.nn`, as in PyTorch's layers."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx

DIM, INPUTS, HIDDEN = 4, 3, 5
VECTORS, IMAGES = (2, DIM), (2, 2, 8, 8)
Build = Callable[..., nn.Module]

BUILT: dict[str, tuple[Build, tuple[int, ...] | None]] = {
    **{kind.__name__: (lambda kind=kind, **factory: kind(DIM, **factory), VECTORS) for kind in sx.tables.BLOCKS.values()},
    **{kind.__name__: (lambda kind=kind, **f: kind(INPUTS, HIDDEN, **f), (2, INPUTS)) for kind in sx.tables.CELLS.values()},
    **{
        kind.__name__: (lambda kind=kind, **factory: kind(INPUTS, HIDDEN, num_layers=2, **factory), (6, 2, INPUTS))
        for kind in (sx.nn.AntisymmetricRNN, sx.nn.CoRNN, sx.nn.LEM, sx.nn.LipschitzRNN)
    },
    "AlternatingConv2d": (lambda **factory: sx.nn.parts.AlternatingConv2d(2, 3, **factory), IMAGES),
    "DenseField": (lambda **factory: sx.nn.parts.DenseField(DIM, (5,), **factory), VECTORS),
    "Energy": (lambda **factory: sx.nn.parts.Energy(DIM, **factory), VECTORS),
    "ExpansiveConv2d": (lambda **factory: sx.nn.parts.ExpansiveConv2d(2, **factory), IMAGES),
    "IsometryConv2d": (lambda **factory: sx.nn.IsometryConv2d(2, 3, bias=True, **factory), IMAGES),
    "KineticEnergy": (lambda **factory: sx.nn.parts.KineticEnergy(DIM, **factory), VECTORS),
    "LatentODE": (lambda **factory: sx.nn.LatentODE(2, **factory), None),
    "LipschitzConvNet": (lambda **f: sx.nn.LipschitzConvNet(2, 3, image_size=8, widths=(2, 4), **f), IMAGES),
    "NonExpansiveConv2d": (lambda **factory: sx.nn.NonExpansiveConv2d(2, **factory), IMAGES),
    "OrthogonalKernel": (lambda **factory: sx.nn.parts.OrthogonalKernel(3, 2, **factory), ()),
    "OrthogonalMatrix": (lambda **factory: sx.nn.parts.OrthogonalMatrix(4, 3, copies=2, **factory), ()),
    "PresnovNetwork": (lambda **factory: sx.nn.PresnovNetwork(DIM, **factory), VECTORS),
    "ResidualConvNet": (lambda **f: sx.nn.ResidualConvNet(2, 3, image_size=8, widths=(2, 4), **f), IMAGES),
    "ResidualNet": (lambda **factory: sx.nn.ResidualNet(DIM, **factory), VECTORS),
    "ScaledKernel": (lambda **factory: sx.nn.parts.ScaledKernel(3, 2, **factory), ()),
}
"""How each public module that makes parameters is built, and the shape of its input: () for none, None for no simple one."""

OPTIONS: dict[str, Build] = {
    "Coisometry without a bias": lambda **factory: sx.nn.Coisometry(DIM, 3, bias=False, **factory),
    "LatentODE, several models": lambda **factory: sx.nn.LatentODE(2, models=3, encoder="gru", **factory),
    "LipschitzNet of contractions": lambda **factory: sx.nn.LipschitzNet(DIM, hidden=3, kind="non_expansive", **factory),
    "MassPreserving with hidden units": lambda **factory: sx.nn.MassPreserving(DIM, 6, **factory),
    "NonExpansiveConv2d, scaled": lambda **factory: sx.nn.NonExpansiveConv2d(2, kernel="scaled", **factory),
    "SeparableHamiltonian of networks": lambda **factory: sx.nn.SeparableHamiltonian(DIM, kinetic="network", **factory),
    "henonnet": lambda **factory: sx.nn.henonnet(DIM, **factory),
    "mass_preserving_network": lambda **factory: sx.nn.mass_preserving_network((DIM, 6), **factory),
    "sympnet": lambda **factory: sx.nn.sympnet(DIM, **factory),
    "sympnet, linear": lambda **factory: sx.nn.sympnet(DIM, modules="linear", **factory),
}
"""Options and functions that build modules in other ways."""

WRAPPERS = {
    *("ContinuousDepth", "ContinuousNormalizingFlow", "Momentum", "NeuralODE", "Residual", "Reversible", "Sequential"),
    *("Universal", "Weighted"),  # these hold the modules that they are given
    *("Damped", "Normalized"),  # these take the dtype and device of the module that they are given
    *("Block", "MarginLoss", "MassPreservingLift", "MassPreservingProjection", "Pool2d"),  # these have no tensors
}
EVERY = {**{name: build for name, (build, _) in BUILT.items()}, **OPTIONS}


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def kinds(module: nn.Module) -> dict[str, tuple[Any, ...]]:
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors(module).items()}


def test_every_public_module_is_here():
    every = {name: getattr(place, name) for place in (sx.nn, sx.nn.parts) for name in place.__all__}
    public = {name for name, kind in every.items() if isinstance(kind, type) and issubclass(kind, nn.Module)}
    assert public == BUILT.keys() | WRAPPERS


@pytest.mark.parametrize("name", [*BUILT, "henonnet", "mass_preserving_network", "sympnet"])
def test_device_and_dtype_are_keywords_with_the_default_none(name):
    parameters = inspect.signature(getattr(sx.nn, name, None) or getattr(sx.nn.parts, name)).parameters
    for option in (parameters["device"], parameters["dtype"]):
        assert option.kind is option.KEYWORD_ONLY and option.default is None


@pytest.mark.parametrize("name", EVERY)
def test_a_module_made_in_float64_has_the_tensors_of_one_cast_to_it(name):
    made, cast = EVERY[name](dtype=torch.float64), EVERY[name]().double()
    assert kinds(made) == kinds(cast)
    assert any(dtype == torch.float64 for dtype, _ in kinds(made).values())


@pytest.mark.parametrize("name", EVERY)
def test_the_defaults_are_those_of_pytorch_bit_for_bit(name):
    """None and the default dtype on the CPU give the same random numbers."""
    torch.manual_seed(0)
    default = tensors(EVERY[name]())
    torch.manual_seed(0)
    explicit = tensors(EVERY[name](device="cpu", dtype=torch.float32))
    assert default.keys() == explicit.keys()
    assert all(torch.equal(default[key], explicit[key]) and default[key].dtype == explicit[key].dtype for key in default)


@pytest.mark.parametrize("name", EVERY)
def test_a_module_made_on_meta_has_no_numbers(name):
    module = EVERY[name](device="meta")
    assert tensors(module) and all(tensor.is_meta for tensor in tensors(module).values())
    assert kinds(module) == kinds(EVERY[name]())


@pytest.mark.parametrize("name", [name for name, (_, shape) in BUILT.items() if shape is not None])
def test_a_module_made_in_float64_computes_in_float64(name):
    build, shape = BUILT[name]
    inputs = () if shape == () else (torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),)
    made, cast = flat(build(dtype=torch.float64)(*inputs)), flat(build().double()(*inputs))
    assert [part.shape for part in made] == [part.shape for part in cast]
    assert all(part.dtype == torch.float64 for part in made)


def flat(value: Any) -> list[Tensor]:
    """The tensors of an output and a state."""
    return [value] if isinstance(value, Tensor) else [tensor for part in value for tensor in flat(part)]


@pytest.mark.parametrize("options", [{"dtype": torch.float64}, {"device": "meta"}])
def test_what_a_wrapper_adds_has_the_dtype_and_device_of_its_module(options):
    inner = nn.Linear(3, 3, **options)
    scales = torch.zeros(3), torch.ones(3), torch.ones(3)
    for wrapper in (sx.nn.Damped(inner), sx.nn.parts.Normalized(inner, *scales)):
        added = {key: tensor for key, tensor in tensors(wrapper).items() if not key.startswith(("block", "module"))}
        assert added
        assert all(tensor.dtype == inner.weight.dtype and tensor.device == inner.weight.device for tensor in added.values())


def test_modules_of_the_user_keep_their_own_dtype():
    layer = sx.nn.parts.SymplecticGradient(DIM, potential=lambda size: nn.Linear(size, 1), dtype=torch.float64)
    volume = sx.nn.VolumePreserving(DIM, shift=nn.Linear, dtype=torch.float64)
    latent = sx.nn.LatentODE(2, decoder=nn.Linear(4, 2), dtype=torch.float64)
    assert {p.dtype for p in layer.parameters()} == {p.dtype for p in volume.parameters()} == {torch.float32}
    assert latent.decoder.weight.dtype == torch.float32 and latent.log_noise.dtype == torch.float64
