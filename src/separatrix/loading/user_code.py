"""Importing a user's module, and reporting errors inside it with the line in the user's code."""

import os
import re
import site
import sys
import sysconfig
import textwrap
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module, invalidate_caches
from importlib.util import module_from_spec, spec_from_file_location
from itertools import count
from pathlib import Path
from types import ModuleType

from separatrix.core.errors import ModelError

_PACKAGE = str(Path(__file__).parents[1])
_LIBRARIES = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")} | {site.getusersitepackages()})

# Note [siblings]: the siblings of a model file ("import layers") are imported under their plain names. A model in another
# folder may have a layers.py too, and would silently get the first one. So each load removes the siblings that the previous
# one imported; they stay until then, because pickle, inspect and late imports look up a module by its name.
_siblings: set[str] = set()


def import_file(path: Path) -> ModuleType:
    """The module of a .py file, under a unique name, so that it does not collide with another module of its name."""
    stem = re.sub(r"\W", "_", path.stem)
    name = next(name for n in count(1) if (name := f"separatrix_model_{stem}_{n}") not in sys.modules)
    spec = spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} is not a Python file.")
    module = sys.modules[name] = module_from_spec(spec)
    try:
        with blaming(f"{path} cannot be imported"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def import_dotted(name: str) -> ModuleType:
    """The module of a dotted name; ModuleNotFoundError if it does not exist."""
    with blaming(f"{name} cannot be imported", unless_missing=name):
        return import_module(name)


@contextmanager
def searching(*folders: Path) -> Iterator[None]:
    """Temporarily add folders to the import path. See Note [siblings]."""
    for name in _siblings:
        sys.modules.pop(name, None)
    _siblings.clear()
    before, added = set(sys.modules), [str(folder) for folder in folders if str(folder) not in sys.path]
    sys.path[:0] = added
    invalidate_caches()
    try:
        yield
    finally:
        for folder in added:
            with suppress(ValueError):
                sys.path.remove(folder)
        _siblings.update(name for name in set(sys.modules) - before if _root(name) in added)


def _root(name: str) -> str | None:
    """The folder of the top-level module or package of an imported name."""
    spec = getattr(sys.modules.get(name.partition(".")[0]), "__spec__", None)
    if spec is None or spec.name.startswith("separatrix_model_"):
        return None
    place = next(iter(spec.submodule_search_locations or ()), None) or spec.origin
    return place and os.path.dirname(place)


@contextmanager
def blaming(what: str, unless_missing: str = "") -> Iterator[None]:
    """Run a user's code: its errors become a ModelError with their class, their message and the line in the user's code."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{unless_missing}.".startswith(f"{error.name}."):
            raise
        raise ModelError(f"{what}: {_reason(error)}.\n{_way_out(error)}") from error


def _reason(error: BaseException) -> str:
    where = _line(error)
    at = f" ({where})" if where else ""
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({error.code!r}){at}"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    text = textwrap.shorten(text.replace("\n", " "), 240, placeholder=" …").rstrip(".")
    return f"{type(error).__name__}: {text}{at}" if text else f"{type(error).__name__}{at}"


def _line(error: BaseException) -> str:
    """The deepest line in the user's code; if there is none, the outermost line outside this package."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(error.filename)}, line {error.lineno}" if error.lineno else _shown(error.filename)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(("<", _PACKAGE + os.sep))]
    frames = [f for f in frames if f"{os.sep}importlib{os.sep}" not in f.filename]
    theirs = [f for f in frames if not f.filename.startswith(_LIBRARIES)]
    frame = theirs[-1] if theirs else frames[0] if frames else None
    return f"{_shown(frame.filename)}, line {frame.lineno}" if frame else ""


def _shown(file: str) -> str:
    return os.path.relpath(file) if file.startswith(os.getcwd() + os.sep) else file


def _way_out(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"Install {error.name or 'it'} into this environment ({sys.prefix}), or put it beside the file."
    if isinstance(error, ImportError) and "relative import" in str(error):
        return "Name the file as part of its package, package.module:factory, from the folder that holds the package."
    if isinstance(error, SystemExit):
        return 'Move the code of the script under `if __name__ == "__main__":`, and build the model in a function.'
    return "Correct that line, then try again."
