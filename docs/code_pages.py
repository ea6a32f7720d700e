"""Pages with the code of the examples: what links to `../examples/NAME.py` in the repository links to such a page on the site."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

PAGE = """---
search:
  exclude: true
---
# `{name}.py`

```python
{code}```
"""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds one page for each script of the examples."""
    for script in sorted((Path(config.config_file_path).parent / "examples").glob("*.py")):
        content = PAGE.format(name=script.stem, code=script.read_text(encoding="utf-8"))
        place = f"examples/{script.stem}.md"
        files.append(File.generated(config, place, content=content, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Turns links to scripts into links to their pages."""
    return re.sub(r"\]\(\.\./examples/(\w+)\.py\)", r"](examples/\1.md)", markdown)
