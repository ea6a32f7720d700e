"""The errors that Separatrix raises on purpose, all below `SeparatrixError`."""

from separatrix.core.errors import (
    ContradictionError,
    DivergedError,
    HorizonError,
    InputError,
    MissingExtraError,
    ModelError,
    NoPictureError,
    NotConvergedError,
    SeparatrixError,
    ShapeError,
    UnsupportedModuleError,
)

__all__ = [
    "ContradictionError",
    "DivergedError",
    "HorizonError",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "NoPictureError",
    "NotConvergedError",
    "SeparatrixError",
    "ShapeError",
    "UnsupportedModuleError",
]
