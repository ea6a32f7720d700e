"""What can go wrong, by kind. Line 1 of a message: the broken condition with both numbers. Line 2: what to do."""


class SeparatrixError(Exception):
    """Base of every error that Separatrix raises on purpose."""


class ShapeError(SeparatrixError, ValueError):
    """A tensor whose rank or width does not fit the system it was given to."""


class InputError(SeparatrixError, ValueError):
    """A value out of range: NaN in the inputs, k larger than the state, a file that is not numbers."""


class NoPictureError(InputError):
    """A Result of which there is no picture."""


class HorizonError(SeparatrixError, ValueError):
    """More steps asked than the system can take: its inputs, or its depth, end earlier."""


class ModelError(SeparatrixError):
    """A model that cannot be found, loaded or built."""


class UnsupportedModuleError(SeparatrixError, TypeError):
    """A module that has no meaning as the system asked for, or that cannot be differentiated."""


class DivergedError(SeparatrixError, ArithmeticError):
    """A run whose state or tangents left the finite numbers, raised only with `throw=True`."""


class NotConvergedError(SeparatrixError, ArithmeticError):
    """An estimate that did not reach its tolerance, raised only with `throw=True`."""


class ContradictionError(SeparatrixError, ArithmeticError):
    """A proven bound that a measurement exceeds: an error of this library, to be reported; no result is returned."""


class MissingExtraError(SeparatrixError, ImportError):
    """An optional library that is not installed; the message names the extra."""
