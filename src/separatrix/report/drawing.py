"""Figures as SVG drawings in the page."""

from collections.abc import Mapping

from markupsafe import Markup
from matplotlib.figure import Figure

from separatrix import plot
from separatrix.plot.style import shows_something
from separatrix.portrait.findings import QUESTIONS, Question
from separatrix.portrait.portrait import Portrait
from separatrix.report.view import Drawing, Section

NARROW = 6.0  # inches; a figure up to this width leaves room for another beside it


def drawn(figure: Figure, prefix: str) -> Markup:
    """A figure as SVG whose ids start with the prefix."""
    return Markup(plot.svg(figure, prefix=prefix))


def findings(portraits: Mapping[str, Portrait]) -> list[Section]:
    """A section for each further analysis of any portrait, with the results of all portraits."""
    return [
        _finding(name, question, portraits)
        for name, question in QUESTIONS.items()
        if any(name in portrait.findings or name in portrait.unanswered for portrait in portraits.values())
    ]


def _finding(name: str, question: Question, portraits: Mapping[str, Portrait]) -> Section:
    shown, widths = [], []
    for number, (who, portrait) in enumerate(portraits.items()):
        if name in portrait.findings:
            result = portrait.findings[name]
            figure, said = result.plot(), "; ".join(result.summary().splitlines()) + "."
            if shows_something(figure):
                widths.append(figure.get_figwidth())
                shown.append(Drawing(drawn(figure, f"{name}{number}"), who, said))
            else:
                shown.append(Drawing(None, who, said))
        elif name in portrait.unanswered:
            shown.append(Drawing(None, who, f"failed: {portrait.unanswered[name]}"))
    return Section(name, question.heading, question.caption, shown, is_wide=max(widths, default=0) > NARROW)
