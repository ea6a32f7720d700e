"""The length of a run: defaults that respect the horizon of the system."""

from dataclasses import dataclass

from separatrix.core.checks import check_positive, check_whole
from separatrix.core.errors import InputError
from separatrix.core.evolve import check_steps, check_system_type
from separatrix.core.system import System

ENOUGH_TIME = 200  # units of time that a default run averages over
FINITE_TIME = 10  # units of time of a default run for a finite-time quantity
FEWEST, MOST = 2_000, 10_000  # range of the number of steps of a default run


@dataclass(frozen=True)
class Plan:
    """Steps to settle, steps to average over, and the maximum number of steps with a tolerance."""

    settle: int
    steps: int
    most: int


def plan_steps(
    system: System,
    *,
    steps: int | None = None,
    settle: int | None = None,
    error: float | None = None,
    max_steps: int | None = None,
) -> Plan:
    """Fill in defaults, within the steps that the system can take.

    Raises:
        InputError: a count is negative or zero, or the tolerance is not positive.
        HorizonError: there are more steps than the system can take.
        UnsupportedModuleError: `system` is not a System.
    """
    check_system_type(system)
    for name, count, least in (("steps", steps, 1), ("settle", settle, 0), ("max_steps", max_steps, 1)):
        if count is not None:
            check_whole(name, count, least)
    if error is not None:
        check_positive("error", error)
    room = system.horizon
    wanted = steps if steps is not None else min(max(round(ENOUGH_TIME / system.dt), FEWEST), MOST)
    if settle is None:
        settle = wanted // 5 if room is None else min(wanted // 5, room // 10 if steps is None else max(room - wanted, 0))
    if steps is None and room is not None:
        wanted = max(min(wanted, room - settle), 1)
    check_steps(system, settle=settle, steps=wanted)
    most = max_steps if max_steps is not None else 100 * wanted
    if most < wanted and max_steps is not None and steps is not None:
        raise InputError(f"max_steps is {most} but steps is {wanted}.\nPass max_steps of at least {wanted}, or fewer steps.")
    if room is not None:
        most = min(most, room - settle)
    return Plan(int(settle), int(min(wanted, most)), int(most if error is not None else min(wanted, most)))


def default_steps(system: System, settle: int = 0) -> int:
    """Steps of a run for a finite-time quantity: all that the system can take, or 10 units of time."""
    wanted = max(round(FINITE_TIME / system.dt), 1)
    return wanted if system.horizon is None else max(system.horizon - settle, 1)
