"""Orbit diagrams against the logistic map's cycles and plain trajectories."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

import separatrix as sx
from separatrix.core.components import along_tangents


class Parabola(sx.System):
    """x ← r x (1 − x)."""

    def __init__(self, r: float | Tensor = 3.0) -> None:
        super().__init__(1, start=(0.4,))
        self.hold(r=r)

    def step(self, x: Tensor, n: int = 0) -> Tensor:
        return along_tangents(self.r) * x * (1 - x)


def test_the_logistic_map_has_the_periods_of_its_cascade_and_of_its_window():
    """1 up to 3, 2 up to 1 + √6, 4 up to 3.5441, 8 up to 3.5644; chaos at 4; period 3 from 1 + √8 = 3.8284 to 3.8415."""
    diagram = sx.orbit_diagram(Parabola(), "r", [2.8, 3.2, 3.5, 3.55, 3.9, 3.83])
    assert diagram.periods.tolist() == [1, 2, 4, 8, 0, 3]
    assert set(diagram.status) == {"ok"}


def test_the_states_are_those_of_the_cycles():
    r = torch.linspace(3.1, 3.4, 7, dtype=torch.float64)
    diagram = sx.orbit_diagram(Parabola(), "r", r, settle=3_000, steps=10)
    root = ((r + 1) * (r - 3)).sqrt()
    wanted = torch.stack([r + 1 - root, r + 1 + root]) / (2 * r)
    torch.testing.assert_close(diagram.states[..., 0].aminmax(dim=0).min, wanted[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(diagram.states[..., 0].aminmax(dim=0).max, wanted[1], rtol=0, atol=1e-10)


def test_one_batch_is_a_loop_over_the_values():
    x0 = torch.tensor([[0.2], [0.7]], dtype=torch.float64)
    whole = sx.orbit_diagram(Parabola(), "r", (2.9, 3.9, 5), x0, settle=50, steps=20)
    assert whole.states.shape == (20, 5, 2, 1) and whole.periods.shape == whole.codes.shape == (5, 2)
    for i, r in enumerate(whole.values.tolist()):
        alone = sx.trajectory(Parabola(r), x0, steps=19, settle=50)
        torch.testing.assert_close(whole.states[:, i], alone, rtol=0, atol=0)


def test_a_value_that_diverges_leaves_the_others_alone():
    diagram = sx.orbit_diagram(Parabola(), "r", [3.2, 4.5, 2.8], settle=100, steps=20, distinct=1e-4)
    assert diagram.status.tolist() == ["ok", "diverged", "ok"]
    assert diagram.periods.tolist() == [2, 0, 1] and diagram.states[:, 1].isnan().all()


def test_a_diagram_is_a_frozen_record_that_is_saved_and_read_again(tmp_path):
    diagram = sx.orbit_diagram(Parabola(), "r", (2.9, 3.9, 5), settle=50, steps=20)
    with pytest.raises(dataclasses.FrozenInstanceError):
        diagram.periods = diagram.codes
    again = sx.load(diagram.save(tmp_path / "d"))
    assert repr(again) == repr(diagram)
    torch.testing.assert_close(again.states, diagram.states, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("parameter", "values", "numbers"),
    [
        ("q", (1.0, 2.0, 3), "'q'.* r"),
        ("r", (1.0, math.nan, 3), "range of r is nan"),
        ("r", (2.0, 2.0, 3), "2.0 … 2.0"),
        ("r", (2.0, 3.0), r"\(low, high, count\).*\(2.0, 3.0\)"),
        ("r", (2.0, 3.0, 0), "count.* 0"),
        ("r", [], r"values? of r.*\(0,\)"),
        ("r", ["a"], "values of r"),
        ("r", [1.0, math.inf], "1 of 2 numbers of the values of r"),
    ],
)
def test_bad_values_are_refused_in_a_line(parameter, values, numbers):
    with pytest.raises(sx.errors.InputError, match=numbers):
        sx.orbit_diagram(Parabola(), parameter, values)


def test_throw_raises_for_orbits_that_diverge_or_have_not_settled():
    with pytest.raises(sx.errors.DivergedError, match=r"1 of 2 items.*\(1,\)"):
        sx.orbit_diagram(Parabola(), "r", [3.2, 4.5], throw=True)
    with pytest.raises(sx.errors.NotConvergedError, match=r"1 of 1 item.*\n.*settle=0"):
        sx.orbit_diagram(Parabola(), "r", [1.0], settle=0, throw=True)


def test_the_values_lie_along_the_axis_of_the_parameter():
    diagram = sx.orbit_diagram(Parabola(), "r", [2.8, 3.2, 3.5], settle=10, steps=10)
    assert diagram.to_dataset()["values"].dims == ("parameter",)


def test_an_array_cannot_be_varied():
    class Linear(sx.System):
        def __init__(self) -> None:
            super().__init__(2)
            self.hold(rank=2, W=torch.eye(2, dtype=torch.float64))

        def step(self, x: Tensor, n: int = 0) -> Tensor:
            return x @ self.W.mT

    with pytest.raises(sx.errors.InputError, match=r"'W'.*\(2, 2\)"):
        sx.orbit_diagram(Linear(), "W", [1.0])
