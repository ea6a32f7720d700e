"""The view of each kind of portrait."""

from collections.abc import Mapping

from separatrix.portrait.depth import DepthPortrait
from separatrix.portrait.portrait import Portrait, RecurrentPortrait
from separatrix.report.depth import DEPTH
from separatrix.report.recurrent import RECURRENT
from separatrix.report.view import View

VIEWS: dict[type[Portrait], View] = {RecurrentPortrait: RECURRENT, DepthPortrait: DEPTH}


def view_of(portrait: Portrait) -> View:
    """The view of a portrait's class."""
    return VIEWS[type(portrait)]


def by_view(portraits: Mapping[str, Portrait]) -> list[tuple[View, dict[str, Portrait]]]:
    """The portraits by view, in the order of the first portrait of each."""
    views = {id(view): view for view in map(view_of, portraits.values())}
    return [(view, {name: p for name, p in portraits.items() if view_of(p) is view}) for view in views.values()]
