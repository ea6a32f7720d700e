"""Feed-forward networks in the idioms that people write them in: what a forward may ask, keep, replace and return."""

import functools
from collections import OrderedDict
from dataclasses import dataclass
from types import MethodType

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parameters_to_vector, parametrize

from foreign.oracle import Layered


def numbers(*shape: int, seed: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Inputs."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


class DeviceOfFirstParameter(nn.Module):
    """device = next(self.parameters()).device in forward."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(5, 7), nn.Linear(7, 5)

    def forward(self, x):
        first = next(self.parameters())
        x = x.to(first.device, first.dtype)
        return self.fc2(torch.tanh(self.fc1(x)))


class WeightDecayInside(nn.Module):
    """The squares of all parameters are part of the output."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))

    def forward(self, x):
        penalty = sum(p.square().sum() for p in self.parameters())
        return self.net(x) * (1 + 0.01 * penalty)


class NormOfParameters(nn.Module):
    """The norm of the vector of all parameters scales the output."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return torch.sin(self.fc(x)) * parameters_to_vector(self.parameters()).norm()


class NamedParameterLookup(nn.Module):
    """Weights are fetched by name from dict(self.named_parameters())."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        weights = dict(self.named_parameters())
        for i in range(len(self.layers)):
            x = x + torch.tanh(F.linear(x, weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"]))
        return x


class BoundMethod(nn.Module):
    """self.body = self._body, set in __init__, with dropout inside."""

    def __init__(self):
        super().__init__()
        self.fc, self.drop = nn.Linear(4, 4), nn.Dropout(0.5)
        self.body = self._body

    def _body(self, x):
        return self.drop(torch.tanh(self.fc(x)))

    def forward(self, x):
        return x + self.body(x)


class DispatchTable(nn.Module):
    """A dictionary of bound methods chooses the branch."""

    def __init__(self, mode="wide"):
        super().__init__()
        self.mode = mode
        self.narrow, self.wide = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 4))
        self.table = {"narrow": self._narrow, "wide": self._wide}

    def _narrow(self, x):
        return self.narrow(x)

    def _wide(self, x):
        return self.wide(x)

    def forward(self, x):
        return self.table[self.mode](x)


class PartialOfMethod(nn.Module):
    """functools.partial over a bound method, in a list."""

    def __init__(self):
        super().__init__()
        self.fc, self.drop = nn.Linear(4, 4), nn.Dropout(0.3)
        self.stages = [functools.partial(self._stage, scale) for scale in (0.5, 1.0, 2.0)]

    def _stage(self, scale, x):
        return x + scale * self.drop(torch.tanh(self.fc(x)))

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return x


def forward_replaced():
    """A wrapper that replaces module.forward on the object, as patching libraries do."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Tanh())
    inner = net.forward

    def scaled(self, x):
        return 3 * inner(x)

    net.forward = MethodType(scaled, net)
    return net


def forward_by_closure():
    """module.forward is a closure over the module's own old forward, as adapters are injected."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    low, old = nn.Linear(4, 4, bias=False), net[0].forward
    net[0].adapter = low
    net[0].forward = lambda x: old(x) + 0.5 * net[0].adapter(x)
    return net


class FunctionalDropout(nn.Module):
    """F.dropout without training=: on at all times."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return F.dropout(torch.tanh(self.fc(x)), 0.5)


class DropoutByFlag(nn.Module):
    """F.dropout(x, training=self.training), and the model left in train mode."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.fc2(F.dropout(F.relu(self.fc1(x)), p=0.4, training=self.training))


class OwnNormTraining(nn.Module):
    """A batch norm of one's own that writes its running mean while it trains."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("mean", torch.full((4,), 0.3))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x):
        x = self.fc(x)
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.mean(0).detach())
            self.seen += 1
            return x - x.mean(0)
        return torch.tanh(x - self.mean)


class CallCounter(nn.Module):
    """A buffer counts the calls, in evaluation too, and nothing depends on it."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x):
        self.calls += 1
        return torch.tanh(self.fc(x))


class WarmUp(nn.Module):
    """The output depends on how often the network was called."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("calls", torch.tensor(0.0))

    def forward(self, x):
        self.calls += 1
        return torch.tanh(self.fc(x)) * (1 - torch.exp(-self.calls))


class PythonCache(nn.Module):
    """A Python dictionary keeps masks by size."""

    def __init__(self):
        super().__init__()
        self.fc, self.masks = nn.Linear(5, 5), {}

    def forward(self, x):
        n = x.shape[-1]
        if n not in self.masks:
            self.masks[n] = torch.tril(torch.ones(n, n))
        return torch.tanh(self.fc(x @ self.masks[n].to(x)))


class LastActivation(nn.Module):
    """Keeps its last activation on self, for looking at later."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.hidden = nn.Linear(4, 6), nn.Linear(6, 4), None

    def forward(self, x):
        self.hidden = torch.tanh(self.fc1(x))
        return self.fc2(self.hidden)


class PlainTensorAttribute(nn.Module):
    """A fixed matrix that is neither parameter nor buffer."""

    def __init__(self):
        super().__init__()
        self.mix = torch.randn(4, 4) / 2
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(torch.tanh(x @ self.mix))


class ListOfTensors(nn.Module):
    """Weights in a Python list, with requires_grad, as from-scratch tutorials have them."""

    def __init__(self):
        super().__init__()
        self.weights = [(torch.randn(4, 4) / 2).requires_grad_() for _ in range(2)]

    def forward(self, x):
        for w in self.weights:
            x = torch.tanh(x @ w)
        return x


class InPlace(nn.Module):
    """ReLU(inplace=True), += on a residual, and a mask written into a slice."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.act = nn.Linear(6, 6), nn.Linear(6, 6), nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.fc2(self.act(self.fc1(x)))
        y += x
        y[:, :2] *= 0.5
        return y


class WritesItsInput(nn.Module):
    """Changes the tensor that it was given."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        x.sub_(x.mean(-1, keepdim=True))
        return torch.tanh(self.fc(x))


class KeywordsToOutput(nn.Module):
    """forward(input_values=None, **kwargs) → a ModelOutput, as transformers does."""

    @dataclass
    class Answer(OrderedDict):
        """A dictionary with attributes."""

        last_hidden_state: torch.Tensor
        pooled: torch.Tensor

        def __post_init__(self):
            self["last_hidden_state"], self["pooled"] = self.last_hidden_state, self.pooled

    def __init__(self):
        super().__init__()
        self.dense, self.pooler = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, input_values=None, output_hidden_states=False, **kwargs):
        hidden = torch.tanh(self.dense(input_values))
        return self.Answer(last_hidden_state=hidden, pooled=self.pooler(hidden))


class ReturnsDict(nn.Module):
    """forward → {"logits": …, "features": …}."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        features = F.gelu(self.body(x))
        return {"logits": self.head(features), "features": features}


class ReturnsTuple(nn.Module):
    """forward → (loss or None, logits)."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x, labels=None):
        logits = torch.tanh(self.fc(x))
        return (None, logits)


class ModuleDictByName(nn.Module):
    """An nn.ModuleDict of activations and heads, chosen by name."""

    def __init__(self, activation="silu", head="b"):
        super().__init__()
        self.fc, self.activation, self.head = nn.Linear(4, 6), activation, head
        self.activations = nn.ModuleDict({"relu": nn.ReLU(), "silu": nn.SiLU()})
        self.heads = nn.ModuleDict({"a": nn.Linear(6, 2), "b": nn.Linear(6, 4)})

    def forward(self, x):
        return self.heads[self.head](self.activations[self.activation](self.fc(x)))


class SharedLayer(nn.Module):
    """One layer under two names, applied three times."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.again = self.first

    def forward(self, x):
        return self.again(torch.tanh(self.again(torch.tanh(self.first(x)))))


class ParameterLists(nn.Module):
    """Weights in ParameterList and ParameterDict."""

    def __init__(self):
        super().__init__()
        self.w = nn.ParameterList(nn.Parameter(torch.randn(4, 4) / 2) for _ in range(3))
        self.b = nn.ParameterDict({"in": nn.Parameter(torch.zeros(4)), "out": nn.Parameter(torch.ones(4))})

    def forward(self, x):
        x = x + self.b["in"]
        for w in self.w:
            x = torch.tanh(x @ w)
        return x * self.b["out"]


class NoGradInside(nn.Module):
    """A normaliser under @torch.no_grad: the value has it, the gradient has not."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    @torch.no_grad()
    def _scale(self, x):
        return 1 + x.norm(dim=-1, keepdim=True)

    def forward(self, x):
        return torch.tanh(self.fc(x / self._scale(x)))


class Detached(nn.Module):
    """A stopped gradient in one of two branches."""

    def __init__(self):
        super().__init__()
        self.online, self.target = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return torch.tanh(self.online(x)) * torch.sigmoid(self.target(x).detach())


class StraightThrough(nn.Module):
    """A rounding whose gradient is the identity's, by detach."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        y = torch.tanh(self.fc(x))
        return y + (torch.round(4 * y) / 4 - y).detach()


class BranchByItem(nn.Module):
    """if x.mean().item() > 0 in forward."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return torch.tanh(self.up(x)) if x.mean().item() > 0 else self.down(x)


class DataDependentLoop(nn.Module):
    """Halves until the largest number is below one."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        x = 3 * self.fc(x)
        while x.abs().max() > 1:
            x = x / 2
        return torch.tanh(x)


class StochasticDepth(nn.Module):
    """Residual blocks that are dropped at random while it trains; left in train mode."""

    def __init__(self, p=0.5):
        super().__init__()
        self.blocks, self.p = nn.ModuleList(nn.Linear(5, 5) for _ in range(4)), p

    def forward(self, x):
        for block in self.blocks:
            if self.training and torch.rand(1).item() < self.p:
                continue
            x = x + (1 if self.training else 1 - self.p) * torch.tanh(block(x))
        return x


class GaussianNoiseLayer(nn.Module):
    """Adds torch.randn_like in evaluation too."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return torch.tanh(self.fc(x)) + 0.1 * torch.randn_like(x)


class Scheduled(nn.Module):
    """A plain Python attribute, set between epochs, is in the formula."""

    def __init__(self):
        super().__init__()
        self.fc, self.temperature = nn.Linear(4, 4), 0.5

    def set_temperature(self, value):
        self.temperature = value

    def forward(self, x):
        return torch.softmax(self.fc(x) / self.temperature, -1)


class OuterReference(nn.Module):
    """A child that keeps its parent in a tuple, so that it is no child of the child."""

    class Child(nn.Module):
        """Reads its parent's gain."""

        def __init__(self, parent):
            super().__init__()
            self.parent, self.fc = (parent,), nn.Linear(4, 4)

        def forward(self, x):
            return self.parent[0].gain * torch.tanh(self.fc(x))

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.7))
        self.child = self.Child(self)

    def forward(self, x):
        return x + self.child(x)


def hooked():
    """Forward hooks and pre-hooks that change what passes."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    net[1].register_forward_hook(lambda module, args, output: 2 * output)
    net[2].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    return net


def hooked_by_method():
    """A forward hook that is a bound method of the model, as feature extractors register it."""

    class Extractor(nn.Module):
        """Scales the features that its hook has seen."""

        def __init__(self):
            super().__init__()
            self.backbone, self.gain, self.features = nn.Linear(4, 4), nn.Parameter(torch.tensor(2.0)), {}
            self.backbone.register_forward_hook(self.save)

        def save(self, module, args, output):
            self.features["backbone"] = torch.tanh(output)

        def forward(self, x):
            self.backbone(x)
            return self.gain * self.features["backbone"]

    return Extractor()


def weight_normed():
    """torch.nn.utils.parametrizations.weight_norm."""
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 4))


def old_weight_normed():
    """The old torch.nn.utils.weight_norm, a pre-hook that sets the weight."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)), nn.Tanh())


def spectral_normed():
    """Spectral norm, whose buffers move while it trains; left in train mode."""
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.Tanh())


def old_spectral_normed():
    """The old torch.nn.utils.spectral_norm, a pre-hook that writes u in train mode."""
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 4)), nn.Tanh())


class Symmetric(nn.Module):
    """A parametrisation of one's own."""

    def forward(self, w):
        return w.triu() + w.triu(1).mT


def symmetric():
    """parametrize.register_parametrization with one's own class."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    parametrize.register_parametrization(net[0], "weight", Symmetric())
    return net


def pruned():
    """torch.nn.utils.prune: a mask and a pre-hook."""
    from torch.nn.utils import prune

    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    prune.l1_unstructured(net[0], "weight", amount=0.5)
    prune.random_unstructured(net[2], "weight", amount=3)
    return net


def scripted():
    """torch.jit.script."""
    return torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)))


def scripted_inside():
    """A scripted block inside a plain model."""
    return nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Tanh())))


def scripted_plain():
    """The same, without script."""
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh()))


def tanh_net():
    """What is wrapped below."""
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))


def data_parallel():
    """nn.DataParallel on a machine without other devices."""
    return nn.DataParallel(tanh_net())


def compiled():
    """torch.compile around the model."""
    return torch.compile(tanh_net(), backend="eager")


def compiled_inside():
    """torch.compile around a block inside the model."""
    net = nn.Sequential(tanh_net(), nn.Tanh())
    net[0] = torch.compile(net[0], backend="eager")
    return net


class Averaged(nn.Module):
    """torch.optim.swa_utils.AveragedModel around a model, with its n_averaged buffer."""

    def __new__(cls):
        return torch.optim.swa_utils.AveragedModel(tanh_net())


def half():
    """Weights in float16."""
    return tanh_net().half()


def brain():
    """Weights in bfloat16, cast inside forward."""

    class Mixed(nn.Module):
        """x.to(self.weight.dtype) in, .float() out."""

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4).bfloat16()

        def forward(self, x):
            return torch.tanh(self.fc(x.to(self.fc.weight.dtype)))

    return Mixed()


class CastsToFloat(nn.Module):
    """x.float() in forward: the network insists on float32."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return torch.tanh(self.fc(x.float()))


class ThroughNumpy(nn.Module):
    """Leaves PyTorch for NumPy in between."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(torch.from_numpy(abs(x.detach().numpy())))


class ComplexWeights(nn.Module):
    """A complex mixing matrix between real ends."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4, dtype=torch.cfloat) / 2)

    def forward(self, x):
        return torch.tanh((x.to(self.w.dtype) @ self.w).real) + (x.to(self.w.dtype) @ self.w).abs()


class IntegerBuffer(nn.Module):
    """A permutation in an integer buffer, and a boolean mask."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.register_buffer("order", torch.randperm(6))
        self.register_buffer("mask", torch.arange(6) % 2 == 0)

    def forward(self, x):
        return torch.where(self.mask, torch.tanh(self.fc(x[:, self.order])), x)


class TinyUnits(nn.Module):
    """Physical units: inputs of 1e-9, weights of 1e9."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return 1e-9 * torch.tanh(self.fc(1e9 * x))


class Checkpointed(nn.Module):
    """torch.utils.checkpoint around each block."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3))

    def forward(self, x):
        from torch.utils.checkpoint import checkpoint

        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=False)
        return x


class CustomBackward(nn.Module):
    """An autograd.Function with setup_context and a true backward."""

    class Softsign(torch.autograd.Function):
        """x / (1 + |x|)."""

        @staticmethod
        def forward(x):
            return x / (1 + x.abs())

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(inputs[0])

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad / (1 + x.abs()).square()

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.Softsign.apply(self.fc(x))


class GradientReversal(nn.Module):
    """An old-style autograd.Function whose backward is not its derivative."""

    class Reverse(torch.autograd.Function):
        """The identity, with minus its gradient."""

        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, grad):
            return -grad

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return torch.tanh(self.fc(self.Reverse.apply(x)))


class StackedEnsemble(nn.Module):
    """vmap over stacked weights of several networks, mean of their answers."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 4, 4) / 2)

    def forward(self, x):
        return torch.vmap(lambda w: torch.tanh(x @ w))(self.w).mean(0)


class LazyWidth(nn.Module):
    """Lazy layers, materialised by a first call."""

    def __new__(cls):
        net = nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.LazyLinear(4))
        net(torch.zeros(1, 4))
        return net


EVERY = ("depth", "analyze", "certificate", "map", "ode")
DRAWS = "random|noise|two forward|differ"
RANDOM = dict.fromkeys(EVERY, DRAWS)
SLOPE = dict.fromkeys(("map", "ode"), "derivative of the (step|field) is not")
X4, X5, X6 = numbers(3, 4), numbers(3, 5), numbers(3, 6)


def square(make, x=X4, **more):
    """A network from vectors to vectors of the same width, asked everything."""
    return Layered(make, x, EVERY, **more)


CASES = [
    square(DeviceOfFirstParameter, X5),
    square(WeightDecayInside),
    square(NormOfParameters),
    square(NamedParameterLookup),
    square(BoundMethod),
    square(DispatchTable),
    square(PartialOfMethod),
    square(forward_replaced),
    square(forward_by_closure),
    square(FunctionalDropout, refused=RANDOM),
    square(DropoutByFlag),
    square(OwnNormTraining),
    square(CallCounter, refused=dict.fromkeys(EVERY, "buffer")),
    square(WarmUp, refused=dict.fromkeys(EVERY, "buffer|calls|two forward passes|two passes with one input")),
    square(PythonCache, X5),
    square(LastActivation),
    square(PlainTensorAttribute),
    square(ListOfTensors),
    square(InPlace, X6),
    square(WritesItsInput, refused=dict.fromkeys(("map", "ode"), "in place")),
    Layered(KeywordsToOutput, X5),
    Layered(ReturnsDict, X4),
    Layered(ReturnsTuple, X4),
    square(ModuleDictByName),
    square(SharedLayer, X5),
    square(ParameterLists),
    square(NoGradInside),
    square(Detached, refused=SLOPE),
    square(StraightThrough, refused=SLOPE),
    square(BranchByItem, one_item=True),
    square(DataDependentLoop, one_item=True),
    square(StochasticDepth, X5),
    square(GaussianNoiseLayer, refused=RANDOM),
    square(Scheduled),
    square(OuterReference),
    square(hooked),
    square(hooked_by_method),
    square(weight_normed),
    square(old_weight_normed),
    square(spectral_normed),
    square(old_spectral_normed),
    square(symmetric),
    square(pruned, X6),
    square(scripted, plain=tanh_net, refused=dict.fromkeys(EVERY, "script")),
    square(scripted_inside, plain=scripted_plain, refused=dict.fromkeys(EVERY, "script")),
    square(data_parallel, plain=tanh_net),
    square(compiled, plain=tanh_net),
    square(compiled_inside, plain=lambda: nn.Sequential(tanh_net(), nn.Tanh())),
    square(Averaged, plain=tanh_net),
    square(half),
    square(brain),
    square(CastsToFloat, refused=dict.fromkeys(EVERY, "float32|CastsToFloat|dtype")),
    square(ThroughNumpy, refused=dict.fromkeys(EVERY, "ThroughNumpy|depend|numpy|forward mode|derivative")),
    square(ComplexWeights),
    square(IntegerBuffer, X6),
    square(TinyUnits, 1e-9 * X4),
    square(Checkpointed),
    square(CustomBackward),
    square(GradientReversal, refused=SLOPE),
    square(StackedEnsemble),
    square(LazyWidth),
]
