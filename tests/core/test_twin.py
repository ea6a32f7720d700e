"""The second view of a module: same tensors, cast, in evaluation mode; the user's own stays as it was."""

import copy
import functools
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import separatrix as sx
from separatrix.core.errors import UnsupportedModuleError
from separatrix.core.twin import twin
from separatrix.testing import check_module_untouched


class Tied(nn.Module):
    """Two names of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


MODULES = {
    "linear": (lambda: nn.Linear(3, 3), (5, 3)),
    "batch norm": (lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), (5, 3)),
    "dropout": (lambda: nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), (5, 3)),
    "convolution": (lambda: nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU()), (4, 2, 5, 5)),
    "transformer": (lambda: nn.TransformerEncoderLayer(4, 2, dim_feedforward=8, batch_first=True), (2, 3, 4)),
    "tied": (Tied, (5, 3)),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(3, 3)), (5, 3)),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(3, 3)), (5, 3)),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(3, 3)), (5, 3)),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_twin_in_float64_is_the_module_in_evaluation_mode_cast_to_float64(name):
    build, shape = MODULES[name]
    torch.manual_seed(0)
    module = build().train()
    x = torch.randn(*shape, dtype=torch.float64)
    value = check_module_untouched(module, lambda: twin(module, dtype=torch.float64)(x))
    assert value.dtype == torch.float64
    assert torch.allclose(value, module.double().eval()(x), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_the_twin_of_a_recurrent_layer_casts_its_flat_weights_too(kind):
    torch.manual_seed(0)
    module, u = kind(3, 4, num_layers=2, dropout=0.5).train(), torch.randn(6, 2, 3, dtype=torch.float64)
    value = check_module_untouched(module, lambda: twin(module, dtype=torch.float64)(u)[0])
    assert torch.allclose(value, module.double().eval()(u)[0], rtol=1e-12, atol=1e-14)


def test_a_twin_of_the_same_dtype_copies_no_tensor():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    copy = twin(module)
    views = {**dict(copy.named_parameters()), **dict(copy.named_buffers())}
    for name, tensor in {**dict(module.named_parameters()), **dict(module.named_buffers())}.items():
        assert views[name].data_ptr() == tensor.data_ptr()
    integers = twin(module, dtype=torch.float64).state_dict()["1.num_batches_tracked"]
    assert integers.dtype == torch.int64


def test_gradients_flow_through_the_cast_to_the_modules_parameters():
    module, x = nn.Linear(2, 1), torch.tensor([[3.0, 5.0]], dtype=torch.float64)
    twin(module, dtype=torch.float64)(x).sum().backward()
    assert module.weight.grad.tolist() == [[3.0, 5.0]]
    assert module.weight.grad.dtype == torch.float32


def test_an_optimisers_step_is_seen_by_a_twin_made_before_it():
    module = nn.Linear(2, 1)
    seen, x = twin(module), torch.ones(1, 2)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    seen(x).sum().backward()
    optimiser.step()
    assert torch.equal(seen(x), module(x))


def test_casting_a_twin_leaves_the_module_alone():
    module = nn.Linear(2, 2)
    check_module_untouched(module, lambda: twin(module).to(torch.float64))


def test_setting_a_twins_mode_or_attributes_leaves_the_module_alone():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout())

    def change() -> None:
        copy = twin(module)
        copy.train()
        copy[1].p = 0.9
        copy.extra = nn.Linear(1, 1)
        copy.register_buffer("noise", torch.ones(1))

    check_module_untouched(module.eval(), change)
    assert module[1].p == 0.5
    assert not hasattr(module, "extra")


def test_a_layer_of_two_names_stays_one_layer():
    copy = twin(Tied(), dtype=torch.float64)
    assert copy.first is copy.second
    assert copy.first.weight.dtype == torch.float64


def test_a_missing_child_or_tensor_stays_missing():
    module = nn.Linear(2, 2, bias=False)
    module.register_module("later", None)
    copy = twin(module, dtype=torch.float64)
    assert copy.bias is None and copy.later is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_optimiser_does_not_take_a_twins_parameters(dtype):
    """They are the module's, cast or seen, and none of the twin's own: an optimiser says so."""
    with pytest.raises(ValueError, match="non-leaf"):
        torch.optim.SGD(twin(nn.Linear(2, 2), dtype=dtype).parameters(), lr=0.1)


def test_a_scripted_module_is_used_as_it_is():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Linear(2, 2))
    assert twin(nn.Sequential(scripted))[0] is scripted


def test_a_deep_tree_is_copied_module_by_module():
    module = nn.Sequential(nn.Sequential(nn.Linear(1, 1)))
    copy = twin(module)
    assert copy[0] is not module[0] and copy[0][0] is not module[0][0]
    assert type(copy[0][0]) is nn.Linear


def test_no_gradient_passes_a_detached_twin():
    module, x = nn.Linear(3, 3), torch.ones(2, 3, requires_grad=True)
    twin(module, detach=True)(x).sum().backward()
    assert module.weight.grad is None and torch.allclose(x.grad, module.weight.detach().sum(0).expand(2, 3))


class Net(nn.Module):
    """Every way in which a module may lead back to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout(0.5)


class Asks(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = next(self.parameters()).new_zeros(len(x), 3)
        size = sum(p.square().sum() for p in self.parameters() if isinstance(p, nn.Parameter))
        return self.first(x) + h + size + nn.utils.parameters_to_vector(self.parameters()).norm()


class Method(Net):
    def __init__(self) -> None:
        super().__init__()
        self.body = self._body

    def _body(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(self.first(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Table(Method):
    def __init__(self) -> None:
        super().__init__()
        self.ways = {"body": [self._body, (self.drop,)]}

    def forward(self, x: Tensor) -> Tensor:
        body, (drop,) = self.ways["body"]
        return drop(body(x))


class Partial(Method):
    def __init__(self) -> None:
        super().__init__()
        self.body = functools.partial(functools.partial(Partial._scaled, self), scale=2.0)

    def _scaled(self, x: Tensor, scale: float) -> Tensor:
        return scale * self._body(x)


class Closure(Method):
    def __init__(self) -> None:
        super().__init__()
        weight = self.second.weight
        self.body = lambda x, drop=self.drop: drop(self._body(x)) @ weight


class Wrapped(Method):
    def __init__(self) -> None:
        super().__init__()
        inner = self.first.forward
        self.first.forward = lambda x: inner(x) + 1.0


class Parent(Method):
    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self.first, "above", self)
        self.second.__dict__["seen"] = weakref.ref(self)
        self.norm.__dict__["proxy"] = weakref.proxy(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.first.above.drop(x) + self.second.seen().norm(x) + self.norm.proxy.second(x)


@dataclass(frozen=True)
class Config:
    layer: nn.Module
    call: Callable[[Tensor], Tensor]


class Configured(Method):
    def __init__(self) -> None:
        super().__init__()
        self.config = Config(self.second, self._body)

    def forward(self, x: Tensor) -> Tensor:
        return self.config.layer(self.config.call(x))


class Hooked(Method):
    def __init__(self) -> None:
        super().__init__()
        self.first.register_forward_hook(self._after)
        self.first.register_forward_pre_hook(functools.partial(self._before, by=2.0))

    def _after(self, _: nn.Module, __: tuple[Tensor], y: Tensor) -> Tensor:
        return self.drop(y) @ self.second.weight

    def _before(self, _: nn.Module, given: tuple[Tensor], *, by: float) -> tuple[Tensor]:
        return (by * self.drop(given[0]),)


class Cached(Method):
    def __init__(self) -> None:
        super().__init__()
        self.body = functools.lru_cache(maxsize=2)(self._body)


class Notebook(Method):
    """A function of a notebook, where the method is a global name."""

    def __init__(self) -> None:
        super().__init__()
        space = {"__name__": "__main__", "old": self._body}
        exec("def double(x): return 2 * old(x)\ndef body(x): return double(x) + 1", space)
        self.body = space["body"]


BACK = (Asks, Method, Table, Partial, Closure, Wrapped, Parent, Configured, Hooked, Cached, Notebook)


@pytest.mark.parametrize("kind", BACK)
def test_a_twin_of_a_module_that_leads_back_to_itself_is_the_module_cast(kind):
    """The expected value is that of a module built anew in float64 and put into evaluation mode, with the same weights."""
    torch.manual_seed(0)
    module, other, x = kind().train(), kind(), torch.randn(5, 3, dtype=torch.float64)
    for name, part in other.named_modules():  # not .double(), which leaves what a closure holds: the tensors themselves
        for key, parameter in part._parameters.items():
            parameter.data = module.get_submodule(name)._parameters[key].detach().double()
        for key, buffer in part._buffers.items():
            part._buffers[key] = buffer.double() if buffer.is_floating_point() else buffer
    value = check_module_untouched(module, lambda: twin(module, dtype=torch.float64)(x))
    assert torch.allclose(value, other.eval()(x), rtol=1e-12, atol=1e-13)
    value = check_module_untouched(module, lambda: twin(twin(module), dtype=torch.float64)(x))
    assert torch.allclose(value, other(x), rtol=1e-12, atol=1e-13)
    value.sum().backward()
    assert module.first.weight.grad is not None or kind is Parent


class Unregistered(nn.Module):
    """Layers and tensors that no module list knows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(3, 3), {"norm": nn.BatchNorm1d(3)}]
        self.scale = torch.tensor([0.1, 0.2, 0.3])

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.layers[1]["norm"](self.layers[0](x))


def test_layers_in_a_plain_list_are_cast_and_evaluated_too():
    torch.manual_seed(0)
    module, x = Unregistered(), torch.randn(5, 3, dtype=torch.float64)
    line, norm = module.layers[0], module.layers[1]["norm"]
    value = twin(module, dtype=torch.float64)(x)
    expected = module.scale.double() * (x @ line.weight.double().T + line.bias.double()) / (1 + norm.eps) ** 0.5
    assert torch.allclose(value, expected, rtol=1e-12)
    assert line.weight.dtype == torch.float32 and norm.training and torch.equal(norm.running_mean, torch.zeros(3))


def test_what_a_forward_pass_writes_stays_in_a_twin_apart():
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.seen: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            self.seen.append(x)
            return x

    module = Writes()
    check_module_untouched(module, lambda: twin(module, apart=True)(torch.ones(2)))
    assert module.count == 0 and not module.seen


def test_a_way_back_that_cannot_be_made_anew_is_refused():
    module = Method()
    module.body = iter([module._body])
    with pytest.raises(UnsupportedModuleError, match="body of Method, a list_iterator"):
        twin(module)


def test_tied_weights_are_one_parameter_of_the_twin():
    module = Tied()
    module.other = nn.Linear(3, 3)
    module.other.weight = module.first.weight
    assert len(list(twin(module, dtype=torch.float64).parameters())) == len(list(module.parameters())) == 3


def test_a_twin_is_taken_by_functional_call_vmap_and_compile():
    torch.manual_seed(0)
    module, x = Method().eval(), torch.randn(4, 3, dtype=torch.float64)
    copied = twin(module, dtype=torch.float64)
    weight = torch.randn(3, 3, dtype=torch.float64)
    moved = torch.func.functional_call(copied, {"first.weight": weight}, (x,))
    assert torch.allclose(moved * (1 + module.norm.eps) ** 0.5, x @ weight.T + module.first.bias.double(), rtol=1e-12)
    assert torch.allclose(torch.func.vmap(lambda y: copied(y[None])[0])(x), copied(x), rtol=1e-12)
    assert torch.allclose(torch.compile(copied, backend="eager")(x), copied(x), rtol=1e-12)


def test_a_system_of_a_module_is_moved_and_deeply_copied_without_the_module():
    module, x = nn.Linear(2, 2), torch.ones(2, dtype=torch.float64)
    system = sx.Map(module, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_module_untouched(module, lambda: system.to(torch.float64))
    system.step(x).sum().backward()
    assert torch.equal(module.weight.grad, torch.ones(2, 2))
    other = copy.deepcopy(system)
    with torch.no_grad():
        module.weight.zero_()
    assert torch.equal(system.step(x), other.step(x))  # its numbers are those from when it was cast
    with torch.no_grad():
        next(other.parameters()).zero_()
    assert not torch.equal(system.step(x), other.step(x))
