"""What is public, and where: a name has one place, and the door holds what a user types."""

from types import ModuleType

import separatrix as sx
from separatrix.core import errors

ROOMS = {
    "": sx,
    "bounds": sx.bounds,
    "errors": sx.errors,
    "nn": sx.nn,
    "nn.parts": sx.nn.parts,
    "parts": sx.parts,
    "results": sx.results,
    "tables": sx.tables,
    "testing": sx.testing,
    "training": sx.training,
}
AT_THE_DOOR_TOO = {"SeparatrixError", "certificate", "operator_norm"}  # the base of all errors; the main jobs of `sx.bounds`


def test_a_public_name_has_one_place():
    places: dict[str, list[str]] = {}
    for room, module in ROOMS.items():
        for name in module.__all__:
            if not isinstance(getattr(module, name), ModuleType):  # there are parts of systems and parts of networks
                places.setdefault(name, []).append(room)
    assert {name for name, rooms in places.items() if len(rooms) > 1} == AT_THE_DOOR_TOO


def test_the_door_and_the_networks_are_short_lists():
    """A new name belongs at the door only if users type it; results, errors, parts and tables have their rooms."""
    assert len(sx.__all__) <= 65
    assert len(sx.nn.__all__) <= 52


def test_these_are_all_rooms_behind_the_door():
    rooms = {name for name in sx.__all__ if isinstance(getattr(sx, name), ModuleType)}
    assert rooms == {room for room in ROOMS if room and "." not in room} | {"classic"}


def test_every_error_is_in_its_room_and_below_the_base():
    defined = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert set(sx.errors.__all__) == defined
    assert all(issubclass(getattr(sx.errors, name), sx.SeparatrixError) for name in defined)
