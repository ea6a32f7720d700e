"""Embedded examples of the main job: a network trained on real data on the spot, and its untrained twin as control."""

from separatrix.demos.demo import Demo
from separatrix.demos.digits import digits

DEMOS = {"digits": digits}

__all__ = ["DEMOS", "Demo", "digits"]
