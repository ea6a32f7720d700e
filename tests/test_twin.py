"""The second view of a module: same tensors, cast, in evaluation mode; the user's own stays as it was."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from separatrix.testing import check_module_untouched
from separatrix.twin import twin


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
