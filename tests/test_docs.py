"""What is written agrees with what is there: names, tables, code, options, links."""

import re
import runpy
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

import separatrix as sx

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
PROSE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def between(text: str, start: str, end: str) -> str:
    return textwrap.dedent(text.split(start)[1].split(end)[0].strip("\n").rsplit("\n", 1)[0])


def test_every_public_name_is_in_the_reference():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    rooms = (sx, sx.nn, sx.nn.parts, sx.bounds, sx.errors, sx.parts, sx.results, sx.tables, sx.training)
    missing = [name for room in rooms for name in room.__all__ if not re.search(rf"separatrix\.(\w+\.)*{name}\b", page)]
    assert missing == []


def check_tables(script: Path) -> int:
    """The exit code of `docs/tables.py --check`, run in this process."""
    return runpy.run_path(str(script))["main"](["--check"])


def test_the_tables_are_those_of_the_code(capsys):
    assert check_tables(ROOT / "docs" / "tables.py") == 0, capsys.readouterr().err


def test_tables_that_are_out_of_date_are_refused_in_one_line(tmp_path, capsys):
    script = (ROOT / "docs" / "tables.py").read_text(encoding="utf-8")
    for path in ("docs/api.md", "src/separatrix/__init__.pyi", "src/separatrix/results.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text((ROOT / path).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "docs" / "tables.py").write_text(script, encoding="utf-8")
    (tmp_path / "docs" / "tables.md").write_text("an older page", encoding="utf-8")
    assert check_tables(tmp_path / "docs" / "tables.py") == 1
    told = capsys.readouterr().err
    assert told.splitlines() == ["docs/tables.md is out of date with the tables; run: python docs/tables.py"]
    assert (tmp_path / "docs" / "tables.md").read_text(encoding="utf-8") == "an older page"


def test_every_system_and_analysis_is_in_the_tables():
    page = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert [
        name
        for name in (*sx.tables.SYSTEMS, *sx.tables.ANALYSES, *sx.tables.SWEEPS, *sx.tables.PROFILES)
        if f"| `{name}` |" not in page
    ] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 100


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_six_lines_under_the_picture_are_those_that_make_it(page):
    block = code_blocks(ROOT / page)[0]
    script = (ROOT / "examples" / "readme.py").read_text(encoding="utf-8")
    assert block.rstrip("\n") == between(script, "# [readme]", "# [/readme]")
    assert len([line for line in block.splitlines() if line]) == 6


def test_every_example_is_described_and_what_the_readme_points_to_is_there():
    described = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "examples").glob("*.py") if f"examples/{path.name}" not in described] == []
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in (*re.findall(r"\]\(((?:docs|examples|benchmarks)/[^)#]+)", text), "CONTRIBUTING.md"):
        assert (ROOT / path).exists(), path


def test_the_gallery_shows_the_picture_of_every_example_and_links_to_its_code():
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    scripts = {path.stem for path in (ROOT / "examples").glob("*.py")} - {"cifar10"}  # needs data that are not here
    assert set(re.findall(r"\]\(\.\./examples/(\w+)\.py\)", page)) == scripts
    pictures = re.findall(r"!\[\]\((assets/[^)]+)\)\{ width=", page)
    assert {Path(picture).stem for picture in pictures} == scripts
    assert [picture for picture in pictures if not (ROOT / "docs" / picture).exists()] == []


def test_the_reference_values_are_the_same_in_readme_and_documentation():
    tables = [
        (ROOT / place).read_text(encoding="utf-8").split("<!-- reference-values -->")[1].split("<!-- /reference-values -->")[0]
        for place in ("README.md", "docs/benchmarks.md")
    ]
    assert tables[0] == tables[1]
    assert len(tables[0].strip().splitlines()) > 10


@pytest.mark.parametrize("page", [page for page in PAGES if code_blocks(page)], ids=named)
def test_the_code_on_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace: dict[str, object] = {"__name__": "page"}
    for number, block in enumerate(code_blocks(page), 1):
        exec(compile(block, f"{named(page)}, block {number}", "exec"), namespace)
    capsys.readouterr()
    plt.close("all")


def test_every_option_of_analyze_is_in_the_documentation_of_the_command_line():
    from separatrix.cli import VERBS, command_of

    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    commands = {verb: command_of(verb) for verb in VERBS}
    options = {name for command in commands.values() for p in command.params for name in p.opts if name.startswith("--")}
    assert sorted(option for option in options - {"--help"} if option not in page) == []
    assert sorted(name for name in commands if f"`separatrix {name}`" not in page) == []


@pytest.mark.parametrize("page", PROSE, ids=named)
def test_a_page_links_to_no_other_host_and_names_no_machine(page):
    text = page.read_text(encoding="utf-8")
    hosts = re.findall(r"https?://([^/\s)\"'>]+)", text)
    assert [host for host in hosts if host not in {"arxiv.org", "doi.org"}] == []
    assert re.findall(r"(?<![\w.])/(?:home|work|tmp|root|Users|mnt)/\S*", text) == []


@pytest.mark.parametrize("folder", ["src", "examples", "benchmarks", "docs", "tests"])
def test_no_script_holds_a_path_of_one_machine(folder):
    for path in (ROOT / folder).rglob("*.py"):
        found = re.findall(r"[\"'](/(?:home|work|root|Users|mnt)/[^\"']*)", path.read_text(encoding="utf-8"))
        assert found == [], named(path)
