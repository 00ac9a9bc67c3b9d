"""docs/sessions.md is what terminals show; and what a recording is made of."""

from __future__ import annotations

import html
import re
from itertools import zip_longest
from xml.etree import ElementTree as ET

import pytest

from docs.make.recording import Frame, moving, screen, thinned
from tests.docs import film, terminals
from tests.docs.pages import matches


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_page_is_what_terminals_show():
    _, shown = terminals.parts(terminals.PAGE.read_text())
    # How wide a column of free space is depends on the machine.
    shown, now = (re.sub(" {2,}", " ", text) for text in (shown, terminals.page()))
    lines = [*zip_longest(shown.splitlines(), now.splitlines(), fillvalue="")]
    assert [pair for pair in lines if not matches(*pair)] == [], "run `python -m tests.docs.terminals`"


@pytest.mark.parametrize("name", terminals.TERMINALS)
def test_no_table_is_wider_than_its_terminal(name):
    """Lines for people are wrapped by the terminal; a table's would be unreadable."""
    columns, _ = terminals.TERMINALS[name]
    for block in terminals.PAGE.read_text().split(f"{name[:1].upper()}{name[1:]}:\n\n```text\n")[1:]:
        for line in block.partition("\n```")[0].splitlines():
            if "  " in line.strip() and not line.startswith((" ", "$", "# ", '"')) and ":  " not in line:
                if "  # " in line:
                    continue  # TOML with a comment
                assert len(line) <= columns, line


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        ("a\r\nb\r\n", ["a", "b"]),
        ("10%\r20%\r      \rdone\n", ["done"]),
        ("\x1b[31mred\x1b[m\n", ["red"]),
        ("abc\r\x1b[Kx", ["x"]),
        ("one\ntwo\n\x1b[2A\rONE\n\n\n", ["ONE", "two"]),
        ("abcdef", ["abcd", "ef"]),
        ("ab\b\bx", ["xb"]),
    ],
)
def test_a_terminal_shows(written, lines):
    assert screen(written, 4 if written == "abcdef" else 80) == lines


def test_a_recording_has_each_frame_for_its_time():
    frames = thinned(
        [Frame(0.0, ("$ a",)), Frame(0.01, ("$ ab",)), Frame(0.5, ("$ ab",)), Frame(1.0, ("<b>&",))], 0.1
    )
    assert frames == [Frame(0.0, ("$ ab",)), Frame(1.0, ("<b>&",))]
    picture = ET.fromstring(moving(frames, 20, "A title"))
    texts = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["$ ab", "<b>&"]
    style = "".join(each.text or "" for each in picture.iter("{http://www.w3.org/2000/svg}style"))
    assert "#f0{animation:k0 5.00s step-end infinite}" in style
    assert "prefers-reduced-motion" in style


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_recording_is_of_what_imgctl_says(tmp_path):
    """The picture's last frame is the session as it goes today; how far the first import came is chance."""
    frames = film.filmed(tmp_path)
    now = list(frames[-1].lines)
    shown = [html.unescape(line) for line in film.texts(film.PICTURE.read_text())]
    first, second = (lines.index("$ imgctl import web") + 1 for lines in (shown, now))

    def sure(lines: list[str], start: int) -> list[str]:
        """Without the bar that Ctrl-C ended, and how much there was already."""
        again = lines.index("$ imgctl import web", start)
        rest = [re.sub(r"[\d.]+ MiB of", "... MiB of", line) for line in lines[again:]]
        return [*lines[: start + 3], *rest]

    assert sure(shown, first) == sure(now, second), "run `python -m tests.docs.film`"
    assert any(line.startswith("Resuming image") for line in shown)
    # Ctrl-C removes the bar, and says what is kept.
    for lines in (shown, now):
        assert not [line for line in lines if "%|" in line]
        assert any(re.match(r"imgctl: interrupted: [\d.]+ MiB kept of [\d.]+ MiB", line) for line in lines)
    assert len(frames) > 10
