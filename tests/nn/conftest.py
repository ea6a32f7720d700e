"""Tests of blocks compile many of them."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def compile_anew() -> Iterator[None]:
    """All blocks share one `forward`, of which PyTorch keeps eight compiled versions at most."""
    yield
    torch.compiler.reset()
