"""Spectra of driven networks against dense Jacobians of the module's own forward pass, multiplied out here."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import separatrix as sx
from separatrix.analysis.run.tangent_run import random_frame
from separatrix.core.randomness import torch_generator


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def seeded_module(module: nn.Module, gain: float = 1.0, seed: int = 0) -> nn.Module:
    """The module in float64 with normal weights of variance gain² / hidden."""
    generator = torch.Generator().manual_seed(seed)
    for weight in module.double().parameters():
        nn.init.normal_(weight, 0.0, gain / module.hidden_size**0.5, generator=generator)
    return module


def same_frame(size: int, seed: int = 0) -> np.ndarray:
    """The tangents that a spectrum of all exponents begins with, as columns."""
    return random_frame(torch.zeros(size, dtype=torch.float64), size, seed).numpy().T


def other_frame(size: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(8).normal(size=(size, size)))[0]


def dense_exponents(jacobians: np.ndarray, settle: int, frame: np.ndarray) -> np.ndarray:
    """Exponents of the product J_T … J_2 J_1 of dense matrices (time, *batch, N, N), by QR of each step's frame."""
    logs = []
    for jacobian in jacobians:
        frame, r = np.linalg.qr(jacobian @ frame)
        with np.errstate(divide="ignore"):
            logs.append(np.log(np.abs(np.diagonal(r, axis1=-2, axis2=-1))))
    return -np.sort(-np.mean(logs[settle:], axis=0), axis=-1)


@pytest.fixture(scope="module")
def chaotic_network():
    """A driven tanh network of 20 units at gain 2.5 and 64 input sequences: as a system, its spectrum, and its Jacobians D_n W."""
    network = seeded_module(nn.RNN(3, 20), gain=2.5, seed=3)
    inputs = 0.3 * seeded(700, 64, 3, seed=1)
    system = sx.Recurrent(network, inputs)
    with torch.no_grad():
        hidden = network(inputs)[0]
        jacobians = (1 - hidden.square())[..., None] * network.weight_hh_l0
    return system, sx.lyapunov_spectrum(system, steps=500, settle=200), jacobians.numpy()


def test_a_driven_networks_spectrum_is_that_of_the_forward_product(chaotic_network):
    """J_T … J_1 on the frame that the run begins with, sequence by sequence, to rounding.

    λ₁ is a plain product, right to 1e-16 a step; between two QRs the others are read off a frame whose condition is up to 1e8.
    """
    _, spectrum, jacobians = chaotic_network
    assert (spectrum.exponents[:, 0] > 0).double().mean() > 0.9
    apart = np.abs(dense_exponents(jacobians, 200, same_frame(20)) - spectrum.exponents.numpy())
    assert apart[:, 0].max() < 1e-13 and apart.max() < 1e-8


def test_from_another_frame_the_leading_exponent_is_off_by_what_the_frames_began_with_over_the_time(chaotic_network):
    """Once two tangents are aligned they grow alike: T |λ₁ − λ₁'| is one number, however long the run goes on."""
    system, spectrum, jacobians = chaotic_network
    half = sx.lyapunov_spectrum(system, k=1, steps=250, settle=200)
    nats = [
        steps * (dense_exponents(jacobians[: 200 + steps], 200, other_frame(20))[:, 0] - found.exponents[:, 0].numpy())
        for steps, found in ((250, half), (500, spectrum))
    ]
    assert np.abs(nats[0]).max() > 0.1
    assert nats[1] == pytest.approx(nats[0], abs=1e-3)


def test_transposed_jacobians_in_forward_order_give_another_spectrum(chaotic_network):
    """J_Tᵀ … J_1ᵀ, which published code computes (notes/lyapunov.md §1.1), shares only the sum; a transpose would be seen here."""
    _, spectrum, jacobians = chaotic_network
    transposed = dense_exponents(jacobians.swapaxes(-1, -2), 200, same_frame(20))
    ours, runs = spectrum.pooled(), len(transposed)
    error = np.hypot(ours.stderr.numpy(), transposed.std(0, ddof=1) / runs**0.5)
    assert abs(ours.exponents[0] - transposed.mean(0)[0]) > 6 * error[0]
    assert float(ours.exponents.sum()) == pytest.approx(transposed.mean(0).sum(), abs=1e-6)


MODULES = {
    "tanh": lambda: nn.RNN(2, 6),
    "relu": lambda: nn.RNN(2, 6, nonlinearity="relu"),
    "gru": lambda: nn.GRU(2, 6),
    "gru without bias": lambda: nn.GRU(2, 6, bias=False),
    "lstm": lambda: nn.LSTM(2, 6),
    "two layers of gru": lambda: nn.GRU(2, 4, num_layers=2),
    "projected lstm": lambda: nn.LSTM(2, 6, proj_size=4),
}


def module_jacobians(module: nn.Module, inputs: Tensor) -> np.ndarray:
    """∂(state after step n) / ∂(state before), by reverse mode through the module's own forward pass, (time, dim, dim)."""
    sizes = [(module.num_layers, getattr(module, "proj_size", 0) or module.hidden_size)]
    if isinstance(module, nn.LSTM):
        sizes.append((module.num_layers, module.hidden_size))

    def step(x: Tensor, u: Tensor) -> Tensor:
        parts = [part.view(size) for part, size in zip(x.split([math.prod(size) for size in sizes]), sizes, strict=True)]
        state = module(u[None], tuple(parts) if len(parts) > 1 else parts[0])[1]
        return torch.cat([part.flatten() for part in (state if isinstance(state, tuple) else (state,))])

    x, jacobians = torch.zeros(sum(math.prod(size) for size in sizes), dtype=torch.float64), []
    for u in inputs:
        jacobians.append(torch.autograd.functional.jacobian(lambda y, u=u: step(y, u), x))
        x = step(x, u).detach()
    return torch.stack(jacobians).numpy()


@pytest.mark.parametrize("name", MODULES)
def test_a_modules_spectrum_is_that_of_its_own_jacobians(name):
    """State after state of the module itself, h and c of every layer, on the frame that the run begins with: to rounding.

    Between two QRs the frame has a condition of up to 1e8, which leaves log R_ii right to some 1e-8.
    """
    module, inputs = seeded_module(MODULES[name](), gain=0.9, seed=2), seeded(260, 2)
    system = sx.Recurrent(module, inputs)
    spectrum = sx.lyapunov_spectrum(system, steps=200, settle=60)
    jacobians = module_jacobians(module, inputs)
    assert jacobians.shape[1:] == (system.dim, system.dim)
    assert spectrum.exponents.shape == (system.dim,)
    expected = dense_exponents(jacobians, 60, same_frame(system.dim))
    assert spectrum.exponents[0].item() == pytest.approx(expected[0], abs=1e-13)
    if name != "relu":  # singular: its zeros are rounding in one computation or the other
        assert spectrum.exponents.numpy() == pytest.approx(expected, abs=1e-8)


def test_the_state_of_an_lstm_includes_its_cell():
    """2H exponents. At a wide open forget gate the cell is the slow half: without c the leading exponent would be far below 0."""
    module = seeded_module(nn.LSTM(1, 4), gain=0.05)
    with torch.no_grad():
        module.bias_ih_l0[4:8] = 6.0
    spectrum = sx.lyapunov_spectrum(sx.Recurrent(module, 0.1 * seeded(500, 1)), steps=400, settle=100)
    assert spectrum.exponents.shape == (8,)
    remembered = math.log(torch.tensor(6.0).sigmoid())
    assert spectrum.exponents[:4].numpy() == pytest.approx(remembered, abs=0.03)  # four cells, kept by about σ(6) a step
    assert (spectrum.exponents[4:] < -1).all()  # four hidden units, which hold nothing


def rank_modulo(matrix: list[list[int]], prime: int) -> int:
    """The rank of an integer matrix over the integers modulo a prime, by elimination."""
    rows, rank = [row[:] for row in matrix], 0
    for column in range(len(rows[0])):
        pivot = next((i for i in range(rank, len(rows)) if rows[i][column] % prime), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        inverse = pow(rows[rank][column], -1, prime)
        rows[rank] = [entry * inverse % prime for entry in rows[rank]]
        for i in range(rank + 1, len(rows)):
            factor = rows[i][column]
            rows[i] = [(a - factor * b) % prime for a, b in zip(rows[i], rows[rank], strict=True)]
        rank += 1
    return rank


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("every", [1, "auto"])
def test_minus_infinities_of_a_relu_network_are_counted_exactly(seed, every):
    """Finite exponents = rank of D_T W … D_1 W. Weights are multiples of 1/64, so that the rank is taken in integer arithmetic."""
    prime, size, settle = 2**61 - 1, 12, 20
    network = seeded_module(nn.RNN(2, size, nonlinearity="relu"), gain=1.0, seed=seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_((weight * 64).round() / 64)
    inputs = seeded(120, 2, seed=seed)
    fires = network(inputs)[0] > 0
    weight = [[int(entry) for entry in row] for row in (network.weight_hh_l0 * 64).tolist()]
    product = [[int(i == j) for j in range(size)] for i in range(size)]
    for alive in fires[settle:].tolist():
        rows = [row if on else [0] * size for row, on in zip(weight, alive, strict=True)]
        product = [
            [sum(a * b for a, b in zip(row, column, strict=True)) % prime for column in zip(*product, strict=True)] for row in rows
        ]
    rank = rank_modulo(product, prime)
    assert 0 < rank < size
    spectrum = sx.lyapunov_spectrum(sx.Recurrent(network, inputs), steps=100, settle=settle, every=every)
    assert spectrum.rank == rank
    assert int((spectrum.exponents == -math.inf).sum()) == size - rank
    assert spectrum.status != "diverged"


def test_the_user_s_module_is_left_alone():
    """Results carry no graph though the weights want gradients; dtype, mode, gradients and weights stay as they were."""
    module = nn.GRU(2, 5, dropout=0.0).train()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    spectrum = sx.lyapunov_spectrum(sx.Recurrent(module, seeded(60, 2)), check=True)
    tensors = [getattr(spectrum, name) for name in spectrum.layout] + [spectrum.check.rate]
    assert not any(t.requires_grad for t in tensors)
    assert spectrum.exponents.dtype == torch.float64
    assert module.training
    for name, p in module.named_parameters():
        assert p.requires_grad and p.grad is None and p.dtype == torch.float32
        assert torch.equal(p, before[name])


def test_an_ensemble_is_a_loop_over_its_networks():
    """Four GRUs in one run have the spectra that each has alone."""
    modules = [seeded_module(nn.GRU(2, 5), seed=i) for i in range(4)]
    inputs = seeded(300, 2)
    together = sx.lyapunov_spectrum(sx.Recurrent(modules, inputs), steps=200, settle=100)
    assert together.exponents.shape == (4, 5)
    for i, module in enumerate(modules):
        alone = sx.lyapunov_spectrum(sx.Recurrent(module, inputs), steps=200, settle=100)
        assert together.exponents[i].numpy() == pytest.approx(alone.exponents.numpy(), abs=1e-7)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_an_item_of_a_batch_is_a_run_of_its_own(kind):
    """Three input sequences in one run: each has the spectrum it has alone, for the batched and the unbatched input."""
    module, inputs = seeded_module(kind(2, 5)), seeded(300, 3, 2)
    together = sx.lyapunov_spectrum(sx.Recurrent(module, inputs), steps=200, settle=100, every=4)
    for i in range(3):
        alone = sx.lyapunov_spectrum(sx.Recurrent(module, inputs[:, i]), steps=200, settle=100, every=4)
        assert together.exponents[i].numpy() == pytest.approx(alone.exponents.numpy(), abs=1e-7)
        assert together.stderr[i].numpy() == pytest.approx(alone.stderr.numpy(), rel=1e-4)


def test_the_check_of_a_driven_gru_is_its_leading_exponent():
    """Two nearby trajectories under the same inputs separate at λ₁, without any derivative.

    A dense product begun from their own first direction tells their rate to 1e-8 a step, what both rounding and curvature are at a
    distance of 1e-8; from the first tangent of the frame it tells λ₁ to rounding.
    """
    module, inputs = seeded_module(nn.GRU(2, 16), gain=3.0), seeded(600, 2)
    spectrum = sx.lyapunov_spectrum(sx.Recurrent(module, inputs), steps=500, settle=100, check=True)
    jacobians = module_jacobians(module, inputs)
    away = torch.randn(16, 1, dtype=torch.float64, generator=torch_generator(0, "twin trajectory")).numpy()
    assert float(spectrum.check.rate) == pytest.approx(*dense_exponents(jacobians, 100, away), abs=1e-7)
    assert float(spectrum.exponents[0]) == pytest.approx(*dense_exponents(jacobians, 100, same_frame(16)[:, :1]), abs=1e-13)
    error = math.hypot(spectrum.stderr[0], spectrum.check.stderr)
    assert abs(spectrum.exponents[0] - spectrum.check.rate) < 3 * error
