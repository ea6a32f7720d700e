"""Which view shows which kind of portrait."""

from collections.abc import Mapping

from separatrix.portrait.depth import DepthPortrait
from separatrix.portrait.portrait import Portrait, RecurrentPortrait
from separatrix.report.depth import DEPTH
from separatrix.report.recurrent import RECURRENT
from separatrix.report.view import View

VIEWS: dict[type[Portrait], View] = {RecurrentPortrait: RECURRENT, DepthPortrait: DEPTH}


def view_of(portrait: Portrait) -> View:
    """How a portrait is shown: as its class is."""
    return VIEWS[type(portrait)]


def by_view(portraits: Mapping[str, Portrait]) -> list[tuple[View, dict[str, Portrait]]]:
    """The portraits of each kind, in the order of the first of each."""
    views = {id(view): view for view in map(view_of, portraits.values())}
    return [(view, {name: p for name, p in portraits.items() if view_of(p) is view}) for view in views.values()]
