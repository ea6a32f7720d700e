"""A report is whole, self-contained and true, or it is not there."""

import json
import math
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

import separatrix as sx
from separatrix.analysis.depth.profile import DepthProfile
from separatrix.core.errors import InputError
from separatrix.core.result import Status
from separatrix.core.wording import measured
from separatrix.plot.style import shows_something
from separatrix.portrait import Portrait, analyze
from separatrix.portrait.findings import QUESTIONS, Question
from separatrix.portrait.verdict import why_not_converged
from separatrix.report import page as drawing
from separatrix.report import refuse_existing, write_report
from separatrix.report.table import headline_rows
from separatrix.report.views import VIEWS, view_of

VOID = {"meta", "link", "br", "hr", "img", "input"}
ALSO = ("fixed_points", "covariant_lyapunov_vectors")
FACTS = {"trained": {"Test accuracy": "97 %"}, "untrained twin (control)": {"Test accuracy": "10 %", "Epochs": "<0>"}}


class Page(HTMLParser):
    """A page taken apart: every tag opened must be closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def network_and_data(gain: float) -> tuple[nn.RNN, torch.Tensor]:
    torch.manual_seed(0)
    network, data = nn.RNN(3, 12, batch_first=True), 0.3 * torch.randn(12, 8, 3)
    with torch.no_grad():
        network.weight_hh_l0.mul_(gain)
    return network, data


@pytest.fixture(scope="module")
def portraits() -> dict[str, Portrait]:
    trained, untrained = (analyze(*network_and_data(gain), copies=3, steps=200, also=ALSO) for gain in (6, 1))
    return {"trained": trained, "untrained twin (control)": untrained}


@pytest.fixture
def without_page(monkeypatch):
    """Where only the folder matters, its page need not be drawn."""
    monkeypatch.setattr(drawing, "render", lambda *_: "<p>page</p>")


@pytest.fixture(scope="module")
def report(portraits, tmp_path_factory) -> Path:
    return write_report(portraits, tmp_path_factory.mktemp("place") / "report", title="Digits & <rows>", extra=FACTS)


@pytest.fixture(scope="module")
def html(report) -> str:
    return (report / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


# ---------------------------------------------------------------- the folder


def test_the_folder_holds_page_results_and_summary_and_nothing_else(report):
    assert sorted(entry.name for entry in report.iterdir()) == ["report.html", "results.zarr", "summary.json"]
    assert [entry.name for entry in report.parent.iterdir()] == ["report"], "something was left beside it"


def test_each_portrait_comes_back_from_its_group(report, portraits):
    for name, portrait in portraits.items():
        loaded = sx.load(report / "results.zarr" / name)
        assert loaded.verdict == portrait.verdict and loaded.settings == portrait.settings
        torch.testing.assert_close(loaded.spectrum.exponents, portrait.spectrum.exponents, rtol=0, atol=0)
        torch.testing.assert_close(loaded.plane, portrait.plane, rtol=0, atol=0)


def test_the_results_are_one_zarr_hierarchy(report, portraits):
    import zarr

    group = zarr.open_group(report / "results.zarr", mode="r")
    assert sorted(group.group_keys()) == sorted(portraits)


def test_the_summary_says_the_numbers_of_each_portrait(report, portraits):
    summary = json.loads((report / "summary.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert summary["title"] == "Digits & <rows>"
    assert summary["versions"]["separatrix"] == sx.__version__
    assert list(summary["portraits"]) == list(portraits)
    for name, portrait in portraits.items():
        said = summary["portraits"][name]
        assert said["lambda_1_nats_per_step"] == portrait.lambda_1[0]
        assert said["exponents_nats_per_step"] == portrait.pooled.exponents.tolist()
        assert said["facts"] == FACTS[name]


def test_the_summary_is_valid_json_with_infinities_and_nan(portraits, tmp_path, without_page):
    portrait = portraits["trained"]
    exponents = portrait.pooled.exponents.clone()
    exponents[-1] = -math.inf
    odd = replace(
        portrait,
        pooled=replace(portrait.pooled, exponents=exponents, stderr=torch.full_like(exponents, math.nan)),
        settings={**portrait.settings, "error": math.inf, "lags": (1, math.nan)},
    )
    out = write_report({"odd": odd}, tmp_path / "out", title="")
    said = json.loads((out / "summary.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)["portraits"]["odd"]
    assert said["exponents_nats_per_step"][-1] == "-inf" and said["lambda_1_stderr"] == "nan"
    assert said["settings"]["error"] == "inf" and said["settings"]["lags"] == [1, "nan"]


def test_missing_parents_are_made(portraits, tmp_path, without_page):
    out = write_report({"a": portraits["trained"]}, tmp_path / "deep" / "down", title="t")
    assert (out / "report.html").exists()


# ---------------------------------------------------------------- what stands in the way


def test_an_existing_folder_is_refused(portraits, tmp_path):
    with pytest.raises(InputError, match=r"already exists\. Choose another --out, or pass --overwrite\."):
        write_report(portraits, tmp_path, title="t")
    with pytest.raises(InputError, match="already exists"):
        refuse_existing(tmp_path)
    (tmp_path / "file").touch()
    for name in ("file/out", "n" * 300):
        with pytest.raises(InputError, match=r"cannot hold the report: .*Choose another --out\.$"):
            refuse_existing(tmp_path / name)
    refuse_existing(tmp_path / "deep" / "down")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"], "asking leaves nothing behind"
    refuse_existing(tmp_path / "new")


def test_an_earlier_report_is_replaced_when_asked(portraits, tmp_path, without_page):
    out = write_report(portraits, tmp_path / "out", title="first")
    write_report({"only": portraits["trained"]}, out, title="second", overwrite=True)
    assert json.loads((out / "summary.json").read_text(encoding="utf-8"))["title"] == "second"
    assert [entry.name for entry in (out / "results.zarr").iterdir() if entry.is_dir()] == ["only"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("held", [["thesis.tex"], ["summary.json", "thesis.tex"], ["report.html"]])
def test_a_folder_that_is_not_only_a_report_is_never_replaced(portraits, tmp_path, held):
    out = tmp_path / "mine"
    out.mkdir()
    for name in held:
        (out / name).write_text("years of work")
    with pytest.raises(InputError, match="left unchanged"):
        write_report(portraits, out, title="t", overwrite=True)
    assert {entry.name: entry.read_text() for entry in out.iterdir()} == dict.fromkeys(held, "years of work")


def test_files_and_links_are_never_replaced(portraits, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name in ("file", "link"):
        with pytest.raises(InputError, match="not a folder"):
            write_report(portraits, tmp_path / name, title="t", overwrite=True)
    with pytest.raises(InputError, match="cannot hold the report"):
        write_report(portraits, tmp_path / "file" / "out", title="t")
    assert (tmp_path / "file").read_text() == "mine" and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_behind(portraits, tmp_path, monkeypatch, failure):
    def fail(*_):
        raise failure("in the middle")

    monkeypatch.setattr(drawing, "render", fail)
    with pytest.raises(failure):
        write_report(portraits, tmp_path / "deep" / "out", title="t")
    assert not list(tmp_path.iterdir())


def test_a_failure_keeps_the_earlier_report(portraits, tmp_path, monkeypatch, without_page):
    out = write_report({"a": portraits["trained"]}, tmp_path / "out", title="first")
    before = (out / "summary.json").read_bytes()
    rename = Path.rename

    def fail_once(self, target):
        if Path(target) == out and self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(KeyboardInterrupt):
        write_report(portraits, out, title="second", overwrite=True)
    assert (out / "summary.json").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "a\\b", "../up", ".hidden", "__zarr", "tab\t"])
def test_a_name_that_cannot_be_a_folder_is_refused(portraits, tmp_path, name):
    with pytest.raises(InputError, match="cannot name a portrait"):
        write_report({name: portraits["trained"]}, tmp_path / "out", title="t")
    assert not list(tmp_path.iterdir())


def test_no_portrait_and_facts_about_nobody_are_refused(portraits, tmp_path):
    with pytest.raises(InputError, match="at least 1 portrait"):
        write_report({}, tmp_path / "out", title="t")
    with pytest.raises(InputError, match="facts about 'somebody'"):
        write_report(portraits, tmp_path / "out", title="t", extra={"somebody": {}})


# ---------------------------------------------------------------- the page


def test_the_page_loads_nothing_from_anywhere(html, page):
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in {"src", "href", "xlink:href", "action", "data", "poster", "srcset"}:
                assert value is not None and value.startswith(("#", "data:")), f"<{tag} {name}={value!r}>"
    assert not page.all("script") and not page.all("iframe") and not page.all("object")
    assert not re.search(r"@import|@font-face", html)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    policy = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_the_page_is_well_formed_and_its_ids_are_unique(page):
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name in ("href", "xlink:href"):
            target = attributes.get(name) or ""
            assert not target.startswith("#") or target[1:] in ids, f"{target} leads nowhere"


def test_the_page_says_title_verdicts_and_facts(page, portraits):
    assert "Digits & <rows>" in page.words
    for portrait in portraits.values():
        word, _, rest = portrait.verdict.partition(": ")
        assert word in page.words and rest in page.words
        for sentence in (*portrait.advice, *portrait.did):
            assert " ".join(sentence.split()) in page.words
    assert "Test accuracy 97 % 10 %" in page.words and "Epochs – <0>" in page.words


def test_the_side_is_told_by_a_mark_and_a_word_not_only_by_colour(page):
    assert re.search("▲ chaotic", page.words) and re.search("▼ ordered", page.words)


def test_the_table_says_the_numbers_with_errors_and_units(page, portraits):
    both = list(portraits.values())
    assert "Leading exponent λ₁ (nats per step)" in page.words
    for portrait in both:
        assert measured(*portrait.lambda_1) in page.words
        assert measured(*portrait.check) in page.words
        spread = measured(float(portrait.finite_time.mean()), float(portrait.finite_time.std(correction=0)))
        assert f"{spread} ± spread over 12 sequences of 8 steps" in page.words
        assert f"of {portrait.spectrum.dim} dimensions of the state" in page.words
    runs = [
        ", ".join(f"{(p.spectrum.codes == s).sum()} {w}" for s, w in WORDS if (p.spectrum.codes == s).any() or s == 0) for p in both
    ]
    assert f"number by outcome {' '.join(runs)}" in page.words


WORDS = ((Status.OK, "ok"), (Status.NOT_CONVERGED, "not converged"), (Status.DIVERGED, "diverged"))


def test_every_figure_is_there_with_words_for_those_who_cannot_see_it(page, portraits):
    drawings = page.all("svg")
    found = [result for portrait in portraits.values() for result in portrait.findings.values()]
    findings = sum(shows_something(result.plot()) for result in found)
    assert findings == len(found) - 1, "the covariant vectors of one network have no angle, which words say"
    assert len(drawings) == 1 + 1 + 5 * 2 + findings, "the border, the compared spectra, five figures of each portrait, findings"
    assert all(drawing["role"] == "img" and len(drawing["aria-label"]) > 40 for drawing in drawings)
    headings = "Lyapunov spectrum|Convergence|Two-trajectory check|Gradient propagation|Finite-time exponents|Phase portrait"
    order = "|".join(
        f"({heading})" for heading in (headings + "|What to change|What was done|How to reproduce|Glossary").split("|")
    )
    body = page.words[page.words.index("Figures Lyapunov spectrum") :]
    places = [body.index(heading) for heading in re.findall(r"\(([^)]+)\)", order)]
    assert places == sorted(places)


def test_each_finding_is_a_section_with_its_words_and_its_figure(page, portraits):
    assert tuple(portraits["trained"].findings) == ALSO
    for name, result in portraits["trained"].findings.items():
        assert f"{QUESTIONS[name].heading} {' '.join(QUESTIONS[name].caption.split())}" in page.words
        assert all(" ".join(line.split()) in page.words for line in result.summary().splitlines())


def test_a_new_finding_is_one_entry_in_the_table(portraits, tmp_path, monkeypatch):
    """Any Result that says itself in words and has a picture: nothing in the report knows which."""
    ask = lambda subject: sx.gradient_propagation(subject.system, lags=(1, 2, 4))  # noqa: E731
    question = Question(heading="Heading", caption="How to read it.", drive="common", ask=ask, is_quick=lambda _: False)
    monkeypatch.setitem(QUESTIONS, "further", question)
    portrait = analyze(*network_and_data(1), copies=2, steps=60, also="further")
    out = write_report({"a": portrait, "b": portraits["trained"]}, tmp_path / "out", title="t")
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    said = "; ".join(portrait.findings["further"].summary().splitlines())
    assert "Heading How to read it. a " + " ".join(said.split()) in page.words
    assert sx.load(out / "results.zarr" / "a").findings["further"].summary() == portrait.findings["further"].summary()
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["portraits"]["a"]["findings"]["further"]["lags"] == [1, 2, 4]
    assert "sx.analyze(model, inputs, k=12, copies=2, steps=60, settle=12, also=['further'], seed=0)" in page.words


def test_a_finding_that_failed_is_a_line_of_its_section(portraits, tmp_path):
    portrait = replace(portraits["trained"], findings={}, unanswered={"fixed_points": "no <b>guess</b> was usable"})
    page = Page((write_report({"a": portrait}, tmp_path / "out", title="t") / "report.html").read_text(encoding="utf-8"))
    assert "failed: no <b>guess</b> was usable" in page.words and not page.all("b")
    assert len(page.all("svg")) == 1 + 1 + 5
    assert sx.load(tmp_path / "out" / "results.zarr" / "a").unanswered == portrait.unanswered


def test_the_page_says_how_to_reproduce(page, portraits):
    settings = portraits["trained"].settings
    assert "sx.load('results.zarr/trained')" in page.words
    assert "model = ... # your RNN inputs = ... # its inputs sx.analyze(" in page.words
    assert (
        f"sx.analyze(model, inputs, k=12, copies=3, steps=200, settle={settings['settle']}, also={[*ALSO]}, seed=0)" in page.words
    )
    for name, version in portraits["trained"].versions.items():
        assert name in page.words and version in page.words


def test_the_printed_call_measures_the_same_again(page, portraits):
    (call,) = re.findall(r"sx\.analyze\((.*?)\)", page.words)
    model, inputs = network_and_data(6)
    again = eval(f"analyze({call})", {"analyze": analyze, "model": model, "inputs": inputs})
    torch.testing.assert_close(again.spectrum.exponents, portraits["trained"].spectrum.exponents, rtol=0, atol=0)


def test_the_printed_call_keeps_the_tolerance_and_the_steps_that_were_asked(portraits, tmp_path):
    """With a tolerance a run goes on: to print the steps it took would make the next one longer."""
    portrait = analyze(*network_and_data(6), copies=2, steps=100, settle=10, error=0.05, also="none")
    assert portrait.spectrum.steps > 100
    page = Page((write_report({"a": portrait}, tmp_path / "out", title="t") / "report.html").read_text(encoding="utf-8"))
    (call,) = re.findall(r"sx\.analyze\((.*?)\)", page.words)
    model, inputs = network_and_data(6)
    again = eval(f"analyze({call})", {"analyze": analyze, "model": model, "inputs": inputs})
    assert again.settings == portrait.settings
    torch.testing.assert_close(again.spectrum.exponents, portrait.spectrum.exponents, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("tol", "error", "said"),
    [
        (None, 0.01, "not converged: the two halves of the run differ by more than chance"),
        (0.001, 0.01, "not converged: error bars above 0.001"),
        (0.1, 0.01, "not converged: the two halves of the run differ by more than chance"),
        (None, math.nan, "not converged: too few steps for an error bar"),
    ],
)
def test_the_page_says_why_a_run_did_not_converge(portraits, tol, error, said):
    spectrum = portraits["trained"].spectrum
    codes = torch.tensor([Status.OK, Status.NOT_CONVERGED, Status.OK], dtype=torch.int8)
    settings = {**spectrum.settings, "error": tol}
    odd = replace(spectrum, codes=codes, stderr=torch.full_like(spectrum.stderr, error), settings=settings)
    assert why_not_converged(odd) == said
    assert why_not_converged(replace(odd, codes=0 * codes)) == ""


def test_the_page_explains_its_words(page):
    for term in ("not converged", "−∞", "finite-time exponent"):
        assert term in page.words
    assert "two halves differ by more than chance" in page.words
    assert "erased to rounding" in page.words and "erased exactly" not in page.words
    assert "non-normal transient" in page.words


def test_words_of_the_user_are_escaped(portraits, tmp_path):
    portrait = portraits["trained"]
    hostile = "<b>&\"'"
    odd = replace(
        portrait, model=hostile, core=hostile, advice=(hostile,), did=(hostile,), settings={**portrait.settings, "module": hostile}
    )
    name = '<img src="x" onerror=alert(1)>'
    out = write_report({name: odd}, tmp_path / "out", title=hostile, extra={name: {hostile: hostile}})
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    assert not page.all("b") and not page.all("img")
    assert page.words.count("<b>&\"'") >= 7 and name in page.words
    assert sx.load(out / "results.zarr" / name).model == hostile


def test_an_autonomous_and_a_diverged_network_have_reports_too(portraits, tmp_path):
    rest = analyze(nn.GRUCell(2, 3), copies=3, steps=200, also="none")
    driven = portraits["trained"]
    nan = torch.full_like(driven.spectrum.exponents, math.nan)
    codes = torch.full_like(driven.spectrum.codes, int(Status.DIVERGED))
    spectrum = replace(driven.spectrum, codes=codes, exponents=nan, stderr=nan)
    pooled = replace(driven.pooled, codes=codes[0], exponents=nan[0], stderr=nan[0], runs=0, diverged=3)
    gone = replace(driven, spectrum=spectrum, pooled=pooled, codes=codes[0], verdict="diverged: the state left the finite numbers")
    page = Page(
        (write_report({"rest": rest, "gone": gone}, tmp_path / "out", title="t") / "report.html").read_text(encoding="utf-8")
    )
    assert "✕ diverged" in page.words and "0 ok, 3 diverged" in page.words
    assert "no sequences" in page.words and "1 attractor from 3 initial states" in page.words


@pytest.fixture(scope="module")
def deep() -> dict[str, Portrait]:
    torch.manual_seed(0)
    models = {name: nn.Sequential(*(nn.Linear(4, 4) for _ in range(depth))) for name, depth in (("shallow", 1), ("deep", 9))}
    return {name: analyze(model, torch.ones(6, 4), targets=torch.ones(6, dtype=torch.int64)) for name, model in models.items()}


def test_feed_forward_networks_have_the_same_page(deep, tmp_path):
    out = write_report(deep, tmp_path / "out", title="t", extra={"deep": {"Accuracy": "10 %"}})
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    for portrait in deep.values():
        word, _, rest = portrait.verdict.partition(": ")
        assert word in page.words and rest in page.words
        assert all(" ".join(line.split()) in page.words for line in (*portrait.advice, *portrait.did))
    assert "▼ vanishing" in page.words and "Layer by layer" in page.words and "Lyapunov" not in page.words
    assert len(page.all("svg")) == 1 + 2 + 2, "the comparison, and the growth and the sizes over the layers of each"
    assert "what lies above the line overflows in float16" in page.words
    assert "portrait.profile.to_dataset()" in page.words
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)["portraits"]["deep"]
    assert summary["side"] == "vanishing" and len(summary["layer_gain_factor"]) == 9 and summary["facts"] == {"Accuracy": "10 %"}


def test_the_printed_call_profiles_the_same_again(deep, tmp_path):
    out = write_report({"deep": deep["deep"]}, tmp_path / "out", title="t")
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    assert "targets = ... # its targets" in page.words
    assert "sx.analyze(model, inputs, targets=targets, k=4, copies=16, seed=0)" in page.words


def test_networks_of_both_kinds_stand_in_one_page(portraits, deep, tmp_path):
    out = write_report({"a": portraits["trained"], "b": deep["deep"]}, tmp_path / "out", title="t")
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    assert f"Leading exponent λ₁ (nats per step) decides the side {measured(*portraits['trained'].lambda_1)}" in page.words
    (leading,) = (
        row for row in headline_rows({"a": portraits["trained"], "b": deep["deep"]}, {}) if row.name.startswith("Leading")
    )
    assert leading.cells[1].value == "–"
    assert "order and chaos" in page.words and "the depth of the network" in page.words
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_every_kind_of_portrait_has_a_view_with_a_mark_for_every_verdict(portraits, deep):
    assert set(VIEWS) == {sx.results.RecurrentPortrait, sx.results.DepthPortrait}
    for portrait in (*portraits.values(), *deep.values()):
        assert portrait.side in view_of(portrait).marks
    told = set(re.findall(r'"([a-z-]+)"', DepthProfile.verdicts.fget.__doc__))
    assert told == set(VIEWS[sx.results.DepthPortrait].marks)


def test_the_same_portraits_give_the_same_bytes(report, portraits, tmp_path):
    again = write_report(portraits, tmp_path / "again", title="Digits & <rows>", extra=FACTS)
    for name in ("report.html", "summary.json"):
        assert (again / name).read_bytes() == (report / name).read_bytes()


def test_the_folder_has_the_rights_that_the_user_gives_to_new_folders(report):
    mask = os.umask(0)
    os.umask(mask)
    assert report.stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_feed_forward_network_of_which_every_input_diverges_has_a_report(tmp_path):
    huge = nn.Linear(2, 2).double()
    nn.init.constant_(huge.weight, 1e300)
    portrait = sx.analyze(nn.Sequential(huge, nn.Linear(2, 2).double(), huge), torch.ones(3, 2).double())
    page = Page((write_report({"huge": portrait}, tmp_path / "out", title="t") / "report.html").read_text(encoding="utf-8"))
    assert "✕ unknown" in page.words and "0 ok, 3 diverged" in page.words
