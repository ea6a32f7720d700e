"""What is read as a number, a count, a choice or an input, and what is refused with its name and value."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from separatrix.core import checks
from separatrix.core.errors import InputError, ShapeError

NO_NUMBERS = ("2", None, [2], (), {}, 1 + 2j, True, np.True_, np.array([2, 3]), torch.tensor([2.0]), torch.tensor(True))
INTEGERS = (2, np.int8(2), np.int64(2), np.uint16(2))
REALS = (0.5, np.float16(0.5), np.float32(0.5), np.float64(0.5), Fraction(1, 2), torch.tensor(0.5), torch.tensor(0.5).double())


def message(call, error=InputError):
    """The message of the refusal, of at most two lines."""
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    text = str(caught.value)
    assert len(text.splitlines()) <= 2 and not text.endswith("\n")
    return text


@pytest.mark.parametrize("value", INTEGERS)
def test_whole_numbers_of_every_kind_become_an_int(value):
    for limits in ((), (2,), (0, 2), (None, 2)):
        found = checks.check_whole("steps", value, *limits)
        assert type(found) is int and found == 2


@pytest.mark.parametrize("value", [*NO_NUMBERS, 2.0, math.nan, math.inf, np.float64(2), Fraction(2), torch.tensor(2)])
def test_what_is_not_a_whole_number_is_refused_by_every_limit(value):
    for limits in ((), (1,), (0, 9)):
        said = message(lambda limits=limits: checks.check_whole("steps", value, *limits, error=ShapeError))
        assert said.startswith("steps is ") and "whole number" in said


def test_a_whole_number_out_of_range_is_named_with_its_limits():
    assert message(lambda: checks.check_whole("steps", 0, 1)) == "steps is 0; expected a whole number of at least 1."
    assert message(lambda: checks.check_whole("axis", np.int64(3), 0, 2)) == "axis is 3; expected a whole number from 0 to 2."
    said = message(lambda: checks.check_whole("dim", -1, 1, way_out="Pass dim.", error=ShapeError), ShapeError)
    assert said == "dim is -1; expected a whole number of at least 1.\nPass dim."


@pytest.mark.parametrize("value", REALS)
def test_real_numbers_of_every_kind_become_a_float(value):
    for check in (checks.check_number, checks.check_positive, checks.check_not_negative, checks.check_fraction):
        found = check("tol", value)
        assert type(found) is float and found == 0.5


@pytest.mark.parametrize("value", [*NO_NUMBERS, math.nan, math.inf, -math.inf, np.float32("nan"), torch.tensor(math.inf)])
def test_what_is_not_a_finite_number_is_refused(value):
    for check in (checks.check_number, checks.check_positive, checks.check_not_negative, checks.check_fraction):
        said = message(lambda check=check: check("tol", value))
        assert said.startswith("tol is ") and "expected a" in said


def test_the_limits_of_numbers():
    """0 is not positive and not negative; a fraction lies between its ends; integers are numbers."""
    assert checks.check_positive("dt", 3) == 3.0 and checks.check_not_negative("atol", 0) == 0.0
    assert message(lambda: checks.check_positive("dt", 0)) == "dt is 0; expected a positive number."
    assert message(lambda: checks.check_not_negative("atol", -0.5)) == "atol is -0.5; expected a number of at least 0."
    assert message(lambda: checks.check_number("label", math.nan)) == "label is nan; expected a finite number."
    for end in (0, 1.0):
        assert message(lambda end=end: checks.check_fraction("tol", end)) == f"tol is {end}; expected a number in (0, 1)."
    assert checks.check_number("slope", 0, 0, 1, "[)") == 0.0 and checks.check_number("slope", 1, 0, 1, "(]") == 1.0
    assert message(lambda: checks.check_number("slope", 1, 0, 1, "[)")).endswith("expected a number in [0, 1).")
    assert message(lambda: checks.check_number("slope", 0, 0, 1, "(]", way_out="Pass 1.")).endswith("in (0, 1].\nPass 1.")


def test_a_choice_is_one_of_those_named():
    checks.check_choice("method", "rk4", {"rk4": 1, "euler": 2})
    checks.check_choice("gradient", None, (None, "adjoint"))
    checks.check_choice("dtype", torch.float32, (torch.float32, torch.float64))
    for value in ("rk5", "RK4", "", None, 4, 1.5, True, ["rk4"], np.array(["rk4", "euler"]), torch.zeros(2), {}):
        said = message(lambda value=value: checks.check_choice("method", value, ("rk4", "euler")))
        assert said == f"method is {value!r}; expected 'rk4' or 'euler'."
    said = message(lambda: checks.check_choice("kind", "d", iter("abc"), way_out="Pass a function."))
    assert said == "kind is 'd'; expected 'a', 'b' or 'c'.\nPass a function."
    assert message(lambda: checks.check_choice("kind", "d", "a")) == "kind is 'd'; expected 'a'."


@pytest.mark.parametrize("seed", [0, 7, np.int32(7), 2**63 - 1])
def test_seeds(seed):
    assert type(checks.check_seed(seed)) is int and checks.check_seed(seed) == seed


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, *NO_NUMBERS])
def test_what_cannot_seed_a_generator_is_refused(seed):
    assert message(lambda: checks.check_seed(seed)).startswith("seed is ")


@pytest.mark.parametrize("values", [[1, 2], (1.0, 2.0), np.array([1, 2], np.float32), torch.tensor([1, 2]), [True, 2]])
def test_arrays_and_lists_become_numbers(values):
    found = checks.as_numbers("weights", values)
    assert found.dtype == torch.float64 and found.tolist() == [1.0, 2.0]


def test_numbers_keep_their_dtype_and_their_graph():
    for dtype in (torch.int32, torch.float16, torch.complex64, torch.bool):
        assert checks.as_numbers("x0", torch.ones(2, dtype=dtype), None).dtype == dtype
    leaf = torch.ones(2, requires_grad=True)
    assert checks.as_numbers("x0", leaf, None) is leaf and checks.as_numbers("x0", leaf).requires_grad


@pytest.mark.parametrize("values", ["near 0", None, ["a"], [[1, 2], [3]], {"a": 1}, True, object(), np.array([None, 1])])
def test_what_cannot_be_read_as_numbers_is_refused_with_its_value(values):
    for dtype in (torch.float64, None):
        said = message(lambda dtype=dtype: checks.as_numbers("x0", values, dtype))
        assert said.startswith("x0 ") and repr(values)[:60].splitlines()[0] in said


def test_complex_numbers_are_refused_where_real_ones_are_expected():
    values = torch.ones(2, dtype=torch.complex64)
    for read in (checks.as_numbers, checks.as_inputs):
        said = message(lambda read=read: read("x0", values))
        assert "x0" in said and "complex64" in said
    message(lambda: checks.as_numbers("x0", [1 + 2j]))


def test_inputs_are_floating_point_and_finite():
    assert checks.as_inputs("the inputs", [[1, 2]]).dtype == torch.float64
    assert checks.as_inputs("the inputs", torch.ones(2)).dtype == torch.float32
    said = message(lambda: checks.as_inputs("the inputs", [[1.0, math.nan], [math.inf, 2.0]]))
    assert said.startswith("2 of 4 numbers of the inputs are not finite, the first at [0, 1].\nClean")


def test_numbers_that_are_not_finite_are_counted():
    checks.check_all_finite("x0", torch.ones(3))
    checks.check_all_finite("x0", torch.ones(3, dtype=torch.int64))
    said = message(lambda: checks.check_all_finite("x0", torch.tensor([0.0, -math.inf]), ""))
    assert said == "1 of 2 numbers of x0 are not finite, the first at [1]."
    said = message(lambda: checks.check_all_finite("x0", torch.tensor(math.nan), "Pass a number."))
    assert said == "1 of 1 numbers of x0 are not finite.\nPass a number."


def test_long_values_are_cut_to_one_line():
    said = message(lambda: checks.check_whole("steps", torch.zeros(40, 40), 1))
    assert said.startswith("steps is a Tensor, tensor([[0.") and len(said) < 160


@pytest.mark.parametrize("value", ["yes", 1, 0, None, torch.tensor(True)])
def test_a_flag_is_true_or_false_and_nothing_else(value):
    assert message(lambda: checks.check_flag("full", value)).endswith("; expected True or False.")
    assert checks.check_flag("full", True) is True and checks.check_flag("full", False) is False
