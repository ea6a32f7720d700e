"""Built-in demos of the main job: networks trained on real data, each with a control."""

from collections.abc import Callable

from separatrix.core.errors import ModelError
from separatrix.demos.demo import Demo
from separatrix.demos.digits import digits
from separatrix.demos.residual import residual

DEMOS = {"digits": digits, "residual": residual}


def demo_named(name: str) -> Callable[..., Demo]:
    """The function that makes a demo.

    Raises:
        ModelError: no demo has this name.
    """
    if name not in DEMOS:
        raise ModelError(f"unknown demo {name!r}.\nChoose from: {', '.join(f'demo:{known}' for known in DEMOS)}.")
    return DEMOS[name]


__all__ = ["DEMOS", "Demo", "demo_named", "digits", "residual"]
