"""A figure as inline SVG: one element for any page, beside others."""

import hashlib
import html
import io
import re

from matplotlib import rc_context, style
from matplotlib.figure import Figure

from separatrix.plot.style import LOOK

SETTINGS = {"svg.fonttype": "path", "svg.hashsalt": "separatrix", "svg.image_inline": True}
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
PIXELS_PER_INCH = 160  # of rasterised layers


def svg(figure: Figure, *, prefix: str | None = None) -> str:
    """Render a figure as one `<svg>` element for an HTML page: text as paths, no date, the figure's label for screen readers.

    The same figure gives the same text. Every id starts with `prefix`, so that one page can hold several figures.

    Args:
        figure: any Matplotlib figure; `figure.get_label()` describes it in words.
        prefix: prefix of the ids. Default: a digest of the drawing.
    """
    drawn = io.StringIO()
    with style.context(["default", LOOK]), rc_context(SETTINGS):
        figure.savefig(drawn, format="svg", dpi=PIXELS_PER_INCH, metadata=NO_METADATA)
    text = drawn.getvalue()
    text = text[text.index("<svg") :].strip()
    for dropped in (r"<!--.*?-->\s*", r"<metadata>.*?</metadata>\s*", r"<defs>\s*<style.*?</style>\s*</defs>\s*"):
        text = re.sub(dropped, "", text, flags=re.DOTALL)
    text = _with_prefix(text, prefix or "s" + hashlib.sha256(text.encode()).hexdigest()[:8])
    return _with_root(text, str(figure.get_label()))


def _with_prefix(text: str, prefix: str) -> str:
    """Add the prefix to ids that something refers to, and remove the others, Matplotlib's numbering of its artists."""
    used = {name for pair in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text) for name in pair}
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    return re.sub(r"""( id="|href="#|url\(#)""", rf"\g<1>{prefix}-", text)


def _with_root(text: str, label: str) -> str:
    """Replace the root element: it scales with the page, and sets the line joins that a style sheet would set page-wide."""
    root, rest = text.split(">", 1)
    width, view = re.search(r'width="([\d.]+)pt"', root), re.search(r'viewBox="[^"]*"', root)
    if not width or not view:
        raise RuntimeError("Matplotlib wrote an <svg> element without a size.")
    look = f"width:{float(width[1]) / 72:.3g}in;max-width:100%;height:auto;stroke-linejoin:round;stroke-linecap:butt"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} {view[0]} style="{look}" role="img" aria-label="{html.escape(label or "figure")}">{rest}'
