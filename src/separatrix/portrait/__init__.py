"""The main job: on which side of the border a network lies."""

from separatrix.portrait.analyze import analyze
from separatrix.portrait.depth import DepthPortrait
from separatrix.portrait.portrait import Portrait, RecurrentPortrait

__all__ = ["DepthPortrait", "Portrait", "RecurrentPortrait", "analyze"]
