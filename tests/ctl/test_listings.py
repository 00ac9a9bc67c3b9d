"""Every command that lists something does so as JSON, too, and leaves nothing out."""

from __future__ import annotations

import ast
import inspect
import json
from importlib import import_module
from typing import TYPE_CHECKING

import pytest
from imgctl.commands import all_commands
from imgctl.commands.base import IS_JSON, OUTCOMES
from imgctl.listing import with_new_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

U, V = "11111111-aaaa-4bbb-8ccc-000000000001", "11111111-aaaa-4bbb-8ccc-000000000002"
URL = "https://images.example.com"
IMAGE = {
    "manifest": {"v": 2, "uuid": U, "name": "é", "version": "1", "tags": {"a": [1, 2.5, None, True]}},
    "zpool": "zones",
    "source": URL,
    "cloneNames": ["zones/x"],
    "clones": 1,
}
JOB = {
    "uuid": U, "name": "a", "version": "1", "pool": "zones", "phase": "downloading", "done": 1, "total": None,
    "received": 0, "rate": 1.5, "source": URL, "clients": ["x"], "started_at": "2026-11-24T00:00:00Z",
    "error": None,
}  # fmt: skip

ENTRY = {
    "action": "import", "uuid": U, "name": "a", "version": "1", "pool": "zones", "source": URL, "client": "x",
    "uid": 0, "started_at": 1.5, "bytes": 7, "seconds": None, "outcome": "failed", "code": "ClientError",
    "message": None,
}  # fmt: skip
USAGE = {
    "zpool": "zones", "total": 1 << 40, "available": 1 << 39,
    "images": [
        {"uuid": U, "name": "a", "version": "1", "origin": None, "used": 5, "referenced": 7, "clones": [V]},
        {"uuid": V, "name": "b", "version": "2", "origin": U, "used": 3, "referenced": 9, "clones": []},
    ],
}  # fmt: skip

STATUS = {"version": "1", "imports": [JOB], "failures": [ENTRY], "pools": [], "sources": [], "new": None}

OLD = {
    "uuid": U, "zpool": "zones", "name": "a", "version": "1", "published_at": "2026-01-01T00:00:00Z",
    "newer": {"uuid": V, "version": "2", "published_at": "2026-02-01T00:00:00Z", "source": URL},
}  # fmt: skip

#: Command lines, and what of their JSON is the daemon's own document.
COMPLETE = {
    "list -j": [IMAGE],
    "list --json name=é": [IMAGE],
    "list -j name=other": [],
    "avail -j": [{"manifest": IMAGE["manifest"], "source": URL}],
    "jobs -j": [JOB],
    "status -j": STATUS,
    "top -j -n 1": STATUS,
    "sources -j": [{"url": URL, "type": "imgapi", "insecure": True, "channel": "dev"}],
    "sources -c -j": [{"url": URL, "type": "imgapi", "ok": True, "error": None}],
    "history -j": [ENTRY],
    f"history -j -n 3 {U}": [ENTRY],
    "vacuum -n -j": [{**IMAGE["manifest"], "zpool": "zones", "used": None}],
    "holds -j": [{"uuid": U, "name": "é", "version": "1", "zpool": "zones", "holds": ["golden", "pinned"]}],
    "outdated -j": [OLD],
    "alias -j": [{"alias": "stable", "uuid": U}],
    f"holds -j {U}": ["golden", "pinned"],
    f"ancestry -j {U}": [{key: value for key, value in IMAGE.items() if not key.startswith("clone")}],
    f"show {U}": IMAGE["manifest"],
    f"get {U}": {key: value for key, value in IMAGE.items() if not key.startswith("clone")},
}


def prints_a_table(run: str) -> bool:
    """Whether the function that a row names comes to `table(...)`, by the source of its module."""
    name, _, function = run.partition(":")
    module = ast.parse(inspect.getsource(import_module(f"imgctl.run.{name}")))
    functions = {node.name: node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)}
    reached, ahead = set(), [function]
    while ahead:
        reached.add(current := ahead.pop())
        if current in functions:
            used = {node.id for node in ast.walk(functions[current]) if isinstance(node, ast.Name)}
            ahead += used - reached
    return not reached.isdisjoint(("table", "say_listing"))


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: command.names[0])
def test_what_prints_a_table_prints_json(command):
    flags = {flag for option in command.options for flag in option.flags}
    assert ("-j" in flags) == ("--json" in flags)
    has_columns = "-H" in flags or any(option.argument == "FIELD,..." for option in command.options)
    if has_columns or prints_a_table(command.run):
        assert "-j" in flags


def test_that_is_found_out():
    tables = {command.names[0] for command in all_commands() if prints_a_table(command.run)}
    assert tables >= {"list", "avail", "jobs", "sources"}
    assert "import" not in tables


@pytest.mark.parametrize("line", COMPLETE)
def test_json_is_complete(daemon, imgctl, line):
    daemon.store.images = [IMAGE]
    daemon.sources.manifests = {U: IMAGE["manifest"]}
    daemon.store.underway = [JOB]
    daemon.status.looks = [STATUS]
    daemon.store.tags = ["golden", "pinned"]
    daemon.queries.past = [ENTRY]
    daemon.queries.old["images"] = [OLD]
    daemon.aliases.there = {"stable": U}
    daemon.maintenance.planned = [{**IMAGE["manifest"], "zpool": "zones"}]
    daemon.sources.found = {"images": [{"manifest": IMAGE["manifest"], "source": URL}], "problems": []}
    daemon.sources.specs = [{"url": URL, "type": "imgapi", "insecure": True, "channel": "dev"}]
    daemon.sources.checked = [{"url": URL, "type": "imgapi", "ok": True, "error": None}]
    shown = imgctl(*line.split())
    assert shown.stderr == ""
    assert json.loads(shown.stdout) == with_new_keys(COMPLETE[line])


def test_what_is_held_is_asked_for_only_where_it_is_shown(daemon, imgctl):
    daemon.store.images = [IMAGE]
    daemon.store.tags = ["pinned", "web 1"]
    assert imgctl("list", "-o", "uuid,pinned,held").stdout.splitlines() == [
        f"UUID{' ' * 34}PINNED  HELD",
        f'{U}  true    ["pinned","web 1"]',
    ]
    assert json.loads(imgctl("list", "-j", "pinned=true").stdout) == [{**IMAGE, "holds": daemon.store.tags}]
    assert json.loads(imgctl("list", "-j", "held=~web 1").stdout) != []
    assert imgctl("list", "-H", "-o", "uuid", "-s", "-pinned").stdout == f"{U}\n"
    daemon.store.tags = []
    assert imgctl("list", "pinned=true").stdout == ""
    assert imgctl("list", "-H", "-o", "uuid", "pinned=false").stdout == f"{U}\n"
    assert json.loads(imgctl("list", "-j").stdout) == [IMAGE]


@pytest.mark.parametrize("line", ["list -j", "avail -j", "jobs -j", "sources -j", "sources -c -j"])
def test_an_empty_list_is_json_too(daemon, imgctl, line):
    assert json.loads(imgctl(*line.split()).stdout) == []


@pytest.mark.parametrize("command", ["tree", "du"])
def test_what_images_occupy_is_complete(daemon, imgctl, command):
    daemon.queries.pools = [USAGE]
    shown = json.loads(imgctl(command, "-j").stdout)
    said = set(scalars(shown))
    assert said >= set(scalars({key: value for key, value in USAGE.items() if key != "images"}))
    for image in USAGE["images"]:
        assert said >= {image["uuid"], image["name"], image["version"]}


def scalars(value: object) -> Iterator[object]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from scalars(each)
    elif value is not None:
        yield value


#: Looked at in a file of its own.
ELSEWHERE = {"config", "doctor", "export-site", "info", "keys", "mirror"}


def test_every_listing_is_looked_at():
    listings = {
        command.names[0]
        for command in all_commands()
        for option in command.options
        if "-j" in option.flags and "event" not in option.help and option not in (IS_JSON, OUTCOMES)
    }
    assert listings == {line.split()[0] for line in COMPLETE if " -j" in line} | {"tree", "du"} | ELSEWHERE
