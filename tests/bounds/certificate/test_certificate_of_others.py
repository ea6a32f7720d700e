"""Networks that others write: what is not known is named, and no trick of theirs makes a bound that is too low."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import separatrix as sx
from separatrix.bounds.certificate.layers import OWN


class Of(nn.Module):
    """A module that computes a function of its input and of what it holds."""

    def __init__(self, function, **held) -> None:
        super().__init__()
        self.function = function
        for name, value in held.items():
            self.register_buffer(name, value) if type(value) is Tensor else setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def linear(*shape: int, seed: int = 0) -> nn.Linear:
    """A linear layer in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(*shape, dtype=torch.float64)


def norm(weight: Tensor) -> float:
    return float(torch.linalg.matrix_norm(weight.detach().double(), 2))


W = linear(4, 4)
ATTENTION = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
ROUTER = Of(lambda m, x: m.one(x) if x.sum() > 0 else 5 * x, one=linear(4, 4))

UNKNOWN = {
    "product": (Of(lambda _, x: x * x.tanh()), 4, "Of", "multiplies two values"),
    "square": (nn.Sequential(linear(4, 4), Of(lambda _, x: x**2)), 4, "1", "powers"),
    "quotient": (Of(lambda _, x: 1 / (1 + x.abs())), 4, "Of", "divides"),
    "unit vector": (Of(lambda _, x: F.normalize(x)), 4, "Of", "divides"),
    "exponential": (Of(lambda _, x: x.exp()), 4, "Of", "exponential"),
    "attention": (nn.Sequential(nn.Linear(8, 8), ATTENTION), (5, 8), "1.self_attn", "attention"),
    "gated": (nn.Sequential(nn.GLU()), 4, "0", "multiplies two values"),
    "recurrent": (Of(lambda m, x: m.core(x)[0], core=nn.LSTM(4, 4, batch_first=True)), (5, 4), "core", "gates"),
    "batch statistics": (nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False)), (2, 4, 4), "0", "statistics of the batch"),
    "noise": (nn.Sequential(Of(lambda _, x: x * torch.rand(4))), 4, "0", "draws random numbers"),
    "dropout that stays": (nn.Sequential(Of(lambda _, x: F.dropout(x, 0.5, training=True))), 4, "0", "draws random numbers"),
    "jump": (nn.Sequential(nn.Hardshrink()), 4, "0", ""),
    "threshold": (nn.Sequential(nn.Threshold(0.5, 0.0)), 4, "0", "jumps"),
    "softplus that jumps": (nn.Sequential(nn.Softplus(1.0, threshold=1.0)), 4, "0", "jumps"),
    "rounding": (Of(lambda _, x: x.round()), 4, "Of", "jumps"),
    "places": (Of(lambda _, x: x.max(1).indices.double()), 4, "Of", "integers"),
    "a switch": (Of(lambda _, x: torch.where(x > 1, x, 0.5 * x)), 4, "Of", "switches"),
    "a mask": (Of(lambda _, x: x * (x > 1)), 4, "Of", ""),
    "a number read off": (Of(lambda _, x: x * x.sum().item()), 4, "Of", ""),
    "weights from the input": (Of(lambda _, x: F.linear(x, x.mT @ x)), 4, "Of", "depend on the input"),
    "angle": (Of(lambda _, x: torch.fft.rfft(x).angle()), 4, "Of", "angle"),
    "control flow": (nn.Sequential(linear(4, 4), ROUTER), 4, "1", "depends on the numbers"),
    "no epsilon": (nn.LayerNorm(4, eps=0.0), 4, "LayerNorm", "divides by 0"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_has_no_bound_is_named_with_its_reason_and_gives_none(name):
    model, shape, layer, reason = UNKNOWN[name]
    found = sx.certificate(model, shape, starts=3, steps=3)
    assert found.bound == math.inf and found.status == "no_bound" and not found.is_bounded
    assert found.unknown == (layer,) and reason in found.reasons[0]
    assert layer in found.summary() and "no bound" in found.summary()
    with pytest.raises(sx.errors.UnsupportedModuleError, match="no bound"):
        sx.certificate(model, shape, starts=3, steps=3, throw=True)


def test_whole_numbers_as_inputs_have_no_bound():
    found = sx.certificate(nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 2)), 4)
    assert found.bound == math.inf and "integers" in found.reasons[0]


def test_what_is_not_reached_has_no_say():
    """A layer that is held and never called, and one whose output is thrown away."""
    model = Of(lambda m, x: (m.thrown(x), m.used(x))[1], unused=nn.LSTM(4, 4), thrown=nn.GLU(), used=linear(4, 4))
    found = sx.certificate(model, 4)
    assert found.names == ("used",) and found.bound == pytest.approx(norm(model.used.weight), rel=1e-9)


# what others do to the weights and the values


def doubled_by_a_hook() -> nn.Module:
    model = nn.Sequential(linear(4, 4))
    model[0].register_forward_hook(lambda module, given, returned: 3 * returned)
    return model


def widened_before_by_a_hook() -> nn.Module:
    model = nn.Sequential(linear(4, 4))
    model[0].register_forward_pre_hook(lambda module, given: (3 * given[0],))
    return model


class Tripled(nn.Linear):
    """A subclass of a layer that does something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


def subclass() -> nn.Module:
    model = Tripled(4, 4, dtype=torch.float64)
    model.load_state_dict(linear(4, 4).state_dict())
    return model


def replaced_forward() -> nn.Module:
    model = nn.Sequential(linear(4, 4))
    model[0].forward = lambda x: 3 * F.linear(x, model[0].weight)
    return model


def in_place(m: nn.Module, x: Tensor) -> Tensor:
    y = m.one(x)
    y.mul_(3)
    return y


def in_place_behind_a_copy(m: nn.Module, x: Tensor) -> Tensor:
    y = m.one(x)
    z = y[:, :]
    z.mul_(3)  # writes to y too
    return y


def in_place_sum(m: nn.Module, x: Tensor) -> Tensor:
    y = m.one(x)
    y += y
    return y.add_(m.one(x))


def of_the_input_itself(m: nn.Module, x: Tensor) -> Tensor:
    x.mul_(3)
    return m.one(x)


def called_three_times(m: nn.Module, x: Tensor) -> Tensor:
    return m.one(x) + m.one(x) + m.one(x)


def under_no_grad(m: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = x * 3
    return m.one(x)


def detached(m: nn.Module, x: Tensor) -> Tensor:
    return m.one((3 * x).detach())


TRICKS = {
    "forward hook": doubled_by_a_hook(),
    "forward pre-hook": widened_before_by_a_hook(),
    "subclass": subclass(),
    "replaced forward": replaced_forward(),
    "in place": Of(in_place, one=linear(4, 4)),
    "in place through a view": Of(in_place_behind_a_copy, one=linear(4, 4)),
    "in-place sum": Of(in_place_sum, one=linear(4, 4)),
    "of the input": Of(of_the_input_itself, one=linear(4, 4)),
    "shared": Of(called_three_times, one=linear(4, 4)),
    "no_grad": Of(under_no_grad, one=linear(4, 4)),
    "detach": Of(detached, one=linear(4, 4)),
    "buffer": Of(lambda m, x: m.one(x) * m.scale, one=linear(4, 4), scale=torch.tensor(-3.0)),
    "parameter": Of(lambda m, x: m.one(x) * m.scale.abs(), one=linear(4, 4), scale=nn.Parameter(torch.tensor([-3.0, 0, 1, 2]))),
    "functional": Of(lambda m, x: F.linear(x, 3 * m.w), w=W.weight.detach()),
    "python number of a weight": Of(lambda m, x: float(m.scale) * m.one(x), one=linear(4, 4), scale=torch.tensor(3.0)),
    "switch on a weight": Of(lambda m, x: m.one(x) * (3 if m.scale > 0 else 1), one=linear(4, 4), scale=torch.tensor(3.0)),
    "division by at least one": Of(lambda m, x: F.linear(x, 3 * m.w / max(1, m.w.norm() / 100)), w=W.weight.detach()),
    "switch on the shape": Of(lambda m, x: m.one(x) * (3 if x.shape[1] > 3 else 1), one=linear(4, 4)),
    "a loop": Of(lambda m, x: m.one(sum(x for _ in range(3))), one=linear(4, 4)),
    "rows that mix": Of(lambda m, x: m.one(x) * 3 + (x - x.mean(0, keepdim=True)).sum(), one=linear(4, 4)),
    "double": Of(lambda m, x: m.one(x.double()).float() * 3, one=linear(4, 4)),
}


@pytest.mark.long
@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_does_not_hide_a_factor_of_three(trick):
    """Each computes 3 W x, or for the parameter diag(3, 0, 1, 2) W x."""
    model = TRICKS[trick]
    weight = linear(4, 4).weight.detach()
    exact = norm(torch.tensor([3.0, 0, 1, 2])[:, None] * weight if trick == "parameter" else 3 * weight)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = sx.certificate(model, 4)
    assert exact * (1 - 1e-6) <= found.bound
    assert found.bound <= 3 * norm(weight) * (1 + 1e-6) or trick == "rows that mix"
    assert found.lower <= exact * (1 + 1e-6)
    assert found.lower >= exact * (0.5 if trick in ("no_grad", "detach") else 1 - 1e-3)  # where no derivative leads on
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("parametrise", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_parametrised_weights_are_seen_as_they_are(parametrise):
    model = nn.Sequential(parametrise(linear(5, 4)), nn.ReLU()).eval()
    assert sx.certificate(model, 5).bound == pytest.approx(norm(model[0].weight), rel=1e-6)


def test_training_mode_is_left_as_it_was_and_the_bound_is_that_of_evaluation():
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Dropout(0.5)).train()
    model[1].running_var.fill_(0.25)
    found = sx.certificate(model, 5)
    assert model.training and model[1].training
    scaled = model[0].weight / torch.sqrt(torch.tensor(0.25 + 1e-5))
    assert found.bound == pytest.approx(norm(scaled), rel=1e-5)


class Promises(nn.Module):
    """A module that promises a factor, rightly or not; its path depends on the numbers."""

    def __init__(self, lipschitz: float) -> None:
        super().__init__()
        self.lipschitz = lipschitz

    @property
    def guarantee(self) -> sx.nn.Guarantee:
        return sx.nn.Guarantee(lipschitz=self.lipschitz)

    def forward(self, x: Tensor) -> Tensor:
        while x.norm() > 1e6:
            x = x / 2
        return 0.5 * x


def test_a_guarantee_is_taken_at_its_word_where_the_layer_cannot_be_looked_into():
    found = sx.certificate(nn.Sequential(linear(4, 4), Promises(0.75)), 4)
    assert found.bound == pytest.approx(0.75 * norm(linear(4, 4).weight), rel=1e-9)
    assert found.methods[-1] == "its own guarantee"


def test_a_module_that_is_one_promise_has_its_factor():
    found = sx.certificate(Promises(0.75), 4)
    assert found.bound == 0.75 and found.lower == pytest.approx(0.5, rel=1e-9) and found.names == ("Promises",)


def test_a_promise_holds_beside_a_path_that_depends_on_the_weights():
    model = Of(
        lambda m, x: m.promise(m.one(x) if m.scale > 0 else x), one=linear(4, 4), scale=torch.ones(()), promise=Promises(0.75)
    )
    assert sx.certificate(model, 4).bound == pytest.approx(0.75 * norm(model.one.weight), rel=1e-9)


@torch.library.custom_op("of_others::relu", mutates_args=())
def relu(x: Tensor) -> Tensor:
    return 3 * x.relu()


@relu.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_an_operator_of_another_library_is_not_taken_for_pytorch_s_of_the_same_name():
    found = sx.certificate(nn.Sequential(linear(4, 4), Of(lambda _, x: torch.ops.of_others.relu(x))), 4, starts=3, steps=3)
    assert found.bound == math.inf and found.unknown == ("1",) and "of_others.relu" in found.reasons[0]


def test_a_promise_that_a_measurement_refutes_is_no_bound():
    found = sx.certificate(nn.Sequential(linear(4, 4), Promises(0.25)), 4)
    assert found.bound == math.inf and found.unknown == ("1",) and "more than" in found.reasons[0]


def test_blocks_and_their_compositions_are_leaves():
    block = sx.nn.Residual(nn.Sequential(linear(4, 4), nn.ReLU()), scale=-0.5, skip=2.0)
    assert sx.certificate(block, 4).bound == pytest.approx(2 + 0.5 * norm(linear(4, 4).weight), rel=1e-9)


# the mechanisms by which published "constrained" networks are not 1-Lipschitz


def test_a_lift_that_is_rescaled_by_a_learned_number_is_not_one_lipschitz():
    """relu(c · conv(x)) with a kernel of norm 1 and c = 4: a factor of 4, which the bound counts and an input shows."""
    kernel = nn.Conv2d(1, 1, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(kernel.weight)
    lift = Of(lambda m, x: torch.relu(m.rescaling * m.conv(x)), conv=kernel, rescaling=nn.Parameter(torch.tensor(4.0)))
    found = sx.certificate(lift, (1, 4, 4))
    assert found.bound == pytest.approx(4, rel=1e-9)
    assert found.lower == pytest.approx(4, rel=1e-6)


def test_a_contraction_step_of_minus_1_9_that_runs_as_an_expansion_is_shown_to_expand():
    """x ↦ x − h Aᵀ relu(Ax), A orthogonal, does not expand for h in [0, 2]; a step of −1.9 that a bound let pass has slope 2.9."""
    a = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    step = Of(lambda m, x: x - m.h * torch.relu(x @ m.a.mT) @ m.a, a=a, h=torch.tensor(-1.9, dtype=torch.float64))
    found = sx.certificate(step, 6)
    assert found.lower == pytest.approx(2.9, rel=1e-6)
    assert found.bound == pytest.approx(2.9, rel=1e-6)


# bad input

NARROW = nn.Linear(4, 4)


@pytest.mark.parametrize(
    ("arguments", "kind", "told"),
    [
        ((nn.Linear(4, 4), 5), sx.errors.ShapeError, "Linear fails on an input of shape \\(5,\\)"),
        (
            (Of(lambda _, x: NARROW(x)), 4),
            sx.errors.ModelError,
            "in float64, in which it is evaluated, although it runs in float32: mat1",
        ),
        ((Of(lambda _, x: NARROW.bfloat16()(x)), 4), sx.errors.ModelError, r"although it runs in bfloat16|shape is not the cause"),
        (
            (Of(lambda _, x: x * (1 / 0)), 4),
            sx.errors.ModelError,
            r"ZeroDivisionError: division by zero\.\nThe shape is not the cause",
        ),
        ((nn.BatchNorm1d(4, eps=-0.5), 4), sx.errors.ShapeError, r"eps must be non-negative.*\n.*if it is right, fix the error"),
        ((nn.Linear(4, 4), "4"), sx.errors.InputError, "input_shape is '4'"),
        ((nn.Linear(4, 4), (0,)), sx.errors.InputError, "input_shape is"),
        ((torch.relu, 4), sx.errors.UnsupportedModuleError, "a plain nn.Module"),
        ((nn.LazyLinear(4), 4), sx.errors.ModelError, "without a shape"),
    ],
)
def test_bad_input_is_answered_in_one_line(arguments, kind, told):
    with pytest.raises(kind, match=told):
        sx.certificate(*arguments)


def test_inputs_of_another_shape_are_refused():
    with pytest.raises(sx.errors.ShapeError, match="inputs have shape"):
        sx.certificate(nn.Linear(4, 4), 4, inputs=torch.zeros(3, 5))


def test_the_same_seed_gives_the_same_numbers_and_the_global_generator_is_left_alone():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
    state = torch.get_rng_state()
    one, other = sx.certificate(model, 4, seed=3), sx.certificate(model, 4, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert (one.bound, one.lower) == (other.bound, other.lower)
    assert 1 <= one.ratio == one.bound / one.lower


CONSTANTS = {
    "shifted into zeros": (
        lambda _, x: torch.zeros_like(x).index_copy(1, torch.tensor([0]), torch.ones(1, 1).double()) + 3 * x,
        3.0,
    ),
    "ones, added to": (lambda _, x: (torch.ones_like(x) + 1) * x, 2.0),
    "ones, summed": (lambda _, x: torch.ones_like(x).sum(1, keepdim=True) * x, 4.0),
    "a matrix of ones": (lambda m, x: torch.ones_like(x) @ m.weight + x, 1.0),
    "nothing of the input": (lambda m, x: torch.zeros_like(x) + 1, 0.0),
    "only what is held": (lambda m, x: m.weight[:1], 0.0),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_what_is_made_in_the_shape_of_the_input_is_a_constant(name):
    function, exact = CONSTANTS[name]
    found = sx.certificate(Of(function, weight=torch.eye(4, dtype=torch.float64)), 4, starts=3, steps=3)
    assert found.bound == pytest.approx(exact, abs=1e-12) and found.lower == pytest.approx(exact, rel=1e-6, abs=1e-12)


def test_a_layer_on_tokens_is_bounded_where_what_follows_scales_the_tokens():
    """‖diag(c) ⊗ W‖ ≤ max |c| ‖W‖, each operator by itself; here the product is attained."""
    scale = torch.tensor([[2.0], [-5.0], [1.0]], dtype=torch.float64)
    found = sx.certificate(Of(lambda m, x: F.linear(x, m.weight) * m.scale, weight=W.weight.detach(), scale=scale), (3, 4))
    assert found.bound == pytest.approx(5 * norm(W.weight), rel=1e-9)


class Louder(nn.Softsign):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x)


class LouderStep(sx.nn.NonExpansive):
    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return 3 * super().step(x)


def of_its_own() -> nn.Module:
    model = nn.Softsign()
    model.forward = lambda x: 3 * torch.tanh(x)
    return nn.Sequential(model)


def hooked_inside() -> nn.Module:
    model = sx.nn.LipschitzNet(4, 4, kind="non_expansive")
    next(part for part in model.modules() if isinstance(part, sx.nn.NonExpansive)).register_forward_hook(lambda m, a, y: 3 * y)
    return model


@pytest.mark.parametrize("build", [Louder, lambda: LouderStep(4), of_its_own, hooked_inside])
def test_a_promise_does_not_stand_for_what_was_put_over_it(build):
    """A subclass's forward pass, an object's own, a hook: none of them made the promise, and the operators are looked at."""
    found = sx.certificate(build().eval(), 4, starts=3, steps=3)
    assert found.methods != (OWN,) and found.bound >= 3 * (1 - 1e-9)


def by_kind(m: nn.Module, x: Tensor) -> Tensor:
    x = 10 * x if isinstance(x, Tensor) else x
    return x if m.gain.item() > 0 else -x


def by_chance(m: nn.Module, x: Tensor) -> Tensor:
    m.__dict__["calls"] = m.__dict__.get("calls", 1.0) * 1.5
    return m.__dict__["calls"] * x


@pytest.mark.parametrize("function", [by_kind, by_chance])
def test_operators_that_are_not_those_of_the_network_prove_nothing(function):
    found = sx.certificate(Of(function, gain=torch.ones(())), 4, starts=3, steps=3)
    assert found.bound == math.inf and "different numbers" in found.reasons[0]


NOT_FINITE = {
    "slope": (nn.PReLU(), 4),
    "norm": (nn.LayerNorm(4), 4),
    "linear": (nn.Linear(4, 4), 4),
    "product": (Of(lambda m, x: x @ m.weight, weight=torch.zeros(4, 4)), (2, 4)),
    "einsum": (Of(lambda m, x: torch.einsum("bi,ij->bj", x, m.weight), weight=torch.zeros(4, 4)), 4),
}


@pytest.mark.parametrize("name", NOT_FINITE)
def test_weights_that_are_not_finite_give_no_bound_and_say_so(name):
    model, shape = NOT_FINITE[name]
    with torch.no_grad():
        next(tensor for tensor in (*model.parameters(), *model.buffers())).fill_(math.nan)
    found = sx.certificate(model, shape, starts=3, steps=3)
    assert found.bound == math.inf and found.reasons == ("its weights are not finite",)


def test_softplus_is_meant_without_the_jump_of_pytorch_s_which_is_told():
    (layer,) = sx.certificate(nn.Softplus(), 4, starts=3, steps=3).layers
    assert layer.factor == 1 and "jumps by 2e-09 at 20" in layer.method


def test_a_compiled_network_has_the_bound_of_what_was_compiled():
    model, in_place = linear(4, 4).float(), linear(4, 4).float()
    in_place.compile(backend="eager")
    for one in (torch.compile(model, backend="eager"), nn.Sequential(torch.compile(model, backend="eager")), in_place):
        found = sx.certificate(one, 4, starts=3, steps=3)
        assert found.bound == pytest.approx(norm(model.weight), rel=1e-9) and found.lower == pytest.approx(found.bound, rel=1e-6)


DRAWS = {
    "dropout": lambda _, x: F.dropout(x, 0.5, training=True),
    "alpha dropout": lambda _, x: F.alpha_dropout(x, 0.3, training=True),
    "noise of numpy": lambda _, x: x + float(np.random.default_rng().normal()),
    "a little noise": lambda _, x: x + 1e-6 * torch.randn_like(x),
    "what it was given": by_chance,
}


@pytest.mark.parametrize("name", DRAWS)
def test_nothing_is_measured_of_what_is_no_function_of_its_input(name):
    """A quotient of two draws at a small distance is no slope: it was 1e5 where no draw has one above 2."""
    found = sx.certificate(nn.Sequential(Of(DRAWS[name])), 4, starts=3, steps=3)
    assert found.bound == math.inf and found.lower == 0 and len(found.unknown) == 1
    assert "no bound, and nothing measured" in found.summary()


def test_a_way_by_the_numbers_is_said_once_and_no_graph_of_it_is_printed(capfd):
    found = sx.certificate(ROUTER, 4, starts=3, steps=3)
    assert "depends on the numbers" in found.reasons[0]
    assert capfd.readouterr() == ("", "")
