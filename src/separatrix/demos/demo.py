"""The networks and data of a demo."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Demo:
    """Networks to measure side by side, on the same data.

    Args:
        title: title of the report.
        models: the networks by their names in the report, the main one first.
        inputs: inputs of the models.
        facts: for each model, label → text, shown beside its verdict.
        targets: one target per input, for models measured in depth.
    """

    title: str
    models: dict[str, nn.Module]
    inputs: Any
    facts: dict[str, dict[str, str]]
    targets: Tensor | None = None
