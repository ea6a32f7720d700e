"""Every analysis keeps the promises that all of them make."""

import pytest

import separatrix as sx


@pytest.mark.parametrize("name", sx.ANALYSES)
def test_an_analysis_gives_a_frozen_result_with_a_status_for_each_item(name):
    sx.testing.check_analysis(sx.ANALYSES[name])
