"""`tree` and `du`."""

from __future__ import annotations

import json
import os
import pty
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imgctl.run.usage import ASCII, LINES, du_document, forest, pool_summary, tree_lines

MIB = 1 << 20
BASE, WEB, DB, LONE = (f"{number}1111111-aaaa-4bbb-8ccc-000000000001" for number in (1, 2, 3, 4))
MACHINE = "zones/99999999-aaaa-4bbb-8ccc-000000000009"


def image(uuid, name, used, origin=None, clones=()):
    return {
        "uuid": uuid,
        "name": name,
        "version": "1.0" if name else None,
        "origin": origin,
        "used": used,
        "referenced": 2 * used,
        "clones": list(clones),
    }


def pool(**fields):
    return {
        "zpool": "zones",
        "total": 100 * MIB,
        "available": 60 * MIB,
        "images": [
            image(BASE, "base", 10 * MIB, clones=[MACHINE, f"zones/{DB}", f"zones/{WEB}"]),
            image(WEB, "web", MIB, origin=BASE, clones=["zones/vm"]),
            image(DB, "db", 3 * MIB, origin=BASE),
            image(LONE, None, 1234),
        ],
        **fields,
    }


def test_a_tree():
    assert tree_lines(pool(), LINES) == [
        "zones: 60.0 MiB of 100.0 MiB free",
        "IMAGE                                           NAME           USED      DATA",
        f"{BASE}            base@1.0   10.0 MiB  20.0 MiB",
        f"├── {WEB}        web@1.0     1.0 MiB   2.0 MiB",
        "│   └── zones/vm                                (machine)",
        f"├── {DB}        db@1.0      3.0 MiB   6.0 MiB",
        f"└── {MACHINE}  (machine)",
        f"{LONE}            -           1.2 KiB   2.4 KiB",
    ]


def test_a_tree_in_ascii():
    drawn = [line.split()[0] for line in tree_lines(pool(), ASCII)]
    assert drawn == ["zones:", "IMAGE", BASE, "|--", "|", "|--", "`--", LONE]


def test_a_tree_as_json():
    trunk = forest(pool())
    assert (trunk["zpool"], trunk["total"]) == ("zones", 100 * MIB)
    base, lone = trunk["images"]
    assert base["machines"] == [MACHINE]
    assert [(child["uuid"], child["machines"]) for child in base["children"]] == [
        (WEB, ["zones/vm"]),
        (DB, []),
    ]
    assert (lone["uuid"], lone["children"], lone["machines"]) == (LONE, [], [])


def test_an_image_without_its_origin_is_a_root():
    (only,) = forest(pool(images=[image(WEB, "web", 1, origin=BASE)]))["images"]
    assert (only["uuid"], only["origin"]) == (WEB, BASE)


def test_what_a_server_named_steers_no_terminal_and_is_not_too_long():
    lines = tree_lines(pool(images=[image(BASE, "\x1b[2J" + "x" * 500, 1)]), LINES)
    assert "\x1b" not in "".join(lines)
    assert max(map(len, lines)) < 120


def test_a_very_deep_tree():
    names = [f"{number:036}" for number in range(2000)]
    deep = [
        image(name, "n", 1, origin=names[place - 1] if place else None) for place, name in enumerate(names)
    ]
    assert len(tree_lines(pool(images=deep), ASCII)) == 2002


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=10, unique_by=lambda pair: pair[0]))
def test_every_image_is_drawn_once_unless_it_is_its_own_ancestor(pairs):
    """An origin has a smaller number here, or is not there, or is the image itself."""
    images = [
        image(f"u{own}", "n", 1, origin=f"u{origin}" if origin < own else None) for own, origin in pairs
    ]
    drawn = [line.split("u", 1)[1][0] for line in tree_lines(pool(images=images), ASCII)[2:]]
    assert sorted(drawn) == sorted(str(own) for own, _ in pairs)


def test_what_they_occupy():
    document = du_document(pool())
    assert [
        (row["uuid"], row["own"], row["shared"], row["total"], row["clones"]) for row in document["images"]
    ] == [
        (BASE, 0, 10 * MIB, 10 * MIB, 3),
        (DB, 3 * MIB, 0, 3 * MIB, 0),
        (WEB, 0, MIB, MIB, 1),
        (LONE, 1234, 0, 1234, 0),
    ]
    assert (document["own"], document["shared"]) == (3 * MIB + 1234, 11 * MIB)
    assert document["used"] == document["own"] + document["shared"]
    assert pool_summary(pool()) == "Pool zones: 4 images use 14.0 MiB, 60.0 MiB of 100.0 MiB free"


# -- the commands --------------------------------------------------------------------------------------------


@pytest.fixture
def pools(daemon):
    daemon.queries.pools = [pool(), pool(zpool="tank", images=[])]


def test_tree(daemon, imgctl, pools):
    shown = imgctl("tree")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[3].startswith(f"|-- {WEB} ")  # no terminal
    assert lines[-2:] == ["", "tank: 60.0 MiB of 100.0 MiB free"]
    imgctl("tree", "-P", "tank")
    assert daemon.queries.asked[-1] == {"pool": "tank", "uuids": []}
    assert json.loads(imgctl("tree", "-j").stdout) == [forest(each) for each in daemon.queries.pools]


def test_a_tree_as_a_list(daemon, imgctl, pools):
    order = [BASE, WEB, DB, LONE]
    assert imgctl("tree", "-q", "-P", "zones").stdout.split()[:4] == order
    header, *lines = imgctl("tree", "-o", "csv", "-P", "zones").stdout.splitlines()
    assert header == "uuid,name,version,zpool,origin,used,referenced,machines"
    assert [line.split(",")[0] for line in lines[:4]] == order
    assert lines[1] == f"{WEB},web,1.0,zones,{BASE},{MIB},{2 * MIB},1"
    named = imgctl("tree", "-H", "-o", "uuid,origin", "-P", "zones").stdout.splitlines()
    assert [line.split() for line in named[:2]] == [[BASE, "-"], [WEB, BASE]]
    assert json.loads(imgctl("tree", "-o", "json,uuid", "-P", "zones").stdout)[0] == {"uuid": BASE}


@pytest.mark.parametrize(("locale", "drawn"), [("C.UTF-8", "├── "), ("C", "|-- ")])
def test_lines_are_drawn_on_a_terminal_that_can(imgctl, pools, locale, drawn):
    parent, child = pty.openpty()
    environment = {**imgctl.environment, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    text = b""
    with imgctl.start("tree", stdout=child, env=environment) as process:
        os.close(child)
        with suppress(OSError):  # what a terminal's end looks like
            while piece := os.read(parent, 65536):
                text += piece
    os.close(parent)
    assert process.returncode == 0
    assert f"{drawn}{WEB}" in text.decode()


def test_du(daemon, imgctl, pools):
    shown = imgctl("du")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines() == [
        "UUID                                  NAME  VERSION  ZPOOL  OWN      SHARED    TOTAL     CLONES",
        f"{BASE}  base  1.0      zones  0 B      10.0 MiB  10.0 MiB  3",
        f"{DB}  db    1.0      zones  3.0 MiB  0 B       3.0 MiB   0",
        f"{WEB}  web   1.0      zones  0 B      1.0 MiB   1.0 MiB   1",
        f"{LONE}  -     -        zones  1.2 KiB  0 B       1.2 KiB   0",
        "Pool zones: 4 images use 14.0 MiB, 60.0 MiB of 100.0 MiB free",
        "Pool tank: 0 images use 0 B, 60.0 MiB of 100.0 MiB free",
    ]
    assert len(imgctl("du", "-H").stdout.splitlines()) == 4
    assert json.loads(imgctl("du", "-j", "-P", "zones").stdout) == [
        du_document(each) for each in daemon.queries.pools
    ]
    imgctl("du", WEB)
    assert daemon.queries.asked[-1] == {"pool": None, "uuids": [WEB]}


@pytest.mark.parametrize("command", ["tree", "du"])
def test_a_pool_that_does_not_answer_hides_no_other(daemon, imgctl, pools, command):
    error = {
        "code": "InternalError",
        "message": 'pool "tank" does not answer',
        "hint": "look",
        "exit_status": 1,
    }
    daemon.queries.pools[1] = pool(zpool="tank", total=None, available=None, images=[], error=error)
    shown = imgctl(command)
    assert BASE in shown.stdout
    assert "tank" not in shown.stdout
    assert shown.returncode == 1
    assert f'imgctl {command}: error (InternalError): pool "tank" does not answer' in shown.stderr
