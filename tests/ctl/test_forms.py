"""Listings and documents as JSON, YAML, CSV, wide tables or uuids alone, and errors as JSON."""

from __future__ import annotations

import csv
import io
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from imgctl.commands import all_commands, find_command
from imgctl.listing import with_new_keys, yaml_text

from imgstored.errors import DownloadError, InvalidManifestError
from tests.support.events import ManifestUpdated, UpdateFailed
from tests.support.terminal import Terminal
from tests.support.without import environment

if TYPE_CHECKING:
    from tests.ctl.conftest import Command
    from tests.ctl.fake_daemon import FakeDaemon

U, V = (f"{number}1111111-aaaa-4bbb-8ccc-000000000001" for number in (1, 2))
URL = "https://images.example.com"
MIB = 1 << 20
JOB = {
    "uuid": U, "name": "web", "version": "1", "pool": "zones", "phase": "downloading", "done": MIB,
    "total": 4 * MIB, "received": 0, "rate": 1.5 * MIB, "limits": "network", "eta": 83, "connections": 8,
    "source": URL, "clients": ["x"], "started_at": 1_750_000_000.5, "error": None, "import_id": "i",
}  # fmt: skip
ENTRY = {
    "action": "import", "uuid": U, "name": "web", "version": "1", "pool": "zones", "source": URL,
    "client": "x", "uid": 0, "started_at": 1_750_000_000.5, "bytes": 4 * MIB, "seconds": 1.25,
    "outcome": "installed", "code": None, "message": None, "import_id": "i",
}  # fmt: skip
OLD = {
    "uuid": U, "zpool": "zones", "name": "web", "version": "1", "published_at": "2026-01-01T00:00:00Z",
    "newer": {"uuid": V, "version": "2", "published_at": "2026-02-01T00:00:00Z", "source": URL},
}  # fmt: skip
USED = {
    "uuid": U, "name": "web", "version": "1", "origin": None, "used": 4 * MIB, "referenced": 0, "clones": [],
}  # fmt: skip


def manifest(uuid: str, name: str) -> dict[str, Any]:
    return {
        "v": 2, "uuid": uuid, "name": name, "version": "1", "os": "smartos", "type": "zone-dataset",
        "published_at": f"2026-0{uuid[0]}-01T00:00:00.000Z", "tags": {"a": [1, None, True]},
    }  # fmt: skip


@pytest.fixture
def host(daemon: FakeDaemon) -> FakeDaemon:
    manifests = [manifest(U, "web"), manifest(V, 'db, "é"\n=1')]
    daemon.store.images = [
        {"manifest": each, "zpool": "zones", "source": URL, "cloneNames": [], "clones": 0}
        for each in manifests
    ]
    daemon.sources.found["images"] = [{"manifest": each, "source": URL} for each in manifests]
    daemon.sources.manifests = {each["uuid"]: each for each in manifests}
    daemon.sources.specs = [{"url": URL, "type": "imgapi", "insecure": False, "channel": None}]
    daemon.store.tags = ["golden"]
    daemon.store.underway = [JOB]
    daemon.queries.past = [ENTRY]
    daemon.queries.old["images"] = [OLD]
    daemon.queries.pools = [{"zpool": "zones", "total": 1, "available": 1, "images": [USED]}]
    daemon.aliases.there = {"stable": U}
    return daemon


#: Every command that lists, with what it needs.
LISTINGS = [
    "list", "avail", f"ancestry {U}", "jobs", "history", "du", "holds", "outdated", "alias", "sources",
    "tree",
]  # fmt: skip


def test_these_are_all_listings():
    lists = {
        command.names[0]
        for command in all_commands()
        for option in command.options
        if "-o" in option.flags and ("csv" in option.help)
    }
    assert lists == {line.split()[0] for line in LISTINGS}


@pytest.mark.parametrize("line", LISTINGS)
def test_a_listing_in_every_form(host: FakeDaemon, imgctl: Command, line: str):
    words = line.split()
    as_json = imgctl(*words, "-j")
    assert as_json.stderr == ""
    documents = json.loads(as_json.stdout)
    assert documents
    assert imgctl(*words, "-o", "json").stdout == as_json.stdout
    assert yaml.safe_load(imgctl(*words, "-o", "yaml").stdout) == documents
    table, wide = (imgctl(*words, *form).stdout.splitlines() for form in ([], ["-o", "wide"]))
    assert len(wide[0]) >= len(table[0])
    header, *rows = csv.reader(io.StringIO(imgctl(*words, "-o", "csv").stdout))
    assert rows
    assert all(len(row) == len(header) for row in rows)
    if words[0] != "sources":
        uuids = [row[header.index("uuid")] for row in rows]
        assert imgctl(*words, "-q").stdout.split() == uuids
        assert set(uuids) <= {U, V}


@pytest.mark.parametrize("line", ["list", "avail", f"ancestry {U}"])
@pytest.mark.parametrize("form", ["json", "yaml", "csv", "wide"])
def test_to_imgadm_they_are_fields(host: FakeDaemon, imgctl: Command, line: str, form: str):
    header = imgctl(*line.split(), "-o", form, imgadm=True).stdout.splitlines()[0]
    assert header == form.upper()
    assert 'unknown option: "-q"' in imgctl(*line.split(), "-q", imgadm=True).stderr


def test_csv_is_for_programs(host: FakeDaemon, imgctl: Command):
    """Whatever servers call their images is one field; sizes and times are as they are."""
    shown = imgctl("list", "-o", "csv,name,clones,tags,origin").stdout
    assert list(csv.reader(io.StringIO(shown))) == [
        ["name", "clones", "tags", "origin"],
        ["web", "0", '{"a":[1,null,true]}', ""],
        ['db, "é"\\n=1', "0", '{"a":[1,null,true]}', ""],
    ]
    assert imgctl("list", "-H", "-o", "name", "-o", "csv", "name=web").stdout == "web\n"
    assert imgctl("du", "-H", "-o", "csv,uuid,own,total").stdout == f"{U},{4 * MIB},{4 * MIB}\n"
    assert imgctl("jobs", "-H", "-o", "csv,zpool,done,size,rate,started").stdout == (
        f"zones,{MIB},{4 * MIB},{1.5 * MIB:.0f},2025-06-15T15:06:40Z\n"
    )
    assert imgctl("history", "-H", "-o", "csv,when,size,took").stdout == (
        f"2025-06-15T15:06:40Z,{4 * MIB},1.25\n"
    )


def test_fields_of_documents(host: FakeDaemon, imgctl: Command):
    assert json.loads(imgctl("list", "-o", "json,uuid,name", "name=web").stdout) == [
        {"uuid": U, "name": "web"}
    ]
    assert yaml.safe_load(imgctl("jobs", "-o", "yaml,uuid,zpool").stdout) == [{"uuid": U, "zpool": "zones"}]


def test_wide_shows_more(host: FakeDaemon, imgctl: Command):
    assert imgctl("list", "-o", "wide").stdout.splitlines()[0].split()[-5:] == [
        "ZPOOL", "STATE", "SIZE", "CLONES", "SOURCE",
    ]  # fmt: skip
    lines = imgctl("jobs", "-o", "wide").stdout.splitlines()
    assert lines[0].split()[-6:] == ["LEFT", "LIMITS", "CONNECTIONS", "STARTED", "SOURCE", "ERROR"]
    assert lines[1].split()[-6:] == ["1m23s", "network", "8", "2025-06-15T15:06:40Z", URL, "-"]


@pytest.mark.parametrize("line", ["sources -o uuid", f"get -o csv {U}", f"show -o wide {U}", "status -o x"])
def test_a_form_that_there_is_not(host: FakeDaemon, imgctl: Command, line: str):
    shown = imgctl(*line.split())
    assert (shown.returncode, shown.stdout) == (1, "")
    assert "error (Usage): invalid form" in shown.stderr
    assert "  hint: it may be json" in shown.stderr


def test_yaml_without_pyyaml(host: FakeDaemon, imgctl: Command):
    paths = imgctl.environment["PYTHONPATH"]
    settings = {**imgctl.environment, **environment("yaml")}
    settings["PYTHONPATH"] += os.pathsep + paths
    shown = imgctl("list", "-o", "yaml", env=settings)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.splitlines() == [
        "imgctl list: error (NotInstalled): PyYAML, which writes YAML, is not installed for imgctl's Python",
        "  hint: install it (Debian: python3-yaml; else pip install pyyaml), or take -o json",
    ]
    assert imgctl("list", env=settings).returncode == 0


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "\u202e", "\x9b", "é", "a: b", "- x", "yes", "null", "2026-01-01"]
)
def test_yaml_is_what_was_written_and_steers_nothing(text: str):
    written = yaml_text([{"name": text, text: [text]}])
    assert written.replace("\n", "").isprintable()
    assert yaml.safe_load(written) == [{"name": text, text: [text]}]


@pytest.mark.parametrize("command", ["get", "show", "info"])
def test_one_document_in_every_form(host: FakeDaemon, imgctl: Command, command: str):
    document = json.loads(imgctl(command, "-j", "web").stdout)
    assert json.loads(imgctl(command, "-o", "json", "web").stdout) == document
    assert yaml.safe_load(imgctl(command, "-o", "yaml", "web").stdout) == document
    if command != "info":
        assert json.loads(imgctl(command, "web").stdout) == document
        assert yaml.safe_load(imgctl(command, "-o", "yaml", "web", V).stdout)[0] == document
        assert "unknown option" in imgctl(command, "-j", U, imgadm=True).stderr


# -- keys ----------------------------------------------------------------------------------------------------


def test_the_pool_and_times_have_one_form():
    told = with_new_keys({"jobs": [JOB], "manifest": {"pool": "x", "eaten_at": 1}, "zpool": "z", "pool": "y"})
    (job,) = told["jobs"]
    assert (job["pool"], job["zpool"]) == ("zones", "zones")
    assert (job["started_at"], job["started"]) == (1_750_000_000.5, "2025-06-15T15:06:40Z")
    assert told["manifest"] == {"pool": "x", "eaten_at": 1}
    assert told["zpool"] == "z"
    assert with_new_keys({"listed_at": "text", "at": 1, "failed_at": None}) == {
        "listed_at": "text",
        "at": 1,
        "failed_at": None,
    }


@pytest.mark.parametrize("line", ["jobs -j", "history -j"])
def test_every_listing_has_them(host: FakeDaemon, imgctl: Command, line: str):
    (document,) = json.loads(imgctl(*line.split()).stdout)
    assert (document["zpool"], document["started"]) == ("zones", "2025-06-15T15:06:40Z")


# -- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("get -j nosuch", "ImageNotInstalled"),
        ("get -o json nosuch", "ImageNotInstalled"),
        ("show -j nosuch", "ImageNotFound"),
        ("import -j nosuch", "ActiveImageNotFound"),
        ("info -j", "Usage"),
        ("list -j --bogus", "Option"),
        ("list -j =x", "Usage"),
        ("history -nx -j", "Usage"),
    ],
)
def test_an_error_is_json_where_results_are(host: FakeDaemon, imgctl: Command, line: str, code: str):
    shown = imgctl(*line.split())
    assert shown.returncode == (3 if code == "ImageNotInstalled" else 1)
    (only,) = shown.stderr.splitlines()
    error = json.loads(only)["error"]
    assert error.keys() == {"code", "message", "hint", "exit_status", "data"}
    assert (error["code"], error["exit_status"]) == (code, shown.returncode)
    assert "error (" in imgctl(*line.split(), imgadm=True).stderr
    # For a program that asked for imgadm's record it is that.
    assert json.loads(imgctl("-E", *line.split()).stderr)["err"]["code"] == code


def test_without_a_daemon_too(daemon: FakeDaemon, imgctl: Command):
    daemon.stop()
    assert json.loads(imgctl("jobs", "-j").stderr)["error"]["code"] == "ClientError"


def test_the_name_of_a_file_is_no_form():
    export = find_command("export")
    assert export is not None
    assert not export.asks_for_json("json")


def test_several_errors_are_a_line_each(host: FakeDaemon, imgctl: Command):
    host.store.scripts = {U: [DownloadError("broken")], V: [DownloadError("broken, too")]}
    shown = imgctl("import", "-j", U, V)
    codes = [json.loads(line)["error"]["message"] for line in shown.stderr.splitlines()]
    assert codes == [f"{U}: broken", f"{V}: broken, too"]
    assert (shown.stdout, shown.returncode) == ("", 1)


def test_what_update_does_as_json(host: FakeDaemon, imgctl: Command):
    error = InvalidManifestError("it is odd", hint="tell them").as_wire()
    host.maintenance.events = [UpdateFailed(U, "zones", error), ManifestUpdated(V, "zones", URL, None)]
    shown = imgctl("update", "-j")
    events = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [(each["event"], each["zpool"]) for each in events] == [
        ("update-failed", "zones"),
        ("manifest-updated", "zones"),
    ]
    assert events[0]["error"]["code"] == "InvalidManifest"
    assert (shown.returncode, shown.stderr) == (1, "")


@pytest.mark.parametrize("columns", [100, 40])
def test_forms_are_not_cut_on_a_terminal(host: FakeDaemon, imgctl: Command, columns: int):
    """What a program would read is the same wherever it is written."""
    settings = {**imgctl.environment, "PYTHONIOENCODING": "ascii", "TERM": "xterm"}
    for form in ("json", "yaml", "csv"):
        with Terminal(imgctl.line("list", "-o", form), settings, size=(24, columns)) as terminal:
            assert terminal.end() == 0
            shown = terminal.shown.decode().replace("\r\n", "\n")
        assert shown == imgctl("list", "-o", form, env=settings).stdout
