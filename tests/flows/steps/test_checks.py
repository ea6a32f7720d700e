"""Unusable input is refused in at most two lines before a run begins."""

import pytest
import torch
from torch import nn

import separatrix as sx

X = torch.ones(3, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: sx.solve(nn.Tanh(), X, [0, 1], dt="x"), "dt is 'x'"),
        (lambda: sx.solve(nn.Tanh(), X, [0, 1], rtol="x"), "rtol is 'x'"),
        (lambda: sx.solve(None, X, [0, 1]), "of type NoneType"),
        (lambda: sx.solve(lambda x, t: x, X, [0, 1]), "with time_dependent=True"),
        (lambda: sx.solve(nn.Linear(3, 3).double(), X, [0, 1]), "states of shape"),
        (lambda: sx.solve(nn.Tanh(), X.long(), [0, 1]), "int64"),
        (lambda: sx.nn.NeuralODE(nn.Tanh(), 2, end="a"), "end is 'a'"),
        (lambda: sx.nn.ContinuousDepth(nn.Linear(2, 2), end="a"), "end is 'a'"),
        (lambda: sx.Flow(nn.Tanh(), 2, "a"), "dt is 'a'"),
        (lambda: sx.nn.damped(3), "got a int"),
        (lambda: sx.nn.fit_flow(nn.Linear(2, 2).double(), torch.zeros(99, 2, 3, dtype=torch.float64), 0.1), "states of shape"),
        (lambda: sx.depth_profile(sx.nn.Universal(nn.Tanh(), nn.Linear(2, 2)), X), "a Universal"),
    ],
)
def test_what_is_wrong_is_named(wrong, words):
    with pytest.raises(sx.SeparatrixError, match=words) as caught:
        wrong()
    assert len(str(caught.value).splitlines()) <= 2
