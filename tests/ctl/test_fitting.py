"""Tables fit the terminal, and are whole everywhere else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imgctl.fitting import Screen, cells, cut
from imgctl.run.usage import LINES, tree_lines
from imgctl.status_text import status_lines, top_lines
from imgctl.table import table

from tests.ctl.test_status import JOB as BUSY_JOB
from tests.ctl.test_status import status
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from tests.ctl.conftest import Command
    from tests.ctl.fake_daemon import FakeDaemon

U, V = (f"{number}dbbdcca-2eab-11e8-b925-23bf77789921" for number in (3, 4))
WIDE = "日本語の名前がここにあるのでとても長い"
ROWS = [
    {"uuid": U, "name": "base-64-lts", "version": "18.4.0", "os": "smartos", "type": "zone-dataset"},
    {"uuid": V, "name": WIDE, "version": "2026.11.28-a-very-long-version", "os": "linux", "type": "zvol"},
]
COLUMNS = ["uuid", "name", "version", "os", "type"]


# -- cells ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"),
    [("abc", 3), ("", 0), ("é", 1), ("e\u0301", 1), ("日本", 4), ("ﾊﾛ", 2), ("…", 1), ("🙂", 2), ("Ｗ", 2)],
)
def test_what_a_character_takes(text: str, count: int):
    assert cells(text) == count


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),  # half a character there is not
        ("abcd", 1, "…"),
        ("abcd", 0, ""),
        ("e\u0301e\u0301e\u0301", 2, "e\u0301…"),
    ],
)
def test_what_is_cut(text: str, limit: int, shown: str):
    assert cut(text, limit) == shown


def test_without_unicode_three_dots_say_it():
    assert cut("abcdef", 5, "...") == "ab..."
    assert table(ROWS, COLUMNS, screen=Screen(60, "..."))[2].startswith("4dbbdcca  日本語の名...")


# -- tables --------------------------------------------------------------------------------------------------


def test_where_there_is_room_nothing_is_cut():
    assert table(ROWS[:1], COLUMNS, screen=Screen(1000)) == table(ROWS[:1], COLUMNS)
    assert "…" not in "".join(table(ROWS, COLUMNS, screen=Screen(200)))


def test_names_are_cut_first_then_uuids_then_columns():
    def header(columns: int) -> list[str]:
        return table(ROWS, COLUMNS, screen=Screen(columns))[0].split()

    def first(columns: int) -> str:
        return table(ROWS, COLUMNS, screen=Screen(columns))[1].split()[0]

    assert (first(100), header(100)) == (U, [name.upper() for name in COLUMNS])
    assert (first(70), header(70)) == (U[:8], [name.upper() for name in COLUMNS])
    assert (first(40), header(40)) == (U[:8], ["UUID", "NAME", "VERSION"])


def test_fields_that_were_asked_for_stay():
    lines = table(ROWS, COLUMNS, screen=Screen(30), may_drop=False)
    assert lines[0].split() == [name.upper() for name in COLUMNS]


def test_what_is_least_wanted_is_dropped_first():
    def header(columns: int) -> list[str]:
        return table(ROWS, COLUMNS, screen=Screen(columns), drop=["version", "uuid"])[0].split()

    assert header(70) == ["UUID", "NAME", "VERSION", "OS", "TYPE"]
    assert header(52) == ["UUID", "NAME", "OS", "TYPE"]
    assert header(40) == ["NAME", "OS", "TYPE"]
    times = [{"when": "2025-06-15T15:06:40Z", "name": "n" * 30, "outcome": "installed"}]
    lines = table(times, ["when", "name", "outcome"], screen=Screen(31), drop=["size"])
    assert lines == ["WHEN        NAME       OUTCOME", "2025-06-15  nnnnnnnn…  install…"]


@given(
    st.lists(
        st.fixed_dictionaries({name: st.text(max_size=50) for name in ("a", "b", "uuid")}),
        min_size=1,
        max_size=4,
    ),
    st.integers(30, 120),
)
def test_every_line_fits(rows: list[dict[str, Any]], columns: int):
    lines = table(rows, ["uuid", "a", "b"], screen=Screen(columns))
    assert len(lines) == len(rows) + 1
    assert max(map(cells, lines)) <= columns
    assert re.match(r"UUID +A", lines[0])


def image(uuid: str, name: str, origin: str | None = None, clones: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "uuid": uuid, "name": name, "version": "1.0", "origin": origin, "used": 10 << 20,
        "referenced": 20 << 20, "clones": [*clones],
    }  # fmt: skip


@pytest.mark.parametrize("columns", [120, 100, 60, 40])
def test_a_tree_fits(columns: int):
    machine = "zones/99999999-aaaa-4bbb-8ccc-000000000009"
    images = [
        image(U, "base-with-a-very-long-name-indeed", clones=(f"zones/{V}", machine)),
        image(V, "web", U),
    ]
    pool: Any = {"zpool": "zones", "total": 1 << 37, "available": 1 << 36, "images": images}
    lines = tree_lines(pool, LINES, Screen(columns))
    assert max(map(cells, lines)) <= columns
    assert f"├── {V if columns >= 100 else V[:8]} " in lines[3]
    assert lines[3].endswith("10.0 MiB" if columns == 40 else "10.0 MiB  20.0 MiB")


# -- on a terminal -------------------------------------------------------------------------------------------


@pytest.fixture
def host(daemon: FakeDaemon) -> FakeDaemon:
    daemon.store.images = [
        {"manifest": {**row, "published_at": "2026-01-01T00:00:00Z"}, "zpool": "zones", "cloneNames": [],
         "clones": 0, "source": "https://images.example.com"}
        for row in ROWS
    ]  # fmt: skip
    daemon.queries.past = [
        {
            "action": "import", "uuid": U, "name": "base-64-lts", "version": "18.4.0", "pool": "zones",
            "source": "https://images.example.com", "client": "imgctl 1.0 (pid 7)", "uid": 0,
            "started_at": 1_750_000_000.5, "bytes": 100 << 20, "seconds": 12.25, "outcome": "installed",
            "code": None, "message": None, "import_id": "i",
        }
    ]  # fmt: skip
    daemon.queries.pools = [
        {"zpool": "zones", "total": 1 << 37, "available": 1 << 36,
         "images": [image(U, "base-64-lts", clones=(f"zones/{V}",)), image(V, "web", U)]}
    ]  # fmt: skip
    daemon.store.underway = [BUSY_JOB]
    daemon.status.looks = [status(imports=[BUSY_JOB])]
    return daemon


def shown(imgctl: Command, *line: str, columns: int, plain: bool = False) -> list[str]:
    settings = {**imgctl.environment, "TERM": "dumb", "LC_ALL": "C.UTF-8"}
    if plain:
        settings |= {"PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}
    with Terminal(imgctl.line(*line), settings, size=(24, columns)) as terminal:
        terminal.end()
        text = terminal.shown.decode()
    assert "\x1b" not in text
    assert text.isascii() or not plain
    return text.splitlines()


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("columns", [100, 40])
@pytest.mark.parametrize("line", ["list", "jobs", "history", "du", "tree", "holds"])
def test_a_listing_fits(host: FakeDaemon, imgctl: Command, line: str, columns: int, plain: bool):
    if plain:  # escaped, a name is longer than what it takes
        host.store.images = host.store.images[:1]
    host.store.tags = ["golden"]
    lines = shown(imgctl, line, columns=columns, plain=plain)
    assert lines
    assert max(cells(each) for each in lines if not each.startswith("Pool ")) <= columns
    # What a table is for stays: at 40 columns that is the outcome of each import, not its uuid.
    there = "installed" if (line, columns) == ("history", 40) else U[:8]
    assert any(there in each or BUSY_JOB["uuid"][:8] in each for each in lines)


@pytest.mark.parametrize(
    ("line", "header"),
    [
        ("list", {"UUID", "NAME", "VERSION"}),
        ("jobs", {"UUID", "NAME", "DONE", "RATE"}),
        ("history", {"WHEN", "ACTION", "NAME", "OUTCOME"}),
        ("du", {"UUID", "NAME", "OWN"}),
        ("holds", {"UUID", "NAME", "HOLDS"}),
    ],
)
def test_what_a_table_is_for_is_there_at_forty(
    host: FakeDaemon, imgctl: Command, line: str, header: set[str]
):
    host.store.tags = ["golden"]
    assert header <= set(shown(imgctl, line, columns=40)[0].split())


@pytest.mark.parametrize("columns", [100, 60, 40])
def test_a_failure_in_status_is_readable(columns: int):
    reason = (
        "the image is held by a tag that somebody has set, and so it stays where it is until that has gone"
    )
    entry = {"action": "delete", "uuid": U, "name": "web", "version": "1.1", "message": reason,
             "started_at": 1_750_000_000.5}  # fmt: skip
    lines = status_lines(status(failures=[entry]), 1_750_000_001.0, Screen(columns))
    first = next(place for place, line in enumerate(lines) if line.startswith("Failures"))
    said = lines[first + 1 : first + 6]
    assert max(map(len, said)) <= columns
    assert f"2025-06-15T15:06:40Z delete web@1.1 ({U}): {reason}".replace(" ", "") in "".join(
        "".join(said).split()
    )


def test_digits_of_an_image_stand_for_it_in_top():
    """Eight of them, more where two are alike, and no more than there is room for: then names do it."""

    def images(*uuids: str) -> list[str]:
        lines = top_lines(status(imports=[{**BUSY_JOB, "uuid": uuid} for uuid in uuids]), 1_750_000_000.0)
        return sorted(line.text.split()[0] for line in lines[-len(uuids) :])

    assert images(U, V) == [U[:8], V[:8]]
    assert images(U, U[:9] + "f" + U[10:]) == [U[:10], U[:9] + "f"]
    assert images(U, U[:-1] + "0") == [U[:8], U[:8]]


def test_history_has_all_its_columns_at_a_hundred(host: FakeDaemon, imgctl: Command):
    header, row = shown(imgctl, "history", columns=100)
    assert header.split()[-1] == "OUTCOME"
    assert row.split() == [
        "2025-06-15T15:06:40Z", "import", U[:8], "base-64-lts", "18.4.0", "zones", "100.0", "MiB", "12.2s",
        "installed",
    ]  # fmt: skip


def test_wide_and_named_fields_are_not_dropped(host: FakeDaemon, imgctl: Command):
    assert shown(imgctl, "list", "-o", "wide", columns=40)[0].split()[-1] == "SOURCE"
    assert shown(imgctl, "list", "-o", "uuid,name,version,os,type", columns=40)[0].split()[-1] == "TYPE"


def test_elsewhere_nothing_is_cut(host: FakeDaemon, imgctl: Command):
    settings = {**imgctl.environment, "COLUMNS": "40"}
    lines = imgctl("list", env=settings).stdout.splitlines()
    assert U in lines[1]
    assert WIDE in lines[2]


def test_imgadm_cuts_nothing(host: FakeDaemon, imgctl: Command):
    settings = {**imgctl.environment, "TERM": "dumb", "LC_ALL": "C.UTF-8"}
    with Terminal(imgctl.line("list", imgadm=True), settings, size=(24, 40)) as terminal:
        assert terminal.end() == 0
        assert (
            terminal.shown.decode().replace("\r\n", "\n") == imgctl("list", imgadm=True, env=settings).stdout
        )


@pytest.mark.parametrize("columns", [100, 40])
def test_status_fits(host: FakeDaemon, imgctl: Command, columns: int):
    lines = shown(imgctl, "status", columns=columns, plain=True)
    tables = [line for line in lines if line.startswith(("POOL", "zones", "SOURCE", "https", "UUID", "1111"))]
    assert len(tables) == 6
    assert max(map(len, tables)) <= columns


@pytest.mark.parametrize("columns", [100, 40])
def test_top_shows_how_far_it_is(host: FakeDaemon, imgctl: Command, columns: int):
    lines = shown(imgctl, "top", "-n", "1", columns=columns, plain=True)
    assert max(map(len, lines)) <= columns
    header, row = lines[-2:]
    assert header.split()[:3] == (["IMAGE", "NAME", "PHASE"] if columns == 100 else ["NAME", "DONE", "LEFT"])
    assert {"DONE", "LEFT", "RATE"} <= set(header.split())
    assert {"25%", "1m23s", "5.5"} <= set(row.split())
    assert any("5.5 MiB/s" in line for line in lines[:-2])


def test_what_is_left_of_a_uuid_stands_for_one_image():
    alike = [{"uuid": f"3dbbdcca-2eab-11e8-b925-23bf777899{end}", "name": "x" * 60} for end in ("20", "21")]
    lines = table(alike, ["uuid", "name"], screen=Screen(60))
    assert {line.split()[0] for line in lines[1:]} == {row["uuid"] for row in alike}
    # One that is alone, or listed twice, needs no more than its first digits.
    once = table([ROWS[0], ROWS[0]], COLUMNS, screen=Screen(60))
    assert {line.split()[0] for line in once[1:]} == {U[:8]}
