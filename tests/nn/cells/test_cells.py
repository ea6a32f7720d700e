"""Recurrent cells from ODEs: their published steps, their layers, their tangents, and what their design promises."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from torch.func import jacrev

import separatrix as sx
from separatrix.flows.methods import rk4
from separatrix.nn.cells.bounds import change_of_step
from separatrix.nn.cells.cell import as_parts, joined
from separatrix.testing import check_system

INPUTS, HIDDEN = 3, 5
MAKE = {
    "antisymmetric": lambda **o: sx.nn.AntisymmetricCell(INPUTS, HIDDEN, gamma=0.2, **o),
    "gated": lambda **o: sx.nn.AntisymmetricCell(INPUTS, HIDDEN, gamma=0.2, gated=True, **o),
    "antisymmetric by rk4": lambda **o: sx.nn.AntisymmetricCell(INPUTS, HIDDEN, method="rk4", **o),
    "cornn": lambda **o: sx.nn.CoRNNCell(INPUTS, HIDDEN, **{"dt": 0.1, "gamma": 3.0, "epsilon": 0.7} | o),
    "overdamped": lambda **o: sx.nn.CoRNNCell(INPUTS, HIDDEN, **o),
    "lipschitz": lambda **o: sx.nn.LipschitzCell(INPUTS, HIDDEN, **{"gamma": 0.1} | o),
    "lipschitz by midpoint": lambda **o: sx.nn.LipschitzCell(INPUTS, HIDDEN, method="midpoint", **o),
    "lem": lambda **o: sx.nn.LEMCell(INPUTS, HIDDEN, **{"dt": 0.8} | o),
}
LAYERS = {
    "antisymmetric": sx.nn.AntisymmetricRNN,
    "cornn": sx.nn.CoRNN,
    "lipschitz": sx.nn.LipschitzRNN,
    "lem": sx.nn.LEM,
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def build(name: str, gain: float = 1.0, seed: int = 0, **options) -> nn.Module:
    """A cell in float64 with random weights everywhere, the bias too."""
    cell = MAKE[name](dtype=torch.float64, **options)
    with torch.no_grad():
        for i, weight in enumerate(cell.parameters()):
            weight.copy_(gain * normal(*weight.shape, seed=10 * seed + i) / HIDDEN**0.5)
    return cell


def random_state(cell: nn.Module, *batch: int, seed: int = 7):
    return joined(tuple(normal(*batch, HIDDEN, seed=seed + i) for i in range(cell.parts)))


def as_vector(cell: nn.Module, u: Tensor):
    """The cell's step and its velocity, as functions of the state in one vector."""

    def of(function, x: Tensor) -> Tensor:
        return torch.cat(as_parts(function(u, joined(tuple(x.split(HIDDEN, dim=-1))))), dim=-1)

    return (lambda x: of(cell, x)), (lambda x: of(cell.velocity, x))


def drives(cell: nn.Module, u: np.ndarray) -> list[np.ndarray]:
    total = cell.weight_ih.detach().numpy() @ u + cell.bias_ih.detach().numpy()
    return np.split(total, len(total) // HIDDEN)


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


# --- the published steps, written out in NumPy ------------------------------------------------------------------------------------


def test_the_antisymmetric_step_is_chang_s():
    """The step h' = h + ε tanh((W − Wᵀ − γI)h + Vx + b), and with the gate's z = σ((W − Wᵀ − γI)h + V_z x + b_z) in front."""
    for name in ("antisymmetric", "gated"):
        cell, u, h = build(name), normal(INPUTS), normal(HIDDEN, seed=7)
        w = cell.weight_hh.detach().numpy()
        a = (w - w.T - 0.2 * np.eye(HIDDEN)) @ h.numpy()
        *gate, value = drives(cell, u.numpy())
        opened = sigmoid(a + gate[0]) if gate else 1.0
        wanted = h.numpy() + 0.1 * opened * np.tanh(a + value)
        assert np.allclose(cell(u, h).detach().numpy(), wanted, rtol=0, atol=1e-14)


def test_the_oscillators_step_is_rusch_and_mishra_s_with_implicit_damping():
    """With z' = z + dt(tanh(Wy + 𝒲z + Vu + b) − γy − εz'),  y' = y + dt z':  solved for z' by iteration, not by division."""
    cell, u, y, z = build("cornn"), normal(INPUTS), normal(HIDDEN, seed=7), normal(HIDDEN, seed=8)
    (drive,) = drives(cell, u.numpy())
    force = np.tanh(cell.weight_hh.detach().numpy() @ y.numpy() + cell.weight_zh.detach().numpy() @ z.numpy() + drive)
    after = z.numpy()
    for _ in range(60):  # contracts by ε dt = 0.07 each time
        after = z.numpy() + 0.1 * (force - 3.0 * y.numpy() - 0.7 * after)
    found_y, found_z = (part.detach().numpy() for part in cell(u, (y, z)))
    assert np.allclose(found_z, after, rtol=0, atol=1e-14)
    assert np.allclose(found_y, y.numpy() + 0.1 * after, rtol=0, atol=1e-14)


def test_the_lipschitz_step_is_erichson_s():
    """The step h' = h + ε(A h + tanh(W h + Ux + b)),  A, W = (1 − β)(M + Mᵀ) + β(M − Mᵀ) − γI."""
    cell, u, h = build("lipschitz"), normal(INPUTS), normal(HIDDEN, seed=7)

    def shaped(m: np.ndarray) -> np.ndarray:
        return 0.25 * (m + m.T) + 0.75 * (m - m.T) - 0.1 * np.eye(HIDDEN)

    a, w = (shaped(m.detach().numpy()) for m in (cell.weight_ah, cell.weight_hh))
    (drive,) = drives(cell, u.numpy())
    wanted = h.numpy() + 0.03 * (a @ h.numpy() + np.tanh(w @ h.numpy() + drive))
    assert np.allclose(cell(u, h).detach().numpy(), wanted, rtol=0, atol=1e-14)


def test_lem_s_step_is_that_of_its_paper():
    """With z' = (1 − Δt₁)z + Δt₁ tanh(W_z y + …),  y' = (1 − Δt₂)y + Δt₂ tanh(W_y z' + …),  Δt_i = Δt σ(W_i y + …)."""
    cell, u, y, z = build("lem"), normal(INPUTS), normal(HIDDEN, seed=7), normal(HIDDEN, seed=8)
    v1, v2, v_z, v_y = drives(cell, u.numpy())
    w1, w2, w_z = np.split(cell.weight_hh.detach().numpy(), 3)
    first, second = 0.8 * sigmoid(w1 @ y.numpy() + v1), 0.8 * sigmoid(w2 @ y.numpy() + v2)
    after_z = (1 - first) * z.numpy() + first * np.tanh(w_z @ y.numpy() + v_z)
    after_y = (1 - second) * y.numpy() + second * np.tanh(cell.weight_zh.detach().numpy() @ after_z + v_y)
    found_y, found_z = (part.detach().numpy() for part in cell(u, (y, z)))
    assert np.allclose(found_z, after_z, rtol=0, atol=1e-14) and np.allclose(found_y, after_y, rtol=0, atol=1e-14)


# --- PyTorch's signature ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKE)
def test_a_cell_takes_a_batch_or_none_and_begins_at_zero(name):
    cell, u = build(name), normal(4, INPUTS)
    state = random_state(cell, 4)
    together = as_parts(cell(u, state))
    for i in range(4):
        alone = as_parts(cell(u[i], joined(tuple(part[i] for part in as_parts(state)))))
        assert all(torch.allclose(a, b[i], rtol=0, atol=1e-14) for a, b in zip(alone, together, strict=True))
    zeros = joined(tuple(torch.zeros(4, HIDDEN, dtype=torch.float64) for _ in range(cell.parts)))
    for a, b in zip(as_parts(cell(u)), as_parts(cell(u, zeros)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_layer_is_its_cells_in_a_loop_and_has_the_shapes_of_a_gru(name, batch_first):
    torch.manual_seed(0)
    layer = LAYERS[name](INPUTS, HIDDEN, 2, batch_first=batch_first, dtype=torch.float64)
    gru = nn.GRU(INPUTS, HIDDEN, 2, batch_first=batch_first, dtype=torch.float64)
    sequence = normal(9, 4, INPUTS)
    output, last = layer(sequence.transpose(0, 1) if batch_first else sequence)
    states = [cell.zero_state((4,)) for cell in layer.cells]
    outputs = []
    for u in sequence:
        for i, cell in enumerate(layer.cells):
            states[i] = cell(u, states[i])
            u = as_parts(states[i])[0]
        outputs.append(u)
    wanted = torch.stack(outputs, dim=1 if batch_first else 0)
    assert torch.allclose(output, wanted, rtol=0, atol=1e-13)
    theirs, their_last = gru(sequence.transpose(0, 1) if batch_first else sequence)
    assert output.shape == theirs.shape
    for part, found in enumerate(as_parts(last)):
        assert found.shape == their_last.shape
        assert torch.allclose(found, torch.stack([as_parts(state)[part] for state in states]), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_made_and_called_with_a_grus_own_arguments(name):
    layer, gru = (kind(INPUTS, HIDDEN, 2, False, True, 0.5) for kind in (LAYERS[name], nn.GRU))
    for word in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout"):
        assert getattr(layer, word) == getattr(gru, word)
    output, _ = layer(torch.zeros(4, 9, INPUTS), hx=layer.zero_state((4,)))
    assert output.shape == (4, 9, HIDDEN) and all(cell.bias_ih is None for cell in layer.cells)
    assert torch.equal(as_parts(layer.cells[0](torch.zeros(4, INPUTS), hx=None))[0], torch.zeros(4, HIDDEN))
    assert layer(torch.zeros(0, 9, INPUTS))[0].shape == gru(torch.zeros(0, 9, INPUTS))[0].shape == (0, 9, HIDDEN)


@pytest.mark.parametrize("name", LAYERS)
def test_a_sequence_may_be_cut_in_two_and_go_without_a_batch(name):
    torch.manual_seed(0)
    layer = LAYERS[name](INPUTS, HIDDEN, 2, dtype=torch.float64)
    sequence = normal(9, 4, INPUTS)
    whole, last = layer(sequence)
    first, between = layer(sequence[:5])
    second, end = layer(sequence[5:], between)
    assert torch.allclose(torch.cat([first, second]), whole, rtol=0, atol=1e-14)
    alone, alone_last = layer(sequence[:, 2])
    assert torch.allclose(alone, whole[:, 2], rtol=0, atol=1e-14)
    for a, b, c in zip(as_parts(last), as_parts(end), as_parts(alone_last), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-14) and torch.allclose(a[:, 2], c, rtol=0, atol=1e-14)


def test_dropout_is_between_layers_and_in_training_alone():
    torch.manual_seed(0)
    layer, one = sx.nn.LEM(INPUTS, HIDDEN, 2, dropout=0.5), sx.nn.LEM(INPUTS, HIDDEN, 1, dropout=0.5)
    u = normal(9, 4, INPUTS).float()
    assert not torch.equal(layer(u)[0], layer(u)[0]) and torch.equal(one(u)[0], one(u)[0])
    layer.eval()
    assert torch.equal(layer(u)[0], layer(u)[0])


@pytest.mark.parametrize("name", sx.tables.CELLS)
def test_a_cell_is_a_plain_module(name):
    """Weights round trip; bias or none; dtype and device of the weights; compiled, exported and under autocast it is the same."""
    torch.manual_seed(0)
    cell, u = sx.tables.CELLS[name](INPUTS, HIDDEN), normal(4, INPUTS).float()
    state = cell(u)
    other = sx.tables.CELLS[name](INPUTS, HIDDEN)
    other.load_state_dict(cell.state_dict())
    wanted = as_parts(cell(u, state))
    exported = torch.export.export(cell, (u, state)).module()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = as_parts(cell(u, state))
    for i, part in enumerate(wanted):
        assert part.dtype == torch.float32
        assert torch.equal(as_parts(other(u, state))[i], part)
        assert torch.allclose(as_parts(exported(u, state))[i], part, atol=1e-6)
        assert rough[i].dtype == torch.float32 and torch.allclose(rough[i], part, atol=0.02)  # bfloat16 has 8 bits
    without = sx.tables.CELLS[name](INPUTS, HIDDEN, False)
    assert without.bias_ih is None and all(part.isfinite().all() for part in as_parts(without(u)))
    assert as_parts(sx.tables.CELLS[name](INPUTS, HIDDEN, device="meta")(u.to("meta")))[0].is_meta


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_reach_every_weight_of_a_layer(name):
    torch.manual_seed(0)
    layer = LAYERS[name](INPUTS, HIDDEN, 2)
    layer(normal(4, 2, INPUTS).float())[0].sum().backward()
    assert all(weight.grad.abs().max() > 0 for weight in layer.parameters())


@pytest.mark.parametrize("name", sx.tables.CELLS)
def test_a_cell_compiles(name):
    torch.manual_seed(0)
    torch._dynamo.reset()
    cell, u = sx.tables.CELLS[name](INPUTS, HIDDEN), normal(2, INPUTS).float()
    state = cell(u)
    compiled = torch.compile(cell, backend="eager", fullgraph=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(as_parts(compiled(u, state)), as_parts(cell(u, state)), strict=True))


def test_weights_start_as_in_the_papers_and_from_the_global_generator():
    torch.manual_seed(3)
    size = 400  # a standard deviation of 160,000 numbers is known to 0.2 %
    cells = [sx.nn.AntisymmetricCell(size, size), sx.nn.LipschitzCell(size, size)]
    assert float(cells[0].weight_hh.detach().std()) == pytest.approx(size**-0.5, rel=0.01)
    assert float(cells[0].weight_ih.detach().std()) == pytest.approx(size**-0.5, rel=0.01)
    assert float(cells[1].weight_ah.detach().std()) == pytest.approx(6 / size, rel=0.01)
    assert float(cells[1].weight_ih.detach().std()) == pytest.approx(size**-0.5, rel=0.01)
    for cell, bound in ((sx.nn.CoRNNCell(size, size), (3 * size) ** -0.5), (sx.nn.LEMCell(size, size), size**-0.5)):
        for weight in cell.parameters():
            assert float(weight.detach().abs().max()) <= bound * (1 + 1e-6)  # rounded to float32
            assert float(weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.1 if weight.ndim == 1 else 0.01)
    torch.manual_seed(3)
    assert torch.equal(sx.nn.AntisymmetricCell(size, size).weight_hh, cells[0].weight_hh)


# --- tangents ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKE)
def test_tangents_are_autograds_dense_jacobian_of_state_and_input(name):
    cell, u, state = build(name), normal(INPUTS), random_state(build(name))
    x, width = torch.cat(as_parts(state)), HIDDEN * cell.parts
    by_state = jacrev(as_vector(cell, u)[0])(x)
    by_input = jacrev(lambda u: as_vector(cell, u)[0](x))(u)
    v, w = normal(4, width, seed=1), normal(4, INPUTS, seed=2)
    tangents = joined(tuple(v.split(HIDDEN, dim=-1)))
    _, pushed = cell.pushforward(u, state, tangents, w)
    wanted = v @ by_state.mT + w @ by_input.mT
    assert torch.allclose(torch.cat(as_parts(pushed), dim=-1), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", MAKE)
def test_a_cell_conforms_alone_and_in_an_ensemble(name):
    check_system(sx.Recurrent(build(name), normal(9, 2, INPUTS)))
    check_system(sx.Recurrent([build(name, seed=i) for i in range(3)], normal(9, 2, INPUTS)))


@pytest.mark.parametrize("name", LAYERS)
def test_stacked_layers_conform_and_are_their_own_forward(name):
    torch.manual_seed(0)
    layers = [LAYERS[name](INPUTS, HIDDEN, 2, batch_first=True, dropout=0.5) for _ in range(2)]
    u = normal(2, 9, INPUTS)
    check_system(sx.Recurrent(layers, u))
    system = sx.Recurrent(layers[0], u)
    check_system(system)
    orbit = sx.trajectory(system, None, 9)
    last = layers[0].double().eval()(u)[1]
    for found, wanted in zip(as_parts(system.unpack(orbit[-1])), as_parts(last), strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-13)
    assert torch.equal(system.pack(system.unpack(orbit[3])), orbit[3])
    assert torch.allclose(system.pack(last), orbit[-1], rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", MAKE)
def test_gradients_flow_through_the_closed_tangents(name):
    """∂/∂θ of the pushed tangents, as a loss on exponents needs it, against autograd through autograd's own Jacobian."""
    cell, u, state = build(name), normal(2, INPUTS), random_state(build(name), 2)
    tangents = joined(tuple(normal(2, 3, HIDDEN, seed=i) for i in range(cell.parts)))
    pushed = torch.cat(as_parts(cell.pushforward(u, state, tangents)[1]), dim=-1)
    found = torch.autograd.grad(pushed.square().sum(), list(cell.parameters()))
    v, x = torch.cat(as_parts(tangents), dim=-1), torch.cat(as_parts(state), dim=-1)
    total = torch.zeros(())
    for i in range(2):
        total = total + (v[i] @ jacrev(as_vector(cell, u[i])[0])(x[i]).mT).square().sum()
    for mine, theirs in zip(found, torch.autograd.grad(total, list(cell.parameters())), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def test_gradients_of_a_run_reach_the_layers_weights_and_an_optimisers_step_is_seen():
    torch.manual_seed(0)
    layer = sx.nn.CoRNN(INPUTS, HIDDEN, 2, dtype=torch.float64)
    system = sx.Recurrent(layer, normal(9, INPUTS))
    x, v = normal(system.dim), normal(3, system.dim, seed=1)
    before, pushed = system.pushforward(x, v)
    pushed.square().sum().backward()
    assert all(weight.grad.abs().max() > 0 for weight in layer.parameters())
    with torch.no_grad():
        layer.cells[1].weight_hh.mul_(2)
    assert not torch.equal(system.step(x), before)


def test_a_layer_whose_call_was_changed_is_refused():
    class Doubled(sx.nn.LEM):
        def forward(self, input, hx=None):
            output, last = super().forward(input, hx)
            return 2 * output, last

    hooked = sx.nn.LEM(INPUTS, HIDDEN)
    hooked.register_forward_hook(lambda module, inputs, out: out)
    for layer in (Doubled(INPUTS, HIDDEN), hooked):
        with pytest.raises(sx.errors.UnsupportedModuleError, match=r"a forward of its own|hooks of its own"):
            sx.Recurrent(layer)


# --- the ODE ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "order"),
    [("antisymmetric", 1), ("gated", 1), ("cornn", 1), ("lipschitz", 1), ("lipschitz by midpoint", 2), ("lem", 1)],
)
def test_steps_converge_to_the_odes_solution_with_the_methods_order(name, order):
    """Errors at time 1 against SciPy at 1e-11, for 40, 80 and 160 steps: halved steps, 2^order times less error."""
    u, errors = normal(INPUTS), []
    for steps in (40, 80, 160):
        cell = build(name, dt=1 / steps)
        step, velocity = as_vector(cell, u)
        x = start = normal(HIDDEN * cell.parts, seed=7)
        with torch.no_grad():
            for _ in range(steps):
                x = step(x)
            truth = solve_ivp(lambda t, x, f=velocity: f(torch.tensor(x)).numpy(), (0, 1), start.numpy(), rtol=1e-11, atol=1e-12)
        errors.append(float(np.abs(x.numpy() - truth.y[:, -1]).max()))
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes == pytest.approx([order] * 2, abs=0.12)  # the next order's term, at these steps


# --- promises ---------------------------------------------------------------------------------------------------------------------


def test_the_antisymmetric_odes_eigenvalues_are_imaginary_or_damped_at_every_state():
    for gamma in (0.0, 0.4):
        cell = sx.nn.AntisymmetricCell(INPUTS, HIDDEN, gamma=gamma, dtype=torch.float64)
        with torch.no_grad():
            cell.weight_hh.copy_(normal(HIDDEN, HIDDEN))
        for seed in range(5):
            u, x = normal(INPUTS, seed=seed), 2 * normal(HIDDEN, seed=seed + 5)
            real = torch.linalg.eigvals(jacrev(as_vector(cell, u)[1])(x)).real
            assert -gamma - 1e-12 <= real.min() and real.max() <= 1e-12


def test_the_gate_breaks_that_promise():
    """With it Dḣ = diag(d) A,  d = σ tanh' + σ' tanh  of both signs; in the plane det < 0 then, hence a positive eigenvalue."""
    cell = sx.nn.AntisymmetricCell(1, 2, gamma=0.0, gated=True, dtype=torch.float64)
    with torch.no_grad():
        cell.weight_hh.copy_(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
        cell.weight_ih.zero_()
        cell.bias_ih.copy_(torch.tensor([0.0, 0.0, 0.0, -3.0]))  # d = (0.5, −0.24) at rest
    t, s = math.tanh(-3.0), 0.5
    d = (0.5, s * (1 - t * t) + s * (1 - s) * t)
    origin = torch.zeros(2, dtype=torch.float64)
    found = torch.linalg.eigvals(jacrev(lambda h: cell.velocity(torch.zeros(1, dtype=torch.float64), h))(origin)).real.max()
    assert d[1] < 0 and float(found.detach()) == pytest.approx(2 * math.sqrt(-d[0] * d[1]), rel=1e-12)


def test_an_euler_step_at_the_origin_has_the_multipliers_of_its_frequencies():
    """|1 + dt(iω − γ)|: the spectrum of the orbit that rests at zero. ω from the singular values, which come in pairs."""
    for gamma in (0.0, 0.4):
        cell = sx.nn.AntisymmetricCell(INPUTS, 6, dt=0.3, gamma=gamma, dtype=torch.float64)
        w = cell.weight_hh.detach()
        omega = torch.linalg.svdvals(w - w.mT)
        wanted = 0.5 * torch.log((1 - 0.3 * gamma) ** 2 + (0.3 * omega) ** 2)
        at_rest = torch.zeros(6, dtype=torch.float64)
        found = sx.lyapunov_spectrum(sx.Recurrent(cell), at_rest, steps=2000, settle=500).exponents
        assert torch.allclose(found, wanted, rtol=0, atol=4e-3)  # complex pairs converge like 1/steps
        assert (wanted > 0).any() == (omega.max() ** 2 > (2 * gamma - gamma**2 * 0.3) / 0.3)


def test_without_diffusion_every_euler_step_expands_volumes():
    """det(I + dt D(W − Wᵀ)) = Π(1 + dt²μ²) over the singular values μ, in pairs, of √D(W − Wᵀ)√D."""
    cell = build("antisymmetric")
    cell.gamma = 0.0
    w = (cell.weight_hh - cell.weight_hh.mT).detach()
    for seed in range(4):
        u, x = normal(INPUTS, seed=seed), normal(HIDDEN, seed=seed + 9)
        root = torch.diag(1 / torch.cosh(w @ x + cell.drive(u).detach()))
        mu = torch.linalg.svdvals(root @ w @ root)
        log_det = torch.linalg.slogdet(jacrev(as_vector(cell, u)[0])(x)).logabsdet.detach()
        assert float(log_det) == pytest.approx(0.5 * float(torch.log1p((cell.dt * mu) ** 2).sum()), rel=1e-10)
        assert log_det > 0


def test_a_free_oscillators_energy_fades_by_exactly_its_factor():
    for name in ("cornn", "overdamped"):
        cell = build(name, gain=0.0)  # tanh(0) = 0
        state = random_state(cell, 20)
        before, after = cell.energy(state), cell.energy(cell(normal(20, INPUTS), state))
        assert torch.allclose(after, before / (1 + cell.epsilon * cell.dt), rtol=1e-12, atol=1e-13)


def test_no_weights_or_inputs_take_an_oscillator_beyond_its_bounds():
    """Also where each input pushes along the motion, and W and 𝒲 are large; the bound is nearly reached."""
    cell = build("cornn", gain=30.0)
    reached = largest = 0.0
    for push in (True, False):
        y = z = torch.zeros(1, HIDDEN, dtype=torch.float64)
        for n in range(300):
            if push:  # forces of ±1 exactly, by the sign of the motion
                y, z = cell._oscillated((y, z), torch.where(z >= 0, 1.0, -1.0).double())
            else:
                y, z = (part.detach() for part in cell(50 * normal(1, INPUTS, seed=n), (y, z)))
            energy = float(cell.energy((y, z)).max())
            assert energy <= min((n + 1) * cell.dt, cell.energy_bound**0.5) ** 2 * (1 + 1e-12)
            reached, largest = max(reached, energy), max(largest, float(y.abs().max()))
    assert reached > 0.3 * cell.energy_bound and largest <= cell.state_bound


def test_overdamped_units_stay_within_one_over_gamma():
    cell = build("overdamped", gain=30.0)
    assert cell.energy_bound == math.inf and cell.state_bound == pytest.approx(1 / 2.7)
    y = z = torch.zeros(1, HIDDEN, dtype=torch.float64)
    for _ in range(2000):
        y, z = cell._oscillated((y, z), torch.ones(1, HIDDEN, dtype=torch.float64))
    assert float(y.max()) == pytest.approx(1 / 2.7, rel=1e-9)
    for n in range(300):
        y, z = (part.detach() for part in cell(50 * normal(1, INPUTS, seed=n), (y, z)))
        assert y.abs().max() <= cell.state_bound


def test_oscillators_coupled_by_position_alone_have_the_sum_of_exponents_of_their_damping():
    """log |det| = hidden · ln d + log |det(I + dt diag(tanh′) 𝒲)| at every state; so with 𝒲 = 0 the sum is known."""
    cell, u = build("cornn", gain=2.0), normal(INPUTS)
    y, z = random_state(cell)
    slope = 1 / torch.cosh(cell.weight_hh @ y + cell.weight_zh @ z + cell.drive(u)) ** 2
    inner = torch.linalg.slogdet(torch.eye(HIDDEN) + cell.dt * slope[:, None] * cell.weight_zh).logabsdet
    found = torch.linalg.slogdet(jacrev(as_vector(cell, u)[0])(torch.cat([y, z]))).logabsdet
    assert float(found.detach()) == pytest.approx(float(inner.detach()) - HIDDEN * math.log1p(0.07), rel=1e-11)
    with torch.no_grad():
        cell.weight_zh.zero_()
    spectrum = sx.lyapunov_spectrum(sx.Recurrent(cell, normal(600, INPUTS)), steps=500)
    assert float(spectrum.exponents.sum()) == pytest.approx(-HIDDEN * math.log1p(0.07), rel=1e-10)


def test_free_oscillators_all_have_half_of_it():
    spectrum = sx.lyapunov_spectrum(sx.Recurrent(build("cornn", gain=0.0)), steps=1500, settle=0)
    wanted = torch.full((2 * HIDDEN,), -0.5 * math.log1p(0.07), dtype=torch.float64)
    assert torch.allclose(spectrum.exponents, wanted, rtol=0, atol=2e-3)  # complex pairs converge like 1/steps


def test_the_symmetric_part_of_a_lipschitz_cell_is_bounded_by_its_beta():
    for beta in (0.0, 0.5, 0.75, 1.0):
        cell = build("lipschitz", beta=beta)
        a = cell.matrices()[0].detach()[:HIDDEN]
        symmetric = torch.linalg.eigvalsh((a + a.mT) / 2)
        most = 2 * (1 - beta) * float(torch.linalg.matrix_norm(cell.weight_ah.detach(), ord=2)) - 0.1
        assert symmetric.max() <= most + 1e-12
        if beta == 1:
            assert torch.allclose(symmetric, torch.full_like(symmetric, -0.1), rtol=0, atol=1e-14)
        if beta == 0.5:
            assert torch.allclose(a, cell.weight_ah.detach() - 0.1 * torch.eye(HIDDEN, dtype=torch.float64), rtol=0, atol=1e-14)


def test_orbits_of_a_lipschitz_ode_part_no_faster_than_its_bound():
    """‖h₁(t) − h₂(t)‖ ≤ e^{(λ + ‖W‖)t} ‖h₁(0) − h₂(0)‖, by SciPy; with λ < −‖W‖ they meet."""
    for gamma, meets in ((0.1, False), (6.0, True)):
        cell = build("lipschitz", gamma=gamma, beta_w=0.5, gamma_w=0.0, gain=0.8)
        a, w = cell.matrices()[0].detach().chunk(2)
        rate = float(torch.linalg.eigvalsh((a + a.mT) / 2).max() + torch.linalg.matrix_norm(w, ord=2))
        velocity = as_vector(cell, normal(INPUTS))[1]
        starts = normal(2, HIDDEN, seed=3)
        with torch.no_grad():
            ends = [
                solve_ivp(lambda t, h, f=velocity: f(torch.tensor(h)).numpy(), (0, 2), h.numpy(), rtol=1e-10, atol=1e-12)
                for h in starts
            ]
        apart = np.linalg.norm(ends[0].y[:, -1] - ends[1].y[:, -1])
        assert apart <= math.exp(2 * rate) * float((starts[0] - starts[1]).norm()) * (1 + 1e-8)
        assert (rate < 0) == meets


@pytest.mark.parametrize("dt", [0.1, 1.0, 1.5])
def test_lem_s_state_never_exceeds_its_bound(dt):
    cell = build("lem", gain=30.0, dt=dt)
    state = cell.zero_state((50,))
    for n in range(100):
        state = tuple(part.detach() for part in cell(20 * normal(50, INPUTS, seed=n), state))
        largest = max(float(part.abs().max()) for part in state)
        assert largest <= (1 - (1 - dt) ** (n + 1) if dt <= 1 else cell.state_bound) * (1 + 1e-12)
    assert cell.state_bound == (1.0 if dt <= 1 else pytest.approx(3.0)) and largest > 0.9 * (1 if dt >= 1 else 0.99)


def test_lem_s_sum_of_exponents_is_that_of_its_gates():
    """log |det| = Σ ln(1 − a) + log |det(diag(1 − c) + diag((tanh − y) c (1 − σ)) W₂)|; without W₂, of the gates alone."""
    cell, u = build("lem"), normal(INPUTS)
    y, z = random_state(cell)
    with torch.no_grad():
        to_a, to_c, to_z = (cell.weight_hh @ y + cell.drive(u)[: 3 * HIDDEN]).chunk(3)
        a, c = 0.8 * to_a.sigmoid(), 0.8 * to_c.sigmoid()
        aim = torch.tanh(cell.weight_zh @ (z + a * (to_z.tanh() - z)) + cell.drive(u)[3 * HIDDEN :])
        inner = torch.diag(1 - c) + ((aim - y) * c * (1 - to_c.sigmoid()))[:, None] * cell.weight_hh[HIDDEN : 2 * HIDDEN]
        wanted = torch.log1p(-a).sum() + torch.linalg.slogdet(inner).logabsdet
    found = torch.linalg.slogdet(jacrev(as_vector(cell, u)[0])(torch.cat([y, z]))).logabsdet
    assert float(found.detach()) == pytest.approx(float(wanted), rel=1e-10)


@pytest.mark.parametrize("gain", [0.2, 1.0])
@pytest.mark.parametrize("name", MAKE)
def test_all_exponents_lie_within_the_proven_bounds(name, gain):
    for dt in (0.02, 0.1):
        cell = build(name, gain=gain, dt=dt)
        low, high = cell.exponent_bounds()
        spectrum = sx.lyapunov_spectrum(sx.Recurrent(cell, 3 * normal(500, INPUTS)), steps=200, settle=300).exponents
        slack = 0.01 if name == "cornn" else 1e-9  # its energy is not Euclid's norm: a factor of e at most, twice in 200 steps
        assert low - slack <= spectrum.min() and spectrum.max() <= high + slack
        assert -math.inf < low < high < math.inf or (gain, dt) == (1.0, 0.1)


@pytest.mark.parametrize("name", [name for name in MAKE if name != "cornn"])  # measured by its energy, not in Euclid's norm
def test_no_single_step_stretches_beyond_the_bound(name):
    """The bound holds of every Jacobian, at any state that can be reached."""
    cell = build(name, dt=0.05)
    low, high = cell.exponent_bounds()
    for seed in range(20):
        u, x = 3 * normal(INPUTS, seed=seed), normal(HIDDEN * cell.parts, seed=seed + 1).clamp(-1, 1)
        values = torch.linalg.svdvals(jacrev(as_vector(cell, u)[0])(x))
        assert math.exp(low) <= values.min() * (1 + 1e-12) and values.max() <= math.exp(high) * (1 + 1e-12)


def test_a_methods_change_is_its_stability_polynomial_less_one():
    """Of a tableau without negative numbers."""
    z = 0.3
    assert change_of_step(rk4, z) == pytest.approx(z + z**2 / 2 + z**3 / 6 + z**4 / 24, rel=1e-14)


def test_free_bounds_of_an_oscillator_are_one_number():
    low, high = build("cornn", gain=0.0).exponent_bounds()
    assert low == pytest.approx(-0.5 * math.log1p(0.07), rel=1e-12) and high == pytest.approx(low, rel=1e-12)


# --- bad input --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: sx.nn.LEMCell(3, 5, dt=0.0), sx.errors.InputError, "dt is 0.0"),
        (lambda: sx.nn.CoRNN(3, 5, dt=-1.0), sx.errors.InputError, "dt is -1.0"),
        (lambda: sx.nn.LEMCell(3, 5, dt=math.nan), sx.errors.InputError, "dt is nan"),
        (lambda: sx.nn.LipschitzCell(3, 5, beta=1.2), sx.errors.InputError, "beta is 1.2"),
        (lambda: sx.nn.LipschitzCell(3, 5, beta_w=-1.0), sx.errors.InputError, "beta_w is -1.0"),
        (lambda: sx.nn.LipschitzRNN(3, 5, gamma=-0.1), sx.errors.InputError, "gamma is -0.1"),
        (lambda: sx.nn.AntisymmetricCell(3, 5, gamma=math.inf), sx.errors.InputError, "gamma is inf"),
        (lambda: sx.nn.CoRNNCell(3, 5, epsilon=-1.0), sx.errors.InputError, "epsilon is -1.0"),
        (lambda: sx.nn.LipschitzCell(3, 5, method="leapfrog"), sx.errors.InputError, r"method is 'leapfrog'.*euler"),
        (lambda: sx.nn.LEMCell(0, 5), sx.errors.ShapeError, "input_size is 0"),
        (lambda: sx.nn.LEMCell(3, 2.5), sx.errors.InputError, "hidden_size is 2.5"),
        (lambda: sx.nn.LEM(3, 5, 0), sx.errors.ShapeError, "num_layers is 0"),
        (lambda: sx.nn.LEM(3, 5, dropout=1.0), sx.errors.InputError, "dropout is 1.0"),
        (lambda: sx.nn.LEMCell(3, 5)(torch.zeros(4, 2)), sx.errors.ShapeError, r"\(batch, 3\) or \(3,\).*\(4, 2\)"),
        (lambda: sx.nn.LEMCell(3, 5)(torch.zeros(2, 4, 3)), sx.errors.ShapeError, r"got \(2, 4, 3\)"),
        (lambda: sx.nn.LEMCell(3, 5)(torch.zeros(4, 3), torch.zeros(4, 5)), sx.errors.ShapeError, "2 tensors, got 1"),
        (
            lambda: sx.nn.AntisymmetricCell(3, 5)(torch.zeros(4, 3), torch.zeros(2, 5)),
            sx.errors.ShapeError,
            r"\(4, 5\) .* got \(2, 5\)",
        ),
        (lambda: sx.nn.CoRNN(3, 5)(torch.zeros(3)), sx.errors.ShapeError, r"\(time, batch, 3\) or \(time, 3\), got \(3,\)"),
        (lambda: sx.nn.CoRNN(3, 5, batch_first=True)(torch.zeros(2, 9, 4)), sx.errors.ShapeError, r"\(batch, time, 3\)"),
        (lambda: sx.nn.CoRNN(3, 5)(torch.zeros(0, 2, 3)), sx.errors.ShapeError, r"got \(0, 2, 3\)"),
        (
            lambda: sx.nn.CoRNN(3, 5)(torch.zeros(9, 2, 3), torch.zeros(1, 2, 5)),
            sx.errors.ShapeError,
            r"2 tensors of shape \(1, 2, 5\)",
        ),
        (
            lambda: sx.nn.AntisymmetricRNN(3, 5)(torch.zeros(9, 2, 3), torch.zeros(2, 5)),
            sx.errors.ShapeError,
            r"1 tensor .*\(2, 5\)",
        ),
        (lambda: sx.nn.LEM(3, 5)(torch.zeros(9, 2, 3).double()), sx.errors.InputError, r"an input in float32.*LEMCell.*float64"),
        (lambda: sx.nn.LEMCell(3, 5)(torch.zeros(2, 3, dtype=torch.long)), sx.errors.InputError, r"an input.*int64"),
        (lambda: sx.nn.AntisymmetricCell(3, 5)(torch.zeros(3), torch.zeros(5).double()), sx.errors.InputError, r"a state.*float64"),
        (lambda: sx.nn.CoRNN(3, 5)(nn.utils.rnn.pack_sequence([torch.zeros(4, 3)])), sx.errors.InputError, "PackedSequence"),
        (lambda: sx.Recurrent(sx.nn.LEM(3, 5), torch.zeros(9, 4)), sx.errors.ShapeError, "4 numbers per step but this LEM takes 3"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(make, error, told):
    with pytest.raises(error, match=told) as caught:
        make()
    assert len(str(caught.value).splitlines()) <= 2
