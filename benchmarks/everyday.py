"""`sx.analyze` of a language model as a person calls it: seconds to the verdict and to the whole default report."""

import sys
import time

import torch
from torch import nn

import separatrix as sx
from timing import Row

TOKENS, SEQUENCES, LENGTH = 1_000, 64, 35
GOALS = {64: (5.0, 20.0), 256: (10.0, 40.0), 1_024: (30.0, 60.0)}


class LanguageModel(nn.Module):
    """Embedding, two layers of LSTM, and a readout."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, units)
        self.core = nn.LSTM(units, units, 2, batch_first=True)
        self.readout = nn.Linear(units, TOKENS)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of the next token."""
        return self.readout(self.core(self.embedding(tokens))[0])


def rows() -> list[Row]:
    """One call each; what is said last before the report is the verdict."""
    portrait, found = sys.modules["separatrix.portrait.analyze"] if sx.analyze else None, []
    for units, goals in GOALS.items():
        torch.manual_seed(0)
        model, tokens = LanguageModel(units), torch.randint(TOKENS, (SEQUENCES, LENGTH))
        said: list[float] = []
        say, portrait.to_stderr = portrait.to_stderr, lambda _, said=said: said.append(time.perf_counter())
        begun = time.perf_counter()
        try:
            sx.analyze(model, tokens, progress=True)
        finally:
            portrait.to_stderr = say
        ended = time.perf_counter()
        work = f"analyze a language model, LSTM {units} × 2, {SEQUENCES} sequences of {LENGTH} tokens"
        for what, seconds, goal in zip(("verdict", "report"), (said[-1] - begun, ended - begun), goals, strict=True):
            found.append(Row(f"{work}: {what}", seconds, "goal", goal, "s", floor=True, goal=1.0))
    return found
