"""The main job: on which side of the border a network is."""

from separatrix.analyze.analyze import analyze
from separatrix.analyze.depth import DepthPortrait
from separatrix.analyze.portrait import Portrait, RecurrentPortrait

__all__ = ["DepthPortrait", "Portrait", "RecurrentPortrait", "analyze"]
