"""The main job: on which side of the border a recurrent network is."""

from separatrix.analyze.analyze import analyze
from separatrix.analyze.portrait import Portrait, RecurrentPortrait

__all__ = ["Portrait", "RecurrentPortrait", "analyze"]
