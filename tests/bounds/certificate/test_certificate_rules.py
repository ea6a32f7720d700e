"""Rules of the certificate: which argument depends on the input, against dense Jacobians; what is read off it; public layers."""

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import separatrix as sx
from of_function import Of

ROUNDING = 1e-9  # by which a decomposition of these small matrices may differ


@functools.cache
def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dense_norm(function, shape: tuple[int, ...]) -> float:
    """The largest singular value of whole Jacobians at points of many sizes; complex numbers as pairs."""

    def flat(z: Tensor) -> Tensor:
        y = function(z.reshape(1, *shape))
        return (torch.view_as_real(y) if y.is_complex() else y).flatten()

    random_points = [size * random(math.prod(shape), seed=n) for size in (0.01, 1.0, 30.0) for n in range(2)]
    norms = [torch.linalg.matrix_norm(torch.autograd.functional.jacobian(flat, point), 2) for point in random_points]
    return float(torch.stack(norms).max())


PLACES, EDGES = torch.tensor([0, 2, 2, 1]), torch.tensor([2, 0, 2])
TURN = torch.polar(torch.ones(3, dtype=torch.float64), random(3))
KERNEL, IMAGE, GRID = random(4, 2, 3), random(1, 2, 8), random(1, 4, 4, 2).tanh()

EXACT = {
    "bicubic": (lambda x: F.interpolate(x, scale_factor=1.7, mode="bicubic"), (2, 5, 4)),
    "bicubic to a size": (lambda x: F.interpolate(x, size=(3, 7), mode="bicubic", align_corners=True), (1, 5, 4)),
    "antialiased": (lambda x: F.interpolate(x, size=(3, 2), mode="bilinear", antialias=True), (1, 5, 4)),
    "antialiased bicubic": (lambda x: F.interpolate(x, scale_factor=0.5, mode="bicubic", antialias=True), (1, 6, 6)),
    "grid": (lambda x: F.grid_sample(x, GRID, align_corners=False), (2, 5, 5)),
    "bicubic grid": (lambda x: F.grid_sample(x, GRID, mode="bicubic", align_corners=True), (1, 5, 5)),
    "index_add": (lambda x: x.new_zeros(1, 3, 4).index_add(1, PLACES, x, alpha=-2), (4, 4)),
    "index_copy": (lambda x: x.new_zeros(1, 4).index_copy(1, EDGES[:2], x[:, :2]), (4,)),
    "scatter_add": (lambda x: x.new_zeros(1, 3).scatter_add(1, PLACES[None], x), (4,)),
    "scatter mean": (lambda x: x.new_zeros(1, 3).scatter_reduce(1, PLACES[None], x, "mean", include_self=False), (4,)),
    "index_put": (
        lambda x: x.new_zeros(1, 3).index_put((torch.zeros(2).long(), torch.ones(2).long()), x[0, :2], accumulate=True),
        (4,),
    ),
    "message passing": (lambda x: torch.zeros_like(x).index_add(1, EDGES, x[:, EDGES.flip(0)]), (3, 2)),
    "outer": (lambda x: torch.outer(random(3), x[0]), (4,)),
    "tensordot": (lambda x: torch.tensordot(x, random(4, 3), dims=1), (4,)),
    "kron": (lambda x: torch.kron(random(2, 3), x), (4,)),
    "second differences": (lambda x: x.diff(2, dim=1), (6, 2)),
    "addmv": (lambda x: torch.addmv(random(3), random(3, 4), x[0], alpha=-2), (4,)),
    "addmv, what is added": (lambda x: torch.addmv(x[0], random(3, 4), random(4), beta=3), (3,)),
    "baddbmm": (lambda x: torch.baddbmm(random(1, 3, 3), random(1, 3, 4), x, alpha=2), (4, 3)),
    "lerp": (lambda x: torch.lerp(x, random(1, 4), 0.3), (4,)),
    "lerp to it": (lambda x: torch.lerp(random(1, 4), x, random(1, 4, seed=1)), (4,)),
    "lerp by it": (lambda x: torch.lerp(random(1, 4), random(1, 4, seed=1), x), (4,)),
    "rfft": (torch.fft.rfft, (6,)),
    "orthonormal fft": (lambda x: torch.fft.fft2(x, norm="ortho").abs(), (4, 3)),
    "irfft": (lambda x: torch.fft.irfft(torch.view_as_complex(x)), (4, 2)),
    "hfft": (lambda x: torch.fft.hfft(torch.view_as_complex(x), norm="forward"), (4, 2)),
    "rotary": (lambda x: torch.view_as_real(torch.view_as_complex(x.reshape(1, 3, 2)) * TURN).flatten(1), (6,)),
    "kernel": (lambda x: F.conv1d(IMAGE, x[0]), (3, 2, 3)),
    "bias of a convolution": (lambda x: F.conv1d(IMAGE, KERNEL, x[0]), (4,)),
    "bias of rows": (lambda x: F.linear(random(7, 4), random(3, 4), x[0]), (3,)),
    "weight": (lambda x: F.linear(random(7, 4), x[0]), (3, 4)),
    "values": (lambda x: F.scaled_dot_product_attention(random(1, 3, 5), random(1, 4, 5), x), (4, 2)),
    "std": (lambda x: x.std(1), (4,)),
    "biased std": (lambda x: x.std(1, correction=0), (4, 2)),
    "median": (lambda x: x.median(1).values, (5,)),
    "kthvalue": (lambda x: x.kthvalue(2, dim=1).values, (5,)),
    "topk": (lambda x: x.topk(2, dim=1).values, (5,)),
    "layer norm's bias": (lambda x: F.layer_norm(random(1, 4), (4,), bias=x[0]), (4,)),
    "layer norm's weight": (lambda x: F.layer_norm(random(1, 4), (4,), weight=x[0]), (4,)),
    "batch norm's weight": (
        lambda x: F.batch_norm(random(2, 4), torch.zeros(4).double(), torch.ones(4).double(), weight=x[0]),
        (4,),
    ),
    "instance norm's bias": (lambda x: F.instance_norm(random(1, 4, 3), bias=x[0]), (4,)),
    "slopes of a PReLU": (lambda x: F.prelu(random(3, 4), x[0]), (4,)),
    "table": (lambda x: F.embedding(PLACES, x[0]), (4, 3)),
    "limit": (lambda x: torch.clamp(torch.zeros(1, 4).double(), min=x), (4,)),
    "bilinear": (lambda x: F.bilinear(x, random(1, 4), random(2, 4, 4)), (4,)),
    "cross": (lambda x: torch.linalg.cross(x, random(1, 3)), (3,)),
    "solve": (lambda x: torch.linalg.solve(random(3, 3), x[0]), (3,)),
    "addcmul": (lambda x: torch.addcmul(random(1, 4), random(1, 4, seed=1), x, value=-3), (4,)),
    "pairs by chunk": (lambda x: torch.cat([torch.max(*x.chunk(2, 1)), torch.min(*x.chunk(2, 1))], 1), (4,)),
    "pairs by amax": (lambda x: torch.stack([x.unflatten(1, (2, 2)).amax(2), x.unflatten(1, (2, 2)).amin(2)], 2), (4,)),
    "hypot": (lambda x: torch.hypot(*x.chunk(2, 1)), (4,)),
    "cut and put together": (lambda x: torch.cat([x[:, 1::2], x[:, ::2], x[:, :1]], 1), (4,)),
    "one quantile twice": (lambda x: x.quantile(torch.tensor([0.5, 0.5]).double(), dim=1), (5,)),
    "a complex number": (lambda x: (torch.complex(x, x) * (2 + 1j)).abs(), (4,)),
    "conjugates": (lambda x: torch.view_as_real(torch.view_as_complex(x).conj().resolve_conj()), (4, 2)),
    "sum of halves": (lambda x: x[:, :2] - x[:, 2:], (4,)),
    "repeats that differ": (lambda x: x.repeat_interleave(torch.tensor([1, 0, 4, 2]), 1), (4,)),
    "repeats that differ, and what follows": (lambda x: 2 * x.repeat_interleave(torch.tensor([1, 0, 4, 2]), 1).flatten(), (4, 2)),
    "places that are found in constants": (lambda x: x[:, random(4).sign().nonzero()[1:, 0]], (4,)),
    "sparse matrix": (lambda x: torch.sparse.mm(random(5, 4).to_sparse(), x[0]), (4, 3)),
    "sparse matrix, rows": (lambda x: random(5, 4).to_sparse_csr() @ x[0], (4, 3)),
    "sparse matrix, columns": (lambda x: random(5, 4).to_sparse_csc() @ x[0], (4,)),
    "the greater half": (lambda x: torch.where(x > 0, x, 0.2 * x), (4,)),
    "filled with zeros": (lambda x: x.masked_fill(x <= 0, 0.0), (4,)),
    "kept where positive": (lambda x: 3 * ((x > 0) * x), (4,)),
    "zeros where negative": (lambda x: torch.where(x < 0, torch.zeros_like(x), x), (4,)),
    "brought to one shape": (
        lambda x: torch.cat(torch.broadcast_tensors(x, torch.zeros(3, 1, 1).double())) * 2,
        (2, 4),
    ),
    "distance by numbers": (lambda x: F.l1_loss(x, random(1, 4), reduction="sum"), (4,)),
    "smooth distance": (lambda x: F.smooth_l1_loss(x, random(1, 4)), (4,)),
    "Huber's distance": (lambda x: F.huber_loss(random(3, 4), x, reduction="sum", delta=2.5), (4,)),
    "smallest": (lambda x: torch.aminmax(x, dim=1).max, (4,)),
    "grid of both": (lambda x: torch.meshgrid(x[0], x[0], indexing="xy")[1], (4,)),
    "trapezoids": (lambda x: torch.trapezoid(x, dx=0.5, dim=1), (4,)),
    "trapezoids on places": (lambda x: torch.cumulative_trapezoid(x, random(1, 4), dim=1), (4,)),
    "central differences": (lambda x: torch.gradient(x, dim=1)[0], (4,)),
    "triangular": (lambda x: torch.linalg.solve_triangular(random(4, 4).tril() + 3 * torch.eye(4), x.mT, upper=False), (4,)),
    "pool with places": (lambda x: F.max_pool1d(x, 3, 1, return_indices=True)[0], (1, 3)),
    "one number alone": (lambda x: F.layer_norm(x, (1,)), (3, 1)),
    "one number in a group": (lambda x: F.group_norm(x[0], 4), (2, 4)),
}


@pytest.mark.long
@pytest.mark.parametrize("name", EXACT)
def test_a_linear_operator_or_one_of_known_slope_is_bounded_by_its_dense_norm(name):
    function, shape = EXACT[name]
    exact = dense_norm(function, shape)
    found = sx.certificate(Of(function), shape, starts=3, steps=3)
    assert exact * (1 - ROUNDING) <= found.bound <= exact * (1 + ROUNDING), found.summary()
    assert found.lower <= found.bound * (1 + ROUNDING)


LAYER = random(4, 4)
SLOPES = {
    "the greater half of a layer": (
        lambda x: torch.where(x @ LAYER <= 0, x @ LAYER * -3, x @ LAYER),
        (4,),
        3 * float(torch.linalg.matrix_norm(LAYER, 2)),
    ),
    "a leaky ReLU of two halves": (lambda x: x.masked_fill(x < 0, 0) + torch.where(x > 0, 0.0, -0.2 * x), (4,), 1.2),
    "logaddexp": (lambda x: torch.logaddexp(*x.chunk(2, 1)), (4,), 1.0),
    "root of one and a square": (lambda x: torch.sqrt(1 + x**2), (3,), 1.0),
    "root, written otherwise": (lambda x: ((x * x + 1e-6) ** 0.5 - 1) * 3, (3,), 3.0),
    "root mean square": (lambda x: (x.square().mean(1, keepdim=True) + 1e-6).sqrt(), (4,), 0.5),
    "distances": (lambda x: torch.cdist(x, random(5, 3)), (3,), math.sqrt(5)),
    "running maximum": (lambda x: x.cummax(1).values, (4,), 2.0),
}


@pytest.mark.parametrize("name", SLOPES)
def test_a_slope_that_is_only_approached_is_the_bound(name):
    function, shape, exact = SLOPES[name]
    found = sx.certificate(Of(function), shape, starts=3, steps=10)
    assert dense_norm(function, shape) * (1 - ROUNDING) <= found.bound == pytest.approx(exact, rel=ROUNDING)


def test_the_two_sides_of_a_modulated_network_add_up():
    """F.linear(h(x), W, bias=g(x)): ‖W‖ Lip h + Lip g; and a bias of seven rows counts √7 times."""
    w = random(4, 4)
    found = sx.certificate(Of(lambda x: F.linear(x, w, bias=2 * x[0])), 4)
    assert found.bound == pytest.approx(float(torch.linalg.matrix_norm(w, 2)) + 2, rel=1e-9)
    assert dense_norm(lambda x: F.linear(x, w, bias=2 * x[0]), (4,)) <= found.bound


@pytest.mark.parametrize(
    ("function", "exact"),
    [
        (lambda x: F.group_norm(random(1, 4, 3), 2, bias=x[0]), math.sqrt(3)),
        (lambda x: F.embedding(PLACES, x.reshape(4, 1), padding_idx=2), math.sqrt(2)),
    ],
    ids=["a bias, of which PyTorch has no gradient here", "a row that has none"],
)
def test_what_autograd_does_not_see_is_counted(function, exact):
    """One number at a time, moved by 1."""
    zero, eye = torch.zeros(1, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    moved = max(float((function(row[None]) - function(zero)).norm()) for row in eye)
    assert sx.certificate(Of(function), 4, starts=3, steps=3).bound == pytest.approx(exact, rel=1e-9)
    assert moved == pytest.approx(exact, rel=1e-12)


REFUSED = {
    "matmul of both": (lambda x: x.mT @ x, (4,), "multiplies"),
    "linear of both": (lambda x: F.linear(x, x.mT @ torch.ones_like(x)), (4,), "multiplies"),
    "layer norm of both": (lambda x: F.layer_norm(x, (4,), weight=x[0]), (4,), "multiplies"),
    "prelu of both": (lambda x: F.prelu(x, x[0]), (4,), "multiplies"),
    "einsum of both": (lambda x: torch.einsum("bi,bi->b", x, x), (4,), "multiplies"),
    "conv of both": (lambda x: F.conv1d(x, x[:, :, :3]), (1, 8), "multiplies"),
    "queries": (lambda x: F.scaled_dot_product_attention(x, random(1, 4, 5), random(1, 4, 5)), (4, 5), "attention"),
    "exponent": (lambda x: torch.pow(torch.tensor(2.0).double(), x), (4,), "powers"),
    "divisor": (lambda x: 1 / (2 + x.sigmoid()), (4,), "divides"),
    "variance": (lambda x: F.batch_norm(random(1, 4), random(4), x[0].sigmoid() + 1), (4,), "running var"),
    "grid": (lambda x: F.grid_sample(random(1, 1, 4, 4), x, align_corners=False), (3, 3, 2), "grid"),
    "where": (lambda x: torch.where(x > 1, x, 3 * x), (4,), "switches"),
    "where another is positive": (lambda x: torch.where(x.flip(1) > 0, x, 3 * x), (4,), "switches"),
    "where it is positive, of another": (lambda x: torch.where(x > 0, x.flip(1), 0.0), (4,), "switches"),
    "where it is positive, by one number": (lambda x: torch.where(x[:, :1] > 0, x, 3 * x), (4,), "switches"),
    "branches that do not meet": (lambda x: torch.where(x > 0, x, 3 * x - 1), (4,), "switches"),
    "a step": (lambda x: torch.where(x > 0, torch.ones_like(x), torch.zeros_like(x)), (4,), "switches"),
    "a mask of one sign": (lambda x: (x > 0).double(), (4,), "bool"),
    "filled with ones": (lambda x: x.masked_fill(x < 0, 1.0), (4,), "mask"),
    "a mask of another": (lambda x: x * (x.flip(1) > 0), (4,), "multiplies"),
    "cos of complex numbers": (lambda x: torch.fft.fft(x).tanh().abs(), (4,), "complex"),
    "bits": (lambda x: (x.view(torch.int64) & -2).view(x.dtype), (4,), "int64"),
    "bits of other numbers": (lambda x: x.view(torch.float32), (4,), "bits of float64 as float32"),
    "noise of its shape": (lambda x: x + torch.randn_like(x), (4,), "draws random numbers"),
    "Gumbel's noise": (lambda x: F.gumbel_softmax(x), (4,), "draws random numbers"),
    "noise about it": (lambda x: torch.normal(x, 1.0), (4,), "draws random numbers"),
    "an order drawn": (lambda x: x[:, torch.randperm(4)], (4,), "draws random numbers"),
    "negative ε": (lambda x: F.layer_norm(x, (4,), eps=-1.0), (4,), "negative"),
    "negative ε of a mean square": (lambda x: F.rms_norm(x, (4,), eps=-1.0), (4,), "negative"),
    "what leaves PyTorch": (lambda x: torch.from_numpy(np.tanh(x.detach().numpy())), (4,), "reads numpy()"),
    "a product scattered": (
        lambda x: x.scatter(1, torch.zeros(len(x), 2, dtype=torch.int64), x[:, 1:3], reduce="multiply"),
        (4,),
        "reduce='multiply'",
    ),
    "fourth root": (lambda x: (1 + x**4).sqrt(), (4,), "powers"),
    "root less than a square": (lambda x: (x**2 - 1).abs().sqrt(), (4,), ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_argument_that_no_rule_is_proven_for_gives_no_bound_and_one_line(name):
    function, shape, reason = REFUSED[name]
    found = sx.certificate(Of(function), shape, starts=3, steps=3)
    assert found.bound == math.inf and reason in found.reasons[0] and "\n" not in found.summary()
    assert "aten" not in found.reasons[0] and "fake" not in found.reasons[0].lower()  # fake tensors are PyTorch's own affair


def test_the_epsilon_that_pytorch_puts_into_a_mean_square_is_float64s():
    """x/√(mean x² + ε) has the slope 1/√ε at 0, ε = 2⁻⁵²."""
    found = sx.certificate(nn.RMSNorm(4), 4, starts=3, steps=3)
    small = torch.full((1, 4), 1e-12, dtype=torch.float64)
    assert found.bound == pytest.approx(2.0**26, rel=1e-9) == pytest.approx(float(F.rms_norm(small, (4,))[0, 0] / 1e-12), rel=1e-6)
    assert found.bound >= dense_norm(nn.RMSNorm(4).double(), (4,)) and "steep at 0" in found.methods[0]


@pytest.mark.parametrize("rule", ["relu", "matmul"])
def test_what_fails_within_a_rule_is_no_bound_and_names_the_operator(monkeypatch, rule):
    from separatrix.bounds.certificate import factor, rules

    def fails(call):
        raise RuntimeError("Could not run 'aten::ne.Scalar' on FakeTensor")

    monkeypatch.setitem(rules.RULES, rule, factor.Rule(fails))
    found = sx.certificate(Of(lambda x: torch.relu(x @ random(4, 4))[:, PLACES]), 4, starts=3, steps=3)
    assert found.bound == math.inf and found.lower > 0
    assert found.reasons == (f"no bound is known for {rule} in this form",)


MEASURED = {
    "written over another": (lambda x: torch.mul(x, 50, out=torch.empty(x.shape, dtype=x.dtype)), 50.0, 50.0),
    "a condition": (lambda x: torch.cond(x.sum() > 0, lambda x: 50 * x, lambda x: 20 * x, (x,)), math.inf, 50.0),
}


@pytest.mark.parametrize("name", MEASURED)
def test_what_has_no_gradients_is_measured_by_pairs(name):
    function, bound, slope = MEASURED[name]
    found = sx.certificate(Of(function), 4, starts=3, steps=3)
    assert found.bound == pytest.approx(bound, rel=1e-9) and slope * (1 - 1e-6) <= found.lower
    function(random(1, 4))  # runs as it did before


@pytest.mark.parametrize("seed", range(5))
def test_a_convolution_and_a_linear_layer_on_its_last_axis_are_bounded_by_the_norm_of_their_product(seed):
    network = nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.Linear(6, 6)).double()
    for n, weight in enumerate(network.parameters()):
        weight.data.copy_(random(*weight.shape, seed=10 * seed + n) / 3)
    exact = dense_norm(network, (2, 6))
    assert exact * (1 - ROUNDING) <= sx.certificate(network, (2, 6), starts=3, steps=3).bound <= exact * 1.01


# paths that export does not see


class Reader(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return 100 * x if float(x.max()) > 100 else x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


def tried(x: Tensor) -> Tensor:
    try:
        is_large = bool(x.max() > 100)
    except Exception:
        is_large = False
    return 100 * x if is_large else x


def copied(x: Tensor) -> Tensor:
    kept = torch.zeros(1, 4, dtype=torch.float64)
    kept[:, 1:3].copy_(x[:, :2])
    return 100 * x if not torch.compiler.is_compiling() and kept.max() > 100 else x


def hidden(read):
    return lambda x: 100 * x if not torch.compiler.is_compiling() and read(x) else x


READS = {
    "is_compiling": (hidden(lambda x: float(x.abs().max()) > 100), "float()"),
    "is_exporting": (lambda x: 100 * x if not torch.compiler.is_exporting() and x.max().item() > 100 else x, "item()"),
    "try": (tried, "bool()"),
    "numpy": (hidden(lambda x: x.detach().numpy().max() > 100), "numpy()"),
    "an array": (hidden(lambda x: np.asarray(x.detach()).max() > 100), "array()"),
    "tolist": (hidden(lambda x: max(x.flatten().tolist()) > 100), "tolist()"),
    "contains": (hidden(lambda x: 0.0 in x), "contains()"),
    "equal": (hidden(lambda x: torch.equal(x, x.round())), "equal"),
    "allclose": (hidden(lambda x: torch.allclose(x, x.round())), "allclose"),
    "nonzero": (hidden(lambda x: len((x > 100).nonzero())), "nonzero"),
    "a mask": (hidden(lambda x: x[x > 100].numel()), "index"),
    "unique": (hidden(lambda x: len(x.unique()) < 3), "unique"),
    "text": (hidden(lambda x: "e+" in str(x)), "repr()"),
    "through a copy": (copied, "bool()"),
    "an index": (hidden(lambda x: [False, True][(x.sum() > 1e9).long()]), "index()"),
    "a count": (lambda x: x * max(1, int(x.abs().sum())), "int()"),
    "a function of its own": (Reader.apply, "float()"),
    "with gradients": (lambda x: 100 * x if torch.is_grad_enabled() and x.max().item() > 100 else x, "item()"),
    "memory": (hidden(lambda x: x.untyped_storage()[0] > 200), "untyped_storage()"),
}


@pytest.mark.parametrize("name", READS)
def test_a_number_that_is_read_off_the_input_gives_no_bound_and_is_named(name, capfd):
    function, read = READS[name]
    found = sx.certificate(nn.Sequential(Of(function)), 4, starts=3, steps=3)
    assert found.bound == math.inf and found.unknown == ("0",)
    assert "depends on the numbers" in found.reasons[0] and read in found.reasons[0]
    assert capfd.readouterr() == ("", "")


OTHERWISE = {
    "compiled": lambda x: x if torch.compiler.is_compiling() else 100 * x,
    "gradients": lambda x: 100 * x if torch.is_grad_enabled() else x,
    "asked for a gradient": lambda x: 100 * x if x.requires_grad else x,
    "another kind of tensor": lambda x: x if type(x) is not Tensor else 100 * x,
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_network_that_runs_otherwise_than_its_trace_has_no_bound(name):
    found = sx.certificate(Of(OTHERWISE[name]), 4, starts=3, steps=3)
    assert found.bound == math.inf and "different numbers" in found.reasons[0]


ALLOWED = {
    "a constant": (lambda x: x * float(torch.ones(3).sum()), 3.0),
    "a shape": (lambda x: 3 * x if x.shape[1] > 3 else x, 3.0),
    "zeros of that shape": (lambda x: x * (3 + torch.zeros_like(x).sum().item()), 3.0),
    "rows": (lambda x: torch.stack([3 * row for row in x]) * len(x), 3.0),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_read_off_constants_and_shapes_is_no_matter(name):
    function, exact = ALLOWED[name]
    assert sx.certificate(Of(function), 4, starts=3, steps=3).bound == pytest.approx(exact, rel=1e-9)


# what a network is made of, and returns


@dataclasses.dataclass
class Output:
    values: Tensor
    extra: dict | None = None


def holder(name: str) -> nn.Module:
    model = Of(lambda x: getattr(model, name)(x))
    model.add_module(name, nn.Linear(4, 4).double())
    return model


@pytest.mark.parametrize("name", ["code", "graph", "network", "meta"])
def test_a_layer_may_have_any_name(name):
    model = holder(name)
    found = sx.certificate(model, 4, starts=3, steps=3)
    weight = getattr(model, name).weight.detach()
    assert found.bound == pytest.approx(float(torch.linalg.matrix_norm(weight, 2)), rel=1e-9) and found.names == (name,)


def test_a_dataclass_as_output_is_looked_into_and_complex_numbers_are_pairs():
    found = sx.certificate(Of(lambda x: Output(2 * x, {"more": torch.fft.fft(x)})), 4, starts=3, steps=3)
    assert found.bound == pytest.approx(math.hypot(2, 2), rel=1e-9) and found.lower == pytest.approx(found.bound, rel=1e-6)


def test_an_output_without_real_tensors_is_refused_in_one_line():
    with pytest.raises(sx.errors.InputError, match="returned a str without a floating-point tensor"):
        sx.certificate(Of(lambda x: "nothing"), 4)


def test_a_negative_divisor_of_a_mean_counts_by_its_size():
    pool = nn.AvgPool2d(3, 1, 1, divisor_override=-2)
    exact = dense_norm(pool, (1, 5, 5))
    assert exact <= sx.certificate(pool, (1, 5, 5), starts=3, steps=3).bound <= 1.3 * exact


# layers that are 1-Lipschitz by construction, as they are published


class ConvexPotential(nn.Module):
    """x ↦ x − 2/‖W‖² Wᵀ σ(Wx + b)."""

    def __init__(self, seed: int, sigma) -> None:
        super().__init__()
        self.weight, self.bias, self.sigma = nn.Parameter(random(9, 6, seed=seed)), nn.Parameter(random(9, seed=seed)), sigma

    def forward(self, x: Tensor) -> Tensor:
        step = 2 / torch.linalg.matrix_norm(self.weight, 2) ** 2
        return x - step * F.linear(self.sigma(F.linear(x, self.weight, self.bias)), self.weight.t())


class AlmostOrthogonal(nn.Module):
    """x ↦ x − 2 Kᵀ T σ(Kx + b) with T_i = 1/Σ_j |KKᵀ|_ij, for convolutions."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(random(3, 2, 3, 3, seed=seed))

    def forward(self, x: Tensor) -> Tensor:
        scale = 2 / F.conv2d(self.kernel, self.kernel, padding=2).abs().sum((1, 2, 3))
        hidden = torch.relu(F.conv2d(x, self.kernel, padding=1))
        return x - F.conv_transpose2d(scale[:, None, None] * hidden, self.kernel, padding=1)


BLOCKS = {
    "convex potential": ([ConvexPotential(n, torch.relu) for n in range(10)], (6,)),
    "convex potential on tokens": ([ConvexPotential(n, torch.tanh) for n in range(3)], (4, 6)),
    "almost orthogonal": ([AlmostOrthogonal(n) for n in range(4)], (2, 6, 6)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_that_are_each_exactly_one_are_one_together(name):
    blocks, shape = BLOCKS[name]
    assert 1 <= sx.certificate(nn.Sequential(*blocks), shape, starts=3, steps=3).bound <= 1 + 1e-9


@pytest.mark.parametrize(("step", "exact"), [(-0.5, 1.5), (1.0, 1.0), (3.0, 2.0)])
def test_a_step_that_is_too_long_or_has_the_wrong_sign_is_counted(step, exact):
    """x − h Qᵀ tanh(Qx), Q orthogonal: slopes from 1 − h to 1."""
    q = torch.linalg.qr(random(5, 5))[0]
    found = sx.certificate(Of(lambda x: x - step * torch.tanh(x @ q.mT) @ q), 5)
    assert found.bound == pytest.approx(exact, rel=1e-9)


DIPPING = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardswish": F.hardswish,
    "mish": F.mish,
    "leaky": lambda x: F.leaky_relu(x, -0.3),
    "prelu": lambda x: F.prelu(x, torch.tensor([-0.4, 0.2, 0.1, 3.0, 0.0]).double()),
}


@pytest.mark.parametrize("step", [0.5, -0.5, 2.5])
@pytest.mark.parametrize("name", DIPPING)
def test_a_step_with_an_activation_that_falls_is_bounded_by_its_slopes(name, step):
    """x − h Qᵀ σ(Qx), Q orthogonal, by the slopes d on a fine grid: the largest |1 − hd|."""
    sigma, q = DIPPING[name], torch.linalg.qr(random(5, 5))[0]
    grid = torch.linspace(-8, 8, 160_001, dtype=torch.float64)[:, None].expand(-1, 5).clone().requires_grad_()
    (slopes,) = torch.autograd.grad(sigma(grid).sum(), grid)
    exact = max(1.0, float((1 - step * slopes).abs().max()))  # far out units are off
    found = sx.certificate(Of(lambda x: x - step * sigma(x @ q.mT) @ q), 5, starts=3, steps=3)
    assert exact * (1 - 1e-4) <= found.bound <= exact * (1 + 2e-4)  # the corner of hardswish lies between two of the grid
    w, v = random(4, 5, seed=1) / 2, random(4, 5, seed=1).mT / 2 + 0.02 * random(5, 4, seed=2)
    other = lambda x: x - step * sigma(F.pad(x @ w.mT, (0, 1)))[..., :4] @ v.mT  # noqa: E731
    assert dense_norm(other, (5,)) <= sx.certificate(Of(other), 5, starts=3, steps=3).bound


STEPS = {
    "a copy": lambda x, branch: x.clone() - 0.1 * branch(x),
    "into a copy": lambda x, branch: x.clone().add_(branch(x), alpha=-0.1),
    "off a copy": lambda x, branch: x.clone().sub_(branch(x).mul_(0.1)),
    "of a copy": lambda x, branch: x - 0.1 * branch(x.clone().contiguous()),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_from_a_copy_is_a_step(name):
    w = random(6, 4)
    assert torch.linalg.matrix_norm(w, 2) ** 2 < 20
    found = sx.certificate(Of(lambda x: STEPS[name](x, lambda x: torch.relu(x @ w.mT) @ w)), 4, starts=3, steps=3)
    assert found.bound == pytest.approx(1.0, rel=1e-9)
    twice = sx.certificate(Of(lambda x: STEPS[name](x, lambda x: -(x @ w.mT).sigmoid() @ w)), 4, starts=3, steps=3)
    assert twice.bound == pytest.approx(1 + 0.1 * float(torch.linalg.matrix_norm(w, 2)) ** 2 / 4, rel=1e-9)


def test_a_step_with_an_activation_that_is_kept_whole_is_a_step():
    w, sigma = random(6, 4), nn.Tanhshrink()
    network = Of(lambda x: x - 0.1 * network.part(x @ w.mT) @ w)
    network.part = sigma
    assert sx.certificate(network, 4, starts=3, steps=3).bound == pytest.approx(1.0, rel=1e-9)


def test_a_step_back_by_other_weights_pays_for_the_difference():
    """x − Vσ(Wx): the dense Jacobian at points where no, some and all units are on stays below the bound."""
    w, v = random(6, 6) / 4, random(6, 6).mT / 4 + 0.02 * random(6, 6, seed=1)
    function = lambda x: x - torch.relu(x @ w.mT) @ v.mT  # noqa: E731
    found = sx.certificate(Of(function), 6)
    norm = float(torch.linalg.matrix_norm(w, 2) * torch.linalg.matrix_norm(v, 2))
    assert dense_norm(function, (6,)) <= found.bound < 1 + 0.5 * norm


def test_a_bound_that_a_measurement_refutes_and_nobody_promised_is_an_error(monkeypatch):
    from separatrix.bounds.certificate import factor, rules

    monkeypatch.setitem(rules.RULES, "tanh", factor.Rule(lambda call: factor.attained(0.5, "largest slope")))
    with pytest.raises(sx.errors.ContradictionError, match=r"by a factor of 1, more than the 0\.5") as caught:
        sx.certificate(nn.Tanh(), 3)
    assert "report" in str(caught.value).splitlines()[1]


def test_rules_and_reasons_are_those_of_operators_that_pytorch_has():
    from separatrix.bounds.certificate import rules

    unknown = [name for name in (*rules.RULES, *rules.REASONS) if not hasattr(torch.ops.aten, name)]
    assert unknown == []


def test_an_operator_has_one_rule():
    from separatrix.bounds.certificate import factor

    with pytest.raises(ValueError, match="tanh"):
        factor.rule("tanh")(lambda call: factor.attained(0.5, "half of it"))
    with pytest.raises(ValueError, match="relu"):
        factor.refuse("relu", "it bends")
