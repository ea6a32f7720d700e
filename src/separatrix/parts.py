"""Parts of which systems are made, for systems of your own: further base classes beside `System`, and closed forms by component."""

from separatrix.core.components import along_tangents, components
from separatrix.core.derived import Derived
from separatrix.core.driven import Driven

__all__ = ["Derived", "Driven", "along_tangents", "components"]
