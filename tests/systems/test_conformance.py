"""Every system that is listed by name holds to the contract of systems, and to that of the list."""

import pytest
import torch

from separatrix.core.evolve import trajectory
from separatrix.core.system import System
from separatrix.systems import SYSTEMS
from separatrix.testing import check_system


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_listed_system_conforms(name):
    check_system(SYSTEMS[name]())


@pytest.mark.parametrize("name", SYSTEMS)
def test_building_a_listed_system_twice_gives_the_same_bits_and_draws_on_no_global_generator(name):
    before = torch.get_rng_state()
    first, again = (trajectory(SYSTEMS[name](), None, 20) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_listed_system_moves_and_stays_finite(name):
    orbit = trajectory(SYSTEMS[name](), None, 60)
    assert torch.isfinite(orbit).all()
    assert (orbit[1:] - orbit[:-1]).abs().amax() > 1e-3


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_listed_system_is_described_in_one_line(name):
    assert isinstance(SYSTEMS[name](), System)
    line = (SYSTEMS[name].__doc__ or "").split("\n")[0]
    assert 10 < len(line) < 120 and line.endswith(".")
