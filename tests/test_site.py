"""The site in a real browser, from disk: it loads, sorts, zooms, fits a phone and can be read without seeing it."""

import base64
import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser
from PIL import Image
from report_sample import METRICS, add_figures_and_curves, build
from study_sample import STUDY, make_project, run, write_study
from tiny import ROOT

from prologue.core.errors import PrologueError
from prologue.core.params_file import load_params
from prologue.report.comparison import compare
from prologue.report.study_page import findings, write_study_page
from prologue.studies.table import read_study
from prologue.studies.text import as_markdown

PAGES = {
    "index.html": "It worked: all 5 checks hold.",
    "studies/index.html": "Prologue has the best value, 323.5; not told from chance: 2D.",
    "studies/table1/index.html": "Failed: stage attach ended with status 1",
    "comparisons/main_vs_sharp/index.html": "sampling.cfg.visual.guidance",
}
PHONE = 360


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "project"
    make_project(folder)
    return folder


@pytest.fixture(scope="module")
def site(project: Path) -> Path:
    """reports/ with a page of every kind."""
    reports = project / "reports"
    add_figures_and_curves(project)
    build(project, load_params(ROOT / "params.yaml"), METRICS)
    (project / "index.html").rename(reports / "index.html")
    write_study(reports / "studies" / "table1")
    write_study_page(reports / "studies" / "table1")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        compare("main", "sharp", Path("reports/comparisons"), images=12)
    return reports


@pytest.mark.parametrize("page", PAGES)
def test_pages_load_from_disk_alone_and_without_complaint(browser: Browser, site: Path, page: str) -> None:
    browser.open(site / page)
    assert browser.requests
    assert [address for address in browser.requests if not address.startswith(("file:", "data:"))] == []
    assert browser.run("[...document.images].filter((image) => !image.naturalWidth).map((image) => image.alt)") == []
    assert browser.run("document.images.length") == {"i": 12, "s": 0, "c": 24}[page[0]] + page.count("table1")
    links = browser.run("[...document.links].filter((a) => a.protocol === 'file:').map((a) => a.pathname)")
    assert [link for link in links if not Path(link).is_file()] == []
    assert browser.errors == []


@pytest.mark.parametrize("page", PAGES)
def test_pages_fit_a_phone(browser: Browser, site: Path, page: str) -> None:
    browser.open(site / page, width=PHONE)
    browser.run("document.querySelectorAll('details').forEach((details) => details.open = true)")
    assert browser.run("document.documentElement.scrollWidth") <= PHONE


@pytest.mark.parametrize("page", PAGES)
def test_pages_say_everything_without_scripts(browser: Browser, site: Path, page: str) -> None:
    browser.open(site / page, scripts=False)
    assert PAGES[page] in browser.run("document.querySelector('main').innerText")
    assert browser.run("document.querySelectorAll('button, dialog').length") == 0
    assert browser.run("[...document.images].every((image) => image.naturalWidth)")


@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize("page", PAGES)
def test_pages_are_accessible(browser: Browser, site: Path, page: str, scripts: bool) -> None:
    browser.open(site / page, scripts=scripts)
    assert browser.run((Path(__file__).parent / "audit.js").read_text()) == []


def test_a_click_on_a_header_sorts_and_says_so(browser: Browser, site: Path) -> None:
    browser.open(site / "studies/table1/index.html")
    given = [row["label"] for row in STUDY["rows"]]
    header = "document.querySelectorAll('.results thead tr:last-child th')[2]"
    for direction, order in (
        ("ascending", ["Prologue", "1D", "2D", "Prologue-Post", "Prologue-OneStage"]),  # 1,352.6 is no 1
        ("descending", ["2D", "1D", "Prologue", "Prologue-Post", "Prologue-OneStage"]),
        (None, given),
    ):
        browser.run(f"{header}.querySelector('button').click()")
        assert browser.run(f"{header}.getAttribute('aria-sort')") == direction
        assert browser.run("[...document.querySelectorAll('.results tbody th')].map((th) => th.innerText)") == order
    browser.run(f"{header}.querySelector('button').focus()")
    browser.press("Enter")
    browser.run("document.querySelector('.results .sort').click()")
    assert browser.run("document.querySelectorAll('[aria-sort]').length") == 1


def test_groups_of_a_table_stay_together(browser: Browser, site: Path) -> None:
    browser.open(site / "comparisons/main_vs_sharp/index.html")
    headers = "[...document.querySelectorAll('#metrics ~ .scroll tbody')].map((body) => body.rows[0].innerText)"
    before = browser.run(headers)
    browser.run("document.querySelector('#metrics ~ .scroll .sort').click()")
    assert browser.run(headers) == before
    assert before[0] == "Evaluation of reconstruction"


@pytest.mark.parametrize("page", [page for page in PAGES if page != "studies/index.html"])
def test_pictures_zoom_by_keyboard(browser: Browser, site: Path, page: str) -> None:
    browser.open(site / page)
    for kind in ("img", "svg"):
        if not browser.run(f"!!document.querySelector('.zoom > {kind}')"):
            continue
        browser.run(f"document.querySelector('.zoom > {kind}').parentElement.focus()")
        browser.press("Enter")
        assert browser.run("document.querySelector('dialog').open")
        decoded = "document.querySelector('dialog img').decode().then(() => true)"
        assert browser.run(decoded)
        assert browser.run("document.querySelector('dialog img').alt.length") > 0
        browser.press("Escape")
        assert not browser.run("document.querySelector('dialog').open")
        assert browser.run(f"document.activeElement.firstElementChild.matches('{kind}')")
    assert browser.errors == []


def test_the_first_tab_stop_skips_to_the_content(browser: Browser, site: Path) -> None:
    browser.open(site / "index.html")
    browser.press("Tab")
    assert browser.run("document.activeElement.hash") == "#content"
    assert browser.run("document.activeElement.getBoundingClientRect().left") >= 0


def test_colours_have_contrast() -> None:
    css = (ROOT / "src/prologue/report/templates/site.css").read_text()
    schemes = re.findall(r":root \{(.+?)\}", css, re.DOTALL)
    assert len(schemes) == 2  # light and dark
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#\w{6});", scheme))
        for text in ("ink", "muted", "link", "good", "bad"):
            for ground in ("page", "soft"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def contrast(one: str, other: str) -> float:
    """Ratio of luminances as WCAG defines it."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_findings_name_the_best_row_and_the_papers_order(tmp_path: Path) -> None:
    write_study(tmp_path / "table1")
    study = read_study(tmp_path / "table1" / "study.json")
    assert list(findings(study).values()) == [
        "gFD (lite2), guided: Prologue has the best value, 323.5; not told from chance: 2D. "
        "1 of 2 pairs of rows that differ by more than chance stands in the paper's order.",
        "gFD (lite2), no guidance: Prologue is best with 334.6, before 1D with 390.2 (one seed, chance is not known).",
        "PSNR, dB: 2D is best with 22.41, before Prologue with 22.24 (one seed, chance is not known).",
    ]
    assert study.state == "3 of 5 runs done, 1 failed, 1 not run"


def test_rows_of_different_seeds_are_not_ranked(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"label": "2D", "runs": [{"seed": 0, "status": "done"}, {"seed": 1, "status": "done"}]},
        {"label": "Prologue", "runs": [{"seed": 0, "status": "done"}, {"seed": 1, "status": "not run"}]},
    ]
    rows[0] |= {"metrics": {"gfd": 341.8}, "spread": {"gfd": 9.1}}
    rows[1] |= {"metrics": {"gfd": 323.5}, "against_baseline": {"gfd": {"seeds": [0], "difference": -18.3}}}
    write_study(tmp_path / "table1", rows=rows, seeds=[0, 1], baseline="2D")
    page = write_study_page(tmp_path / "table1").read_text()
    assert findings(read_study(tmp_path / "table1" / "study.json")) == {}
    assert "(best)" not in page
    assert "of the rows of one seed small differences can be chance" in page
    assert "of one seed, so nothing tells it from chance" in page


def test_a_study_without_numbers_or_pictures_says_so(tmp_path: Path) -> None:
    write_study(
        tmp_path / "table1", rows=[{"label": row["label"], "runs": [{"status": "not run"}]} for row in STUDY["rows"]]
    )
    for picture in (tmp_path / "table1").glob("curve.*"):
        picture.unlink()
    page = write_study_page(tmp_path / "table1").read_text()
    assert "Nothing to compare yet" in page
    assert "Not drawn: there is no curve.png" in page
    assert "0 of 5 runs done, 5 not run" in (tmp_path / "index.html").read_text()


def test_a_bad_study_names_the_file_and_the_key(tmp_path: Path) -> None:
    with pytest.raises(PrologueError, match=r"study\.json not found"):
        write_study_page(tmp_path)
    write_study(tmp_path / "table1", rows=[{"label": "2D", "runs": [{"status": "maybe"}]}])
    with pytest.raises(PrologueError, match=r"study\.json holds no study: rows\.0\.runs\.0\.status"):
        write_study_page(tmp_path / "table1")


def test_committed_pages_are_what_todays_code_writes(tmp_path: Path) -> None:
    committed, written = ROOT / "reports" / "studies", tmp_path / "studies"
    shutil.copytree(committed, written, ignore=shutil.ignore_patterns("rows"))
    for path in sorted(written.glob("*/study.json")):
        write_study_page(path.parent)
        (path.parent / "table.md").write_text(as_markdown(read_study(path)))
    for path in sorted(written.rglob("*.*")):
        assert path.read_bytes() == (committed / path.relative_to(written)).read_bytes(), path


def test_the_committed_list_names_every_committed_study() -> None:
    studies = ROOT / "reports" / "studies"
    linked = re.findall(r'<h2[^>]*><a href="([^"]+)"', (studies / "index.html").read_text())
    assert linked == [f"{study.parent.name}/index.html" for study in sorted(studies.glob("*/study.json"))]
    assert all((studies / page).is_file() for page in linked)


def test_a_comparison_shows_what_differs(site: Path) -> None:
    page = (site / "comparisons/main_vs_sharp/index.html").read_text()
    text = " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL).split())
    assert re.search(
        r"Of \d+ metrics that both measured, main is better on 0, sharp on 1, of 1 the 95 % intervals overlap, \d+ are",
        text,
    )
    assert "sampling.cfg.visual.guidance 2.0 3" in text
    assert "353.5 [348.5, 358.5] 323.5 [318.5, 328.5] (better) -30" in text
    assert "406 [401, 411] 409 [404, 414] +3" in text
    assert "interval." not in text
    assert re.search(r"46\.5 40 -6\.5", text)  # the floor, of which neither value is better
    assert "evaluate_generation: cfg.samples_sha256 2.0 3" in text
    assert "The protocols differ" not in text
    assert page.count('alt="Sample 3, dress: main at the left, sharp at the right"') == 2


def test_a_pair_shows_the_same_sample_of_both(site: Path, project: Path) -> None:
    page = (site / "comparisons/main_vs_sharp/index.html").read_text()
    guided = page[: page.index("Without guidance")]
    source = re.findall(r'base64,([^"]+)" [^>]*alt="Sample 3,', guided)[0]
    pair = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))
    sharp = np.load(project / "data/samples/cfg.npz")["arr_0"][3].repeat(2, 0).repeat(2, 1)  # 32 px -> 64 px
    size = sharp.shape[1]
    assert (pair[:, -size:] == sharp).all()
    blurred = pair[:, :size]
    assert abs(blurred.mean() - sharp.mean()) < 3
    assert blurred.std() < sharp.std()


def test_a_comparison_goes_on_without_samples(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, "git", "clone", "-q", str(project), str(tmp_path / "clone"))
    clone = tmp_path / "clone"
    monkeypatch.chdir(clone)
    for path in clone.glob("reports/metrics/evaluate_generation.json"):
        path.write_text(path.read_text().replace('"neighbours": 3', '"neighbours": 5'))
    text = compare("main", "workspace", Path("reports/comparisons"), images=4).read_text()
    assert "the samples of main are neither in the cache nor on a remote" in text
    assert "The protocols differ</strong> in evaluate_generation: neighbours" in text
    assert "<img" not in text


def test_an_unknown_revision_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(PrologueError, match="there is no revision nothing"):
        compare("nothing", "workspace", Path("reports/comparisons"), images=4)
    with pytest.raises(PrologueError, match="at least 1 image"):
        compare("main", "workspace", Path("reports/comparisons"), images=0)
    monkeypatch.chdir("/")
    with pytest.raises(PrologueError, match="no DVC project"):
        compare("main", "workspace", Path("reports/comparisons"), images=4)
