"""Whatever systems are made of, they keep the contract of systems."""

import torch
from hypothesis import given
from hypothesis import strategies as st

import separatrix as sx
from properties.strategies import SEEDS, classics, fewer, recurrents, systems, uniform


@given(systems(), SEEDS)
def test_a_composition_of_systems_conforms(system, seed):
    """Purity, batches, parameters, dtypes, tangents, starts, horizons, clocks: `check_system`, of systems wrapped at random."""
    sx.testing.check_system(system, seed=seed)


@fewer(8)
@given(SEEDS, st.sampled_from((0.0, 0.3)), st.sampled_from(("rk4", "dopri5")))
def test_a_section_of_an_oscillator_has_the_derivative_of_its_own_map(seed, offset, method):
    """A limit cycle of random shape and speed: items return each for itself, tangents are central differences of the return."""
    shape, speed = 1 + 0.3 * float(uniform(seed, 1)), 1.5 + float(uniform(seed + 1, 1)) / 2

    def field(x: torch.Tensor) -> torch.Tensor:
        p, q, r = x.unbind(-1)
        size = 1 - p**2 - q**2
        return torch.stack([shape * p * size - speed * q, shape * q * size + speed * p, -r + 0.2 * p], dim=-1)

    section = sx.Section(sx.Flow(field, 3, 0.3, method=method), axis=1, offset=offset, max_steps=100)
    x = torch.tensor([0.9, 0.1]).double() + 0.05 * uniform(seed + 2, 2, 2)
    value, pushed = section.pushforward(x, torch.eye(2).double().expand(2, 2, 2))
    h = 1e-5 * torch.eye(2).double()
    near = torch.cat([x[:, None] + h, x[:, None] - h], dim=1).reshape(-1, 2)
    after = section.step(near).reshape(2, 4, 2)
    torch.testing.assert_close(pushed, (after[:, :2] - after[:, 2:]) / 2e-5, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(value, torch.stack([section.step(one) for one in x]), rtol=1e-9, atol=1e-10)


@given(st.one_of(recurrents(), classics()), SEEDS, st.integers(0, 9))
def test_noise_and_drives_are_functions_of_the_step(system, seed, n):
    """Any order of calls, and another object of the same seed, give the same bits; another seed gives others."""
    noisy, again, other = (sx.Noisy(system, 0.1, seed=s) for s in (seed, seed, seed + 1))
    x = system.initial_state((*system.batch_shape,), seed).double()
    first = noisy.kick(x, n)
    for k in (n + 1, 0, n + 7):
        noisy.kick(x, k)
        again.kick(x, k)
    assert torch.equal(noisy.kick(x, n), first) and torch.equal(again.kick(x, n), first)
    assert not torch.equal(other.kick(x, n), first) and not torch.equal(noisy.kick(x, n + 1), first)
    if isinstance(system, sx.Recurrent) and (system.horizon is None or system.horizon > n):
        u = system.drive(n).clone()
        system.drive(0)
        assert torch.equal(system.drive(n), u)
