"""What a demo hands to the main job."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Demo:
    """Networks to portray side by side, under the same data.

    Args:
        title: of the report.
        models: by the name under which each is reported, the main one first.
        inputs: what the models take.
        facts: for each model, label → text, shown beside its verdict.
        targets: what the models should answer, one an input, for those measured in depth.
    """

    title: str
    models: dict[str, nn.Module]
    inputs: Any
    facts: dict[str, dict[str, str]]
    targets: Tensor | None = None
