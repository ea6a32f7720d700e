"""Damped residual blocks: both published rules, their limits, and networks that are damped block by block."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import separatrix as sx

RULES = ("in", "lambda-in")
SHAPES = {"vectors": (5, 3), "images": (2, 3, 4, 4)}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def branch(shape: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    if len(shape) == 2:
        return nn.Sequential(nn.Tanh(), nn.Linear(3, 3)).double()
    return nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)).double()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("learned", [False, True])
def test_both_rules_are_their_formulas(shape, learned):
    b, x, lam = branch(shape), normal(*shape), 0.375
    for rule, weight in (("in", 1.0), ("lambda-in", 1 + lam)):
        block = sx.nn.Damped(b, rule=rule, **({"start": (lam, lam)} if learned else {"damping": lam}))
        torch.testing.assert_close(block(x), weight * b(x) + (1 - lam) * x, rtol=1e-14, atol=1e-14)
        assert block.damping.item() == lam
        assert len(list(block.parameters())) == len(list(b.parameters())) + learned


@pytest.mark.parametrize("rule", RULES)
def test_between_a_residual_block_and_a_plain_one(rule):
    b, x = branch((5, 3)), normal(5, 3)
    assert torch.equal(sx.nn.Damped(b, rule=rule, damping=0.0)(x), b(x) + x)
    assert torch.equal(sx.nn.Damped(b, rule=rule, damping=1.0)(x), {"in": 1, "lambda-in": 2}[rule] * b(x))


@pytest.mark.parametrize(("rule", "forced"), [("in", lambda lam: 1.0), ("lambda-in", lambda lam: 1 + lam)])
def test_a_block_is_a_unit_euler_step_of_its_equation(rule, forced):
    """ẋ = −λx + f(x), or with (1 + λ) f(x)."""
    b, x, lam = branch((5, 3)), normal(5, 3), 0.3
    flow = sx.Flow(lambda y: -lam * y + forced(lam) * b(y), 3, 1.0, method="euler")
    torch.testing.assert_close(sx.nn.Damped(b, rule=rule, damping=lam)(x), flow.step(x), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("rule", "sign"), [("in", -1), ("lambda-in", 1)])
def test_what_is_learned_is_the_published_parameter(rule, sign):
    """λ = ReLU(1 − k), k in [0.75, 0.80]; or λ = ReLU(λ'), λ' in [0.20, 0.25]; uniform, one number a block."""
    torch.manual_seed(0)
    blocks = [sx.nn.Damped(nn.Identity(), rule=rule) for _ in range(400)]
    raw = torch.stack([block.raw for block in blocks]).detach()
    low, high = {"in": (0.75, 0.80), "lambda-in": (0.20, 0.25)}[rule]
    assert low <= raw.min() < raw.max() <= high
    assert raw.mean() == pytest.approx((low + high) / 2, abs=4 * 0.05 / math.sqrt(12 * 400))
    for block in blocks[:3]:
        slope = torch.autograd.grad(block.damping, block.raw)[0]
        assert slope == sign
        nn.init.constant_(block.raw, {"in": 1.2, "lambda-in": -0.2}[rule])
        assert block.damping == 0 and torch.autograd.grad(block.damping, block.raw)[0] == 0


@pytest.mark.parametrize("rule", RULES)
def test_gradients_are_finite_differences(rule):
    block, x = sx.nn.Damped(branch((5, 3)), rule=rule).double(), normal(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: block(x), (x, *block.parameters()), eps=1e-6, atol=1e-8)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("lam", [0.0, 0.25, 1.0, 1.5])
def test_its_factor_bounds_dense_jacobians_and_is_attained_by_the_identity(rule, lam):
    own = 1 + lam if rule == "lambda-in" else 1
    block = sx.nn.Damped(sx.nn.NonExpansive(4).double(), rule=rule, damping=lam)
    assert block.guarantee.lipschitz == pytest.approx(abs(1 - lam) + own * block.block.guarantee.lipschitz, rel=1e-12)
    norms = [torch.linalg.matrix_norm(torch.autograd.functional.jacobian(block, one), 2) for one in 3 * normal(20, 4)]
    assert max(norms) <= block.guarantee.lipschitz * (1 + 1e-12)
    assert sx.nn.Damped(nn.Identity(), rule=rule, damping=lam).guarantee.lipschitz == pytest.approx(abs(1 - lam) + own)
    assert sx.nn.Damped(nn.Linear(4, 4)).guarantee == sx.nn.Guarantee()


def test_damping_contracts_more_under_the_first_rule():
    """b a contraction by 1/2: 1 + 1/2 without damping, 1/2 + 1/2 at λ = 1/2, 1/2 at λ = 1."""
    half = sx.nn.Residual(nn.Identity(), scale=0.5, skip=0.0)
    factors = [sx.nn.Damped(half, damping=lam).guarantee.lipschitz for lam in (0.0, 0.5, 1.0)]
    assert factors == [1.5, 1.0, 0.5]


class Preactivated(nn.Module):
    """Somebody's residual block, with its way around within."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, out)
        self.shortcut = nn.Identity() if dim == out else nn.Linear(dim, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.linear(torch.relu(x))


@pytest.mark.parametrize("rule", RULES)
def test_a_network_of_ones_own_is_damped_block_by_block(rule):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.Sequential(Preactivated(3, 3), Preactivated(3, 3)), Preactivated(3, 5)).double()
    x, before = normal(4, 2), copy.deepcopy(network.state_dict())
    damped = sx.nn.damped(network, lambda _, r: isinstance(r, Preactivated) and isinstance(r.shortcut, nn.Identity), rule=rule)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    blocks = [module for module in damped.modules() if isinstance(module, sx.nn.Damped)]
    assert len(blocks) == 2 and isinstance(damped[2], Preactivated)
    y = damped[0](x)
    for r, block in zip(network[1], blocks, strict=True):
        lam = block.damping
        y = {"in": 1, "lambda-in": 1 + lam}[rule] * r.linear(torch.relu(y)) + (1 - lam) * y
    torch.testing.assert_close(damped(x), damped[2](y), rtol=1e-12, atol=1e-12)
    off = sx.nn.damped(network[1], Preactivated, rule=rule, damping=0.0)
    torch.testing.assert_close(off(y), network[1](y), rtol=1e-13, atol=1e-13)


def test_the_librarys_own_residual_wiring_is_opened():
    network = nn.Sequential(sx.nn.Residual(sx.nn.NonExpansive(3)), sx.nn.Residual(nn.Identity(), scale=0.5))
    damped = sx.nn.damped(network, damping=0.5)
    assert isinstance(damped[0].block, sx.nn.NonExpansive)
    assert damped[0].guarantee.lipschitz == pytest.approx(1.5)
    assert damped[1].guarantee.lipschitz == pytest.approx(0.5 + 2.5)  # of r(x) − x no more is known than Lip r + 1
    assert damped[1](torch.ones(1, 3)).tolist() == [[1.0, 1.0, 1.0]]  # 0.5 + 0.5
    assert sx.nn.damped(nn.Sequential(network)).get_submodule("0.0").rule == "in"


def test_blocks_within_blocks_are_damped_once():
    inner = sx.nn.Residual(nn.Identity())
    damped = sx.nn.damped(nn.Sequential(sx.nn.Residual(nn.Sequential(inner))), damping=0.5)
    assert len([m for m in damped.modules() if isinstance(m, sx.nn.Damped)]) == 1


def test_a_block_that_is_called_in_several_places_is_damped_in_all_with_one_damping():
    torch.manual_seed(0)
    looped = Preactivated(3, 3).double()
    damped, x = sx.nn.damped(nn.Sequential(looped, looped), Preactivated, damping=0.25), normal(4, 3)
    assert damped[0] is damped[1]
    y = x
    for _ in range(2):
        y = looped.linear(torch.relu(y)) + 0.75 * y
    torch.testing.assert_close(damped(x), y, rtol=1e-13, atol=1e-13)


class Adding(nn.Module):
    """A residual block that writes its sum over its input."""

    def forward(self, x: Tensor) -> Tensor:
        x += torch.tanh(x)
        return x


@pytest.mark.parametrize(
    "build",
    [
        lambda: sx.nn.Damped(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 3))),
        lambda: sx.nn.damped(nn.Sequential(Adding()), Adding),
        lambda: sx.nn.Momentum([nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 3))], recompute=False),
    ],
)
def test_a_block_that_writes_to_its_input_is_refused_rather_than_added_to_something_else(build):
    with pytest.raises(sx.errors.UnsupportedModuleError, match=r"writes to its input.*\n.*inplace=True"), torch.no_grad():
        build()(torch.randn(2, 3))


@pytest.mark.parametrize("rule", RULES)
def test_it_is_a_plain_module(rule):
    torch.manual_seed(0)
    block, other = (sx.nn.Damped(nn.Linear(3, 3), rule=rule) for _ in range(2))
    other.load_state_dict(block.state_dict())
    x = torch.randn(4, 3)
    assert torch.equal(other(x), block(x))
    torch.testing.assert_close(torch.compile(other, backend="aot_eager", fullgraph=True)(x), block(x))
    torch.testing.assert_close(torch.export.export(block, (x,)).module()(x), block(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert block(x).dtype == torch.float32
    assert block.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    assert block.to("meta")(x.to("meta")).shape == (4, 3)
    assert f"rule={rule!r}" in repr(block)
    sx.testing.check_system(sx.Layers([sx.nn.Damped(nn.Linear(3, 3), rule=rule).double() for _ in range(3)], shape=3))


@pytest.mark.parametrize(
    ("build", "error", "said"),
    [
        (lambda: sx.nn.Damped(nn.Identity(), rule="out"), sx.errors.InputError, r"rule is 'out'.*'in' or 'lambda-in'"),
        (lambda: sx.nn.Damped(nn.Identity(), damping=-0.1), sx.errors.InputError, "damping is -0.1"),
        (lambda: sx.nn.Damped(nn.Identity(), damping=math.nan), sx.errors.InputError, "damping is nan"),
        (lambda: sx.nn.Damped(nn.Identity(), start=(0.3, 0.2)), sx.errors.InputError, r"start is \(0.3, 0.2\)"),
        (lambda: sx.nn.Damped(nn.Identity(), start=(0.0, 0.2)), sx.errors.InputError, r"start is \(0.0, 0.2\)"),
        (lambda: sx.nn.Damped(nn.Identity(), start=0.2), sx.errors.InputError, r"start is 0.2"),
        (lambda: sx.nn.Damped(torch.tanh), sx.errors.InputError, "expected an nn.Module"),
        (lambda: sx.nn.Damped(nn.GRU(3, 3))(torch.zeros(2, 3)), sx.errors.ShapeError, r"to a tuple"),
        (lambda: sx.nn.Damped(nn.Linear(3, 1))(torch.zeros(2, 3)), sx.errors.ShapeError, r"\(2, 3\) to \(2, 1\)"),
        (lambda: sx.nn.damped(nn.Linear(3, 3)), sx.errors.InputError, "Linear has no block to damp"),
        (
            lambda: sx.nn.damped(nn.Sequential(Preactivated(3, 5)), Preactivated)(torch.zeros(2, 3)),
            sx.errors.ShapeError,
            "keeps the shape",
        ),
    ],
)
def test_bad_input_is_refused_in_a_line_or_two(build, error, said):
    with pytest.raises(error, match=said) as caught:
        build()
    assert len(str(caught.value).splitlines()) <= 2
