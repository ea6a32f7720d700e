"""Errors by kind. Line 1 of a message states the broken condition with both numbers; line 2 says what to do."""


class SeparatrixError(Exception):
    """Base class of all errors that Separatrix raises on purpose."""


class ShapeError(SeparatrixError, ValueError):
    """A tensor whose rank or width does not fit the system."""


class InputError(SeparatrixError, ValueError):
    """A value out of range: NaN in the inputs, k larger than the state, a file that does not hold numbers."""


class NoPictureError(InputError):
    """A result that has no figure."""


class HorizonError(SeparatrixError, ValueError):
    """More steps than the system can take: its inputs or its depth end earlier."""


class ModelError(SeparatrixError):
    """A model that cannot be found, loaded or built."""


class UnsupportedModuleError(SeparatrixError, TypeError):
    """A module that cannot serve as the requested system, or that cannot be differentiated."""


class DivergedError(SeparatrixError, ArithmeticError):
    """A run whose state or tangents are no longer finite; raised only with `throw=True`."""


class NotConvergedError(SeparatrixError, ArithmeticError):
    """An estimate that did not reach its tolerance; raised only with `throw=True`."""


class ContradictionError(SeparatrixError, ArithmeticError):
    """A measurement that exceeds a proven bound: an error in this library, please report it; no result is returned."""


class MissingExtraError(SeparatrixError, ImportError):
    """An optional dependency that is not installed; the message names the extra."""
