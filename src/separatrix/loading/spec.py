"""The grammar of MODEL: `path/to/file.py:factory`, `package.module:factory` or `torchvision:resnet18`."""

import ast
import os
from pathlib import Path

from separatrix.core.errors import ModelError
from separatrix.loading.finding import contents, existing_file, listed

FORMS = "path/to/file.py:factory, package.module:factory or torchvision:resnet18"


def split_spec(spec: str) -> tuple[str, str]:
    """The two halves of a spec: the location, and the name in it. They meet at the last colon; a path may contain others."""
    location, _, attribute = spec.rpartition(":")
    if location and _is_dotted(attribute):
        return location, attribute
    for file in (spec, location):
        if file.endswith(".py") and os.path.isfile(file):
            names = _defined_by_text(Path(file))
            meaning = f"one of: {listed(names)}" if names else "a function that builds the network"
            raise ModelError(f"the model {spec!r} does not name a factory.\nWrite {file}:NAME, where NAME is {meaning}.")
    missing = "no file or module before the colon" if spec.startswith(":") else "no factory after a colon"
    raise ModelError(f"the model {spec!r} has {missing}.\nWrite {FORMS}.")


def file_of(location: str) -> Path | None:
    """The .py file that a location names; None if it is the dotted name of a module."""
    if location.endswith(".py"):
        return existing_file(Path(location), ModelError)
    if _is_dotted(location) and not os.path.isfile(location):
        return None
    if os.path.isdir(location):
        raise folder_error(location)
    if os.path.isfile(location):
        raise ModelError(f"{location} is not a .py file.\nWrite {FORMS}; pass a file of weights separately, as weights.")
    if os.path.isfile(location + ".py"):
        raise ModelError(f"{location} does not exist.\nDid you mean {location}.py?")
    raise ModelError(f"{location!r} is neither a .py file nor the dotted name of a module.\nWrite {FORMS}.")


def folder_error(location: str) -> ModelError:
    """The error for a folder in place of a file."""
    return ModelError(f"{location} is a folder, not a .py file.\nName a file in it. {contents(Path(location), '.py')}")


def _defined_by_text(path: Path) -> list[str]:
    """The functions and classes that a file defines, read without running it."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []
    names = [item.name for item in body if isinstance(item, ast.FunctionDef | ast.ClassDef)]
    return [name for name in names if not name.startswith("_")]


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))
