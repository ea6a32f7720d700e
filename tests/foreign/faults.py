"""What is known to go wrong still: (case, verb) → why. A case that is mended is taken out."""

FAULTS: dict[tuple[str, str], str] = {}
