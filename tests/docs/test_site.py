"""docs as a site, what in it is made, and its links."""

from __future__ import annotations

import html
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from docs.make import commands, errors, events, figures, rooms
from docs.make.drawing import mark
from imgstored.imports.state import KEPT, TRANSITIONS, End, Kept
from tests.docs.pages import PAGES, ROOT, blocks
from tests.support.browser import Browser

PICTURES = ROOT / "docs" / "pictures"
FIGURES = figures.read((ROOT / "docs" / "figures.json").read_text())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-f", "docs/mkdocs.yml", "--strict", "-d", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_it_has_every_page_and_nothing_from_elsewhere(site):
    for page in PAGES:
        if page != "README.md":
            assert (site / Path(page).with_suffix(".html").name).exists()
    for made in site.rglob("*.html"):
        # Styles, scripts, fonts and pictures; a link that people may follow is another matter.
        loaded = re.findall(
            r"""<(?:script|img|iframe)[^>]* src="(\S+?)"|<link[^>]* href="(\S+?)\"""", made.read_text()
        )
        for one, other in loaded:
            assert not (one or other).startswith(("http:", "https:", "//")), f"{made.name}: {one or other}"
    assert not list(site.rglob("*.py"))
    # The search works where the site is opened as files: the index is in a script, and no worker is needed.
    assert (site / "search" / "search_index.js").read_text().startswith("var __index = {")
    first = (site / "first-session.html").read_text()
    assert 'src="site/iframe-worker.js"' in first
    copied = [html.unescape(each) for each in re.findall(r' data-copy="([^"]*)"', first)]
    assert len(copied) == sum(block.language == "console" for block in blocks("docs/first-session.md"))
    assert copied[2].splitlines() == [
        "imgctl avail",
        "imgctl avail os=linux -o uuid,name",
        "imgctl import --dry-run incremental",
    ]
    assert '<td data-column="meaning">' in (site / "configuration.html").read_text()


@pytest.mark.slow
def test_the_search_works_without_a_server(site, tmp_path):
    """In a real browser, which lets a page that is a file start no worker."""
    with Browser(tmp_path) as browser:
        browser.screen(1280)
        browser.open(f"{site.as_uri()}/index.html?q=receive_resume_token")
        found = browser.evaluate("""new Promise((found) => {
            const look = () => {
                const links = [...document.querySelectorAll("a.md-search-result__link")];
                links.length ? found(links.map((each) => each.href)) : setTimeout(look, 50);
            };
            look();
        })""")
    assert any("architecture.html" in link or "zstream-resume.html" in link for link in found), found


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 320])
def test_no_page_scrolls_sideways(site, tmp_path, width):
    pages = sorted(site.glob("*.html"))
    assert len(pages) > len(PAGES) - 2
    with Browser(tmp_path) as browser:
        browser.screen(width)
        browser.open("data:text/html,<p style='width:500px'>wide</p>")
        assert browser.too_wide() == [f"508 of {width} pixels", "P  wide"]
        wide = {}
        for page in pages:
            browser.open(page.as_uri())
            wide[page.name] = browser.too_wide()
    assert {name: found for name, found in wide.items() if found} == {}


@pytest.mark.slow
def test_it_is_dark_where_the_readers_system_is(site, tmp_path):
    """At each visit: what the first one found must not decide for all."""
    with Browser(tmp_path) as browser:
        for dark in (False, True, False):
            browser.screen(1280, dark=dark)
            browser.open(f"{site.as_uri()}/index.html")
            scheme = browser.evaluate("document.body.getAttribute('data-md-color-scheme')")
            assert scheme == ("slate" if dark else "default")


def test_what_is_copied_are_the_commands_alone():
    hooks = runpy.run_path(str(ROOT / "docs" / "make" / "hooks.py"))
    session = "$ cat > f <<END\n> a\n>\n> b\n> END\nprinted\n$ imgctl list\n"
    assert hooks["typed"](session) == "cat > f <<END\na\n\nb\nEND\nimgctl list"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    text = re.sub(r"(?ms)^ *```.*?^ *```$", "", PAGES[page])
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:")):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{page}: {target}"


def anchors(path: Path) -> set[str]:
    """What the headings of a page are called by links."""
    headings = re.findall(r"(?m)^#+ (.*)$", path.read_text())
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_every_page_is_in_the_sites_menu():
    menu = (ROOT / "docs" / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    assert {f"docs/{name}" for name in re.findall(r": ([\w-]+\.md)$", menu, re.MULTILINE)} == PAGES.keys() - {
        "README.md"
    }


# -- what is made --------------------------------------------------------------------------------------------


def test_the_page_of_commands_is_up_to_date():
    assert PAGES["docs/commands.md"] == commands.page(), "run `python -m docs.make`"


def test_the_page_of_errors_is_up_to_date():
    assert PAGES["docs/errors.md"] == errors.page(), "run `python -m docs.make`"


def test_the_page_of_events_is_up_to_date_and_has_all_of_the_code():
    assert PAGES["docs/events.md"] == events.page(), "run `python -m docs.make`"
    in_code = re.findall(
        r'(?m)^    event: Literal\["([^"]+)"\]$', (ROOT / "ctl" / "imgproto" / "events.py").read_text()
    )
    assert sorted(events.kinds()) == sorted(in_code)


def test_every_error_of_the_code_has_its_row():
    codes = re.findall(r'(?m)^    code = "([^"]+)"$', (ROOT / "imgstored" / "errors.py").read_text())
    assert set(re.findall(r"(?m)^\| `(\w+)` \|", PAGES["docs/errors.md"])) == {*codes, "InternalError"}


@pytest.mark.parametrize("page", ["README.md", "docs/benchmarks.md", "docs/deltas.md"])
def test_the_tables_of_figures_are_those_of_the_file(page):
    assert figures.page(PAGES[page], FIGURES) == PAGES[page], "run `python -m docs.make`"
    assert "<!-- figures: " in PAGES[page]


@pytest.mark.parametrize("bench", FIGURES)
def test_the_plots_are_of_these_figures(bench):
    svg = (PICTURES / f"{bench}.svg").read_text()
    assert svg == figures.plot(FIGURES, bench), "run `python -m docs.make`"
    drawn = ET.fromstring(svg)
    assert_dark(svg)
    measured = sum(" s" in row[1] and " s" in row[2] for row in FIGURES[bench])
    bars = [each for each in drawn if each.tag.endswith("rect") and each.get("x")]
    assert len(bars) > measured


def test_figures_of_a_bench_take_the_place_of_the_same_case():
    printed = (
        "| case | ours: median (min–max) | peer: median (min–max) | ratio | goal |  |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| gzip, unlimited | 9 s (8–10) | 20 s (19–21) curl \\| gzip -dc | 0.45 | ≤ 0.8 | ok |\n"
        "| a new case | 1 s |  |  |  |  |\n"
    )
    rows = figures.merged(FIGURES, "bench", printed)["bench"]
    assert len(rows) == len(FIGURES["bench"]) + 1
    changed = [row for row, old in zip(rows, FIGURES["bench"], strict=False) if row != old]
    assert changed == [
        ["gzip, unlimited", "9 s (8–10)", r"20 s (19–21) curl \| gzip -dc", "0.45", "≤ 0.8", "ok"]
    ]
    assert rows[-1] == ["a new case", "1 s", "", "", "", ""]


def test_what_is_written_is_read_again():
    assert figures.read(figures.written(FIGURES)) == FIGURES


def test_a_row_with_a_cell_too_few_is_refused():
    with pytest.raises(ValueError, match="6 cells"):
        figures.read(json.dumps({"bench": [["gzip", "1 s"]]}))


def test_the_picture_of_the_rooms_is_up_to_date():
    assert (PICTURES / "rooms.dot").read_text() == rooms.picture(), "run `python -m docs.make`"


def test_the_plot_of_the_fleet():
    svg = (PICTURES / "fleet.svg").read_text()
    assert svg == figures.fleet((ROOT / "docs" / "fleet.json").read_text()), "run `python -m docs.make`"
    ET.fromstring(svg)


@pytest.mark.parametrize("source", sorted(PICTURES.glob("*.dot")), ids=lambda path: path.stem)
def test_a_picture_is_of_its_text(source):
    svg = source.with_suffix(".svg").read_text()
    assert mark(source.read_text()) in svg, "run `python -m docs.make`"
    ET.fromstring(svg)
    assert_dark(svg)


def assert_dark(svg: str) -> None:
    """Each colour of the ground and of text has another one where a page is dark."""
    rules = svg.partition("<style>@media (prefers-color-scheme: dark)")[2].partition("</style>")[0]
    for each in {*re.findall(r'<text[^>]* (fill="[^"]*")', svg), 'fill="white"'}:
        assert f"[{each}]" in rules, each


def test_the_picture_of_the_phases_has_the_transitions_of_the_code():
    drawn = set(re.findall(r"\b([a-z]+) -> ([a-z]+)\b", (PICTURES / "phases.dot").read_text()))
    assert drawn == {(before, after) for before, all_ in TRANSITIONS.items() for after in all_}


def test_the_table_of_what_an_end_keeps_is_that_of_the_code():
    words = {"kept": True, "dropped": False, "is the image": True}
    after = {"forgotten": (False, False), "resumes": (True, True), "waits for a request": (True, False)}
    rows = re.findall(
        r"(?m)^\| [^|]+ \| `([A-Z_]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", PAGES["docs/architecture.md"]
    )
    told = {
        End[end]: Kept(words[partial], words[download], *after[restart])
        for end, partial, download, restart in rows
    }
    assert told == KEPT
