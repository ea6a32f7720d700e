"""For the reference pages: `Limits:` and `Source:`, which close our docstrings, as paragraphs of their own."""

import re
from typing import Any

import griffe


class ClosingParagraphs(griffe.Extension):
    """Sets off what the Google form has no section for."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring:
            obj.docstring.value = set_off(obj.docstring.value)


def set_off(text: str) -> str:
    """An empty line before each closing paragraph, its name in bold, its continuation flush with it."""
    lines, closing = [], False
    for line in text.split("\n"):
        named = re.match(r"(Limits|Source): (.*)", line)
        closing = bool(named) or (closing and line.strip() != "")
        if named:
            lines += ["", f"**{named.group(1)}.** {named.group(2)}"]
        else:
            lines.append(line.strip() if closing else line)
    return "\n".join(lines)
