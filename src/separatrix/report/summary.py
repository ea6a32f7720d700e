"""summary.json: the headline numbers of every portrait, in machine-readable form."""

import json
import math
from collections.abc import Mapping
from typing import Any

from separatrix.core.result import versions
from separatrix.portrait.portrait import Portrait


def summary_json(portraits: Mapping[str, Portrait], title: str, extra: Mapping[str, Mapping[str, Any]]) -> str:
    """Title, versions and, by name, `Portrait.numbers` and the extra facts; infinities and NaN are strings."""
    numbers = {name: {**portrait.numbers(), "facts": dict(extra.get(name, {}))} for name, portrait in portraits.items()}
    summary = {"title": title, "versions": versions(), "portraits": numbers}
    return json.dumps(jsonable(summary), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def jsonable(value: Any) -> Any:
    """The value with everything that JSON cannot represent converted to strings."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, str | int) else str(value)
