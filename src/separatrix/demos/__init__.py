"""Built-in demos of the main job: networks trained on real data, each with a control."""

from separatrix.demos.demo import Demo
from separatrix.demos.digits import digits
from separatrix.demos.residual import residual

DEMOS = {"digits": digits, "residual": residual}

__all__ = ["DEMOS", "Demo", "digits", "residual"]
