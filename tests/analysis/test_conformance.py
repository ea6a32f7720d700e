"""Every analysis keeps the promises that all of them make."""

import inspect

import pytest
import torch

import separatrix as sx


@pytest.mark.parametrize("name", sx.tables.ANALYSES)
def test_an_analysis_gives_a_frozen_result_with_a_status_for_each_item(name):
    sx.testing.check_analysis(sx.tables.ANALYSES[name])


@pytest.mark.parametrize("name", sx.tables.ANALYSES)
def test_an_analysis_refuses_an_empty_batch_and_what_is_no_seed_in_a_line(name):
    """Where a batch is asked for, at least one state; a seed is a number, which True is not."""
    analysis = sx.tables.ANALYSES[name]
    with pytest.raises(sx.errors.InputError, match=r"\(0, 2\)"):
        analysis(sx.classic.henon(), torch.zeros(0, 2))
    assert "seed" in inspect.signature(analysis).parameters
    for seed in (True, -1, 2**63):
        with pytest.raises(sx.errors.InputError, match="seed is"):
            analysis(sx.classic.henon(), seed=seed)
