"""The real command as a process: streams, exit statuses, signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import imgctl as package
import pytest
from imgctl.listing import with_new_keys

from imgstored.errors import (
    ActiveImageNotFoundError,
    CancelledError,
    ClientError,
    DownloadError,
    NoSourcesError,
    UsageError,
)
from tests.ctl.fake_daemon import HOLD
from tests.support.events import (
    AlreadyInstalled,
    ImageProgress,
    Importing,
    Installed,
    Note,
    Progress,
    Resumed,
)

U = "11111111-aaaa-4bbb-8ccc-000000000001"
V = "11111111-aaaa-4bbb-8ccc-000000000002"
URL = "http://127.0.0.1:8080"


def image(**manifest):
    return {
        "manifest": {"uuid": U, **manifest},
        "zpool": "zones",
        "source": URL,
        "cloneNames": [],
        "clones": 0,
    }


def test_help_names_every_command(imgctl):
    shown = imgctl("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "    imgctl ensure [OPTIONS] IMAGE...       import images that are not installed\n" in shown.stdout
    assert all(len(line) <= 80 for line in shown.stdout.splitlines())
    assert "NAME@latest" in shown.stdout
    assert "NAME@latest" not in imgctl("--help", imgadm=True).stdout
    assert imgctl("help").stdout == shown.stdout
    assert imgctl().stdout == shown.stdout
    assert imgctl().returncode == 1


def test_imgadms_commands_come_first_and_in_its_order(imgctl):
    ours = [line.split()[1] for line in imgctl("help").stdout.splitlines() if line.startswith("    imgctl ")]
    imgadms = "help sources avail show import install list get update delete ancestry vacuum create publish"
    assert ours[2:16] == imgadms.split()


@pytest.mark.parametrize(
    "arguments", [("help", "delete"), ("delete", "-h"), ("destroy", "--help"), ("?", "destroy")]
)
def test_help_of_a_command(imgctl, arguments):
    shown = imgctl(*arguments)
    assert shown.returncode == 0
    assert "Usage:\n    imgctl delete [-P POOL] [-j] IMAGE..." in shown.stdout
    assert "-P, --pool POOL" in shown.stdout


def test_help_of_what_is_no_command(imgctl):
    shown = imgctl("help", "bogus")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == (
        'imgctl help: error (UnknownCommand): unknown command: "bogus"\n'
        "  hint: `imgctl help` lists the commands\n"
    )


def test_the_version_has_the_name_under_which_it_was_run(imgctl):
    assert imgctl("--version").stdout == f"imgctl {package.__version__}\n"
    assert imgctl("--version", imgadm=True).stdout == f"imgadm {package.__version__}\n"


def test_the_hint_follows_the_error(imgctl):
    shown = imgctl("get", U)
    assert (shown.returncode, shown.stdout) == (3, "")
    assert shown.stderr == (
        f'imgctl get: error (ImageNotInstalled): image "{U}" was not found on zpool "zones"\n'
        f"  hint: `imgctl import {U}` installs it, if a source has it\n"
    )


def test_without_a_daemon(imgctl, folder):
    shown = imgctl("--socket", f"{folder}/none", "list")
    assert (shown.returncode, shown.stdout) == (1, "")
    first, hint = shown.stderr.splitlines()
    assert (
        first
        == f"imgctl list: error (ClientError): imgstored is not running: nothing listens at {folder}/none"
    )
    assert hint.startswith("  hint: `systemctl start imgstored`")


def test_a_structured_error_has_hint_and_data(daemon, imgctl):
    daemon.store.scripts[U] = [DownloadError("broken", hint="again", data={"url": "u"})]
    shown = imgctl("-E", "import", U)
    assert shown.returncode == 1
    error = json.loads(shown.stderr.splitlines()[-1])["err"]
    assert error["code"] == "DownloadError"
    assert (error["message"], error["hint"], error["data"]) == ("broken", "again", {"url": "u"})
    assert "error (" not in shown.stderr


def test_the_facts_of_an_error_are_printed_when_asked_for(daemon, imgctl):
    daemon.store.scripts[U] = [DownloadError("broken", data={"url": "\x1b"})]
    assert imgctl("-v", "import", U).stderr.splitlines()[1] == '  data: {"url": "\\u001b"}'
    assert "data" not in imgctl("import", U).stderr


def test_several_errors_of_one_request(daemon, imgctl):
    others = [ActiveImageNotFoundError("first").as_wire(), DownloadError("second").as_wire()]
    daemon.store.scripts = {U: [], V: [ActiveImageNotFoundError("first", data={"others": others})]}
    shown = imgctl("ensure", U, V)
    assert shown.stderr.splitlines() == [
        "imgctl ensure: error (ActiveImageNotFound): first",
        "    error (DownloadError): second",
    ]


def test_import_passes_on_its_options(daemon, imgctl):
    daemon.store.scripts[U] = [
        Importing(U, "a", "1", URL, "dev"),
        Resumed(U, 1, None),
        Installed(U, "a", "1"),
    ]
    shown = imgctl("import", "-q", "-P", "tank", "-S", URL, "--source", "http://b", "-C", "dev", U)
    assert shown.stdout.splitlines() == [
        f'Importing {U} (a@1) from "{URL}", channel "dev"',
        f"Resuming image {U}: 1.0 B are there already",
        f"Imported image {U} (a@1)",
    ]
    (wish,) = daemon.store.wishes
    assert (wish["pool"], wish["sources"], wish["channel"]) == ("tank", [URL, "http://b"], "dev")


def test_ensure(daemon, imgctl):
    daemon.store.scripts = {U: [AlreadyInstalled(U, "a", "1")], V: [AlreadyInstalled(V, "b", "2")]}
    shown = imgctl("ensure", U, V)
    assert shown.stdout.splitlines() == [
        f"Image {U} (a 1) is already installed, skipping",
        f"Image {V} (b 2) is already installed, skipping",
    ]
    assert shown.returncode == 0
    assert "error (Usage): an argument is missing" in imgctl("ensure").stderr


@pytest.mark.parametrize("command", ["import", "ensure", "watch"])
def test_events_as_json(daemon, imgctl, command):
    events = [Importing(U, "a\x9b", "1", URL), Progress(1, 2, 3.0), Note("n"), Installed(U, "a", "1")]
    daemon.store.scripts[U] = [*events, DownloadError("broken")]
    shown = imgctl("-v", command, "--json", U)
    assert [json.loads(line) for line in shown.stdout.splitlines()] == [
        json.loads(json.dumps(event)) for event in events
    ]
    assert "\x9b" not in shown.stdout
    error = {"code": "DownloadError", "message": "broken", "hint": "", "exit_status": 1, "data": {}}
    assert json.loads(shown.stderr) == {"error": error}


def test_notes_are_for_who_asks(daemon, imgctl):
    daemon.store.scripts[U] = [Note("a retry\x1b"), Installed(U, "a", "1")]
    assert imgctl("import", U).stderr == ""
    assert imgctl("-v", "import", U).stderr == "imgctl: note: a retry\\x1b\n"


def test_watching_all(daemon, imgctl):
    daemon.store.scripts["watch"] = [Progress(1, 2, 3.0), Installed(U, "a", "1")]
    assert imgctl("watch").stdout == f"Imported image {U} (a@1)\n"
    assert "too many arguments" in imgctl("watch", U, V).stderr


def test_jobs(daemon, imgctl):
    assert imgctl("jobs").stdout == ""
    job = {
        "uuid": U, "name": "a", "version": "1", "pool": "zones", "phase": "downloading", "done": 30 << 20,
        "total": 120 << 20, "received": 5, "rate": 12_900_000.0, "source": URL, "clients": ["x", "y"],
        "started_at": "2026-11-24T00:00:00Z", "error": None,
    }  # fmt: skip
    daemon.store.underway = [job, {**job, "uuid": V, "total": None, "rate": 0.0, "clients": []}]
    lines = imgctl("jobs").stdout.splitlines()
    assert lines[0].split() == [
        "UUID",
        "NAME",
        "VERSION",
        "ZPOOL",
        "PHASE",
        "DONE",
        "SIZE",
        "RATE",
        "CLIENTS",
    ]
    assert re.split(" {2,}", lines[1]) == [
        U,
        "a",
        "1",
        "zones",
        "downloading",
        "25%",
        "120.0 MiB",
        "12.3 MiB/s",
        "2",
    ]
    assert re.split(" {2,}", lines[2]) == [V, "a", "1", "zones", "downloading", "30.0 MiB", "-", "-", "0"]
    assert json.loads(imgctl("jobs", "-j").stdout) == with_new_keys(daemon.store.underway)


def test_cancel(daemon, imgctl):
    assert imgctl("cancel", U).stdout == f"Cancelled import of image {U}\n"
    assert daemon.store.cancelled == [U]
    daemon.store.errors["cancel"] = UsageError("it is installed")
    assert imgctl("cancel", U).returncode == 1


def test_sources_that_are_down_are_told_after_the_rows(daemon, imgctl):
    down, up = "http://down", "http://up"
    daemon.sources.found = {
        "images": [{"manifest": {"uuid": U, "name": "a"}, "source": up}],
        "problems": [
            {"source": down, "error": ClientError("refused", hint="h").as_wire()},
            {
                "source": up,
                "error": ClientError(f"{up}: slow").as_wire(),
                "listed_at": "2026-11-24T00:00:00Z",
            },
        ],
    }
    shown = imgctl("avail", "-H", "-o", "name")
    assert (shown.returncode, shown.stdout) == (1, "a\n")
    assert shown.stderr.splitlines() == [
        f"imgctl avail: warning: {up}: slow; its images are those of 2026-11-24T00:00:00Z",
        f"imgctl avail: error (ClientError): {down}: refused",
        "  hint: h",
    ]

    del daemon.sources.found["problems"][0]
    assert imgctl("avail", "-j").returncode == 0

    daemon.sources.found["problems"] = [
        {"source": url, "error": ClientError("refused").as_wire()} for url in (down, up)
    ]
    shown = imgctl("avail")
    assert shown.returncode == 1
    assert shown.stderr.splitlines() == [
        "imgctl avail: error (MultiError): multiple (2) errors",
        f"    error (ClientError): {down}: refused",
        f"    error (ClientError): {up}: refused",
    ]


def test_a_thousand_sources_that_fail_are_said_briefly(daemon, imgctl):
    daemon.sources.found = {
        "images": [],
        "problems": [
            {"source": f"http://{name}/{number}", "error": ClientError("refused").as_wire()} | listed
            for name, listed in (("down", {}), ("kept", {"listed_at": "2026-11-24T12:00:00Z"}))
            for number in range(1000)
        ],
    }
    shown = imgctl("avail").stderr.splitlines()
    assert (
        shown[0]
        == "imgctl avail: warning: http://kept/0: refused; its images are those of 2026-11-24T12:00:00Z"
    )
    assert shown[20] == (
        "imgctl avail: warning: so are those of 980 more sources, which `imgctl sources -c` names"
    )
    assert shown[21:23] == [
        "imgctl avail: error (MultiError): multiple (1000) errors",
        "    error (ClientError): http://down/0: refused",
    ]
    assert shown[42:] == ["  hint: 980 more sources did not answer: `imgctl sources -c` names them"]


def test_avail_without_sources(daemon, imgctl):
    daemon.sources.refusal = NoSourcesError("imgadm has no configured sources")
    assert "error (NoSources)" in imgctl("avail").stderr


def test_sources_check_succeeds_although_some_fail(daemon, imgctl):
    error = ClientError("http://b: refused\x1b").as_wire()
    daemon.sources.checked = [
        {"url": "http://a", "type": "imgapi", "ok": True, "error": None},
        {"url": "http://b", "type": "static", "ok": False, "error": error},
    ]
    shown = imgctl("sources", "-c")
    assert shown.returncode == 0
    assert shown.stdout.splitlines() == [
        "URL       TYPE    OK     ERROR",
        "http://a  imgapi  true   -",
        "http://b  static  false  http://b: refused\\x1b",
    ]
    assert json.loads(imgctl("sources", "-c", "-j").stdout) == daemon.sources.checked


def test_a_list_that_may_lack_images_is_said(daemon, imgctl):
    reason = "the list of http://a may be cut\x1b"
    said = "warning: the list of http://a may be cut\\x1b\n"
    daemon.sources.checked = [
        {"url": "http://a", "type": "imgapi", "ok": True, "error": None, "incomplete": reason}
    ]
    shown = imgctl("sources", "-c")
    assert (shown.returncode, shown.stderr) == (0, f"imgctl sources: {said}")
    daemon.sources.found = {
        "images": [],
        "problems": [],
        "incomplete": [{"source": "http://a", "message": reason}],
    }
    shown = imgctl("avail")
    assert (shown.returncode, shown.stderr) == (0, f"imgctl avail: {said}")
    # imgadm says nothing of it.
    for line in (("sources", "-c"), ("avail",)):
        assert imgctl(*line, imgadm=True).stderr == ""
    assert "incomplete" in imgctl("sources", "-c", "-j").stdout
    assert "incomplete" not in imgctl("sources", "-c", "-j", imgadm=True).stdout


def test_a_source_with_a_channel(daemon, imgctl):
    source = {"url": URL, "type": "imgapi", "insecure": False, "channel": "dev"}
    daemon.sources.specs = [source]
    assert json.loads(imgctl("sources", "-j").stdout) == [{"url": URL, "type": "imgapi", "channel": "dev"}]
    assert imgctl("sources", "-d", URL).stdout == f'Deleted "imgapi" image source "{URL}" (channel=dev)\n'


def test_a_filter_leaves_the_manifest_as_it_is(daemon, imgctl):
    daemon.store.images = [image(name="a", published_at="2026-11-24T00:00:00.000Z", files=[{"size": 1}])]
    assert json.loads(imgctl("list", "-j", "name=a", "clones=0", "size=1").stdout) == daemon.store.images


def test_a_field_that_only_some_images_have(daemon, imgctl):
    daemon.store.images = [image(name="a", odd=1), image(name="b")]
    assert imgctl("list", "-H", "-o", "odd", "name=b").stdout.split() == ["-"]
    assert 'there is no field "od"' in imgctl("list", "-o", "od", "name=b").stderr


def test_hostile_text_steers_no_terminal(daemon, imgctl):
    daemon.store.images = [image(name="\x1b]0;pwned\x07", version="1\n2", os={"\x9b": "\u202e"}, type="é")]
    shown = imgctl("list", "-o", "name,version,os,type,\x1b")
    assert shown.stdout.splitlines()[1].split() == [
        "\\x1b]0;pwned\\x07", "1\\n2", '{"\\x9b":"\\u202e"}', "é", "-",
    ]  # fmt: skip
    for command in (("list", "-j"), ("get", U)):
        shown = imgctl(*command)
        assert shown.stdout.replace("\n", "").isprintable()
        assert "é" in shown.stdout
    assert imgctl("\x1b[31m").stderr.replace("\n", "").isprintable()


def test_a_terminal_that_cannot_show_a_character(daemon, imgctl):
    daemon.store.images = [image(name="é")]
    ascii_only = {**imgctl.environment, "PYTHONIOENCODING": "ascii"}
    assert imgctl("list", "-H", "-o", "name", env=ascii_only).stdout == "\\xe9\n"
    assert json.loads(imgctl("list", "-j", env=ascii_only).stdout) == daemon.store.images


def test_arguments_that_are_not_text(daemon, imgctl):
    shown = subprocess.run(
        [*map(os.fsencode, imgctl.line("show")), b"\xff\xfe"],
        env=imgctl.environment,
        capture_output=True,
        timeout=30,
    )
    assert shown.returncode == 1
    assert b'error (ImageNotFound): image "??" was not found' in shown.stderr


# -- install -------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    manifest, file = tmp_path / "m.json", tmp_path / "f.gz"
    manifest.write_text(json.dumps({"uuid": U, "name": "a", "version": "1"}))
    file.write_bytes(b"stream")
    return manifest, file


def test_install(daemon, imgctl, files):
    shown = imgctl("install", "-q", "-m", files[0], "-f", files[1])
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines() == [f"Installing image {U} (a@1)", f"Installed image {U} (a@1)"]
    ((manifest, data, path),) = daemon.store.files
    assert (data, path) == (b"stream", str(files[1]))
    assert len(manifest.pop("published_at")) == len("2026-11-24T00:00:00.000Z")
    assert manifest == {"uuid": U, "name": "a", "version": "1"}


def test_install_keeps_when_it_was_published(daemon, imgctl, files):
    files[0].write_text(json.dumps({"uuid": U, "name": "a", "version": "1", "published_at": "then"}))
    imgctl("install", "-m", files[0], "-f", files[1])
    assert daemon.store.files[0][0]["published_at"] == "then"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{bad", "Expecting property name"),
        (b"", "Expecting value"),
        (b"[]", "not a JSON object"),
        (b'{"v": NaN}', "NaN is not JSON"),
        (b"\xff\xff", "decode"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": "' + b"x" * (1 << 20) + b'"}', "more than 1048576 bytes"),
    ],
)
def test_install_with_a_bad_manifest(daemon, imgctl, files, content, words):
    files[0].write_bytes(content)
    shown = imgctl("install", "-m", files[0], "-f", files[1])
    assert shown.returncode == 1
    assert shown.stderr.startswith("imgctl install: error (InvalidManifest): manifest is invalid: ")
    assert words in shown.stderr
    assert daemon.store.files == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "/none", "-f", "FILE"], '(Usage): manifest path does not exist: "/none"'),
        (["-m", "MANIFEST", "-f", "/none"], '(Usage): file path does not exist: "/none"'),
        (["-f", "FILE"], "(Usage): -m <manifest> is required"),
        (["-m", "MANIFEST"], "(Usage): -f <file> is required"),
        (["a", "b"], '(Usage): unexpected args (2): "a b"'),
        (["-m", "/", "-f", "FILE"], "(FileSystem): [Errno 21] Is a directory: '/'"),
    ],
)
def test_install_with_other_arguments(imgctl, files, arguments, message):
    given = [{"MANIFEST": files[0], "FILE": files[1]}.get(word, word) for word in arguments]
    shown = imgctl("install", *given)
    usage = "  usage: imgctl install [OPTIONS] [-m MANIFEST] -f FILE\n" if "Usage" in message else ""
    said = "".join(line for line in shown.stderr.splitlines(True) if not line.startswith("  hint: "))
    assert (shown.returncode, said) == (1, f"imgctl install: error {message}\n{usage}")


# -- how it ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["import", "ensure", "watch"])
def test_ctrl_c_ends_the_interest(daemon, imgctl, command):
    daemon.store.scripts[U] = [Importing(U, "a", "1", URL), HOLD]
    with imgctl.start(command, U) as running:
        assert daemon.store.begun.wait(30)
        assert running.stdout.readline().startswith("Importing")  # at once, although it is a pipe
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    said = "imgctl: interrupted: what was downloaded is kept; the same command continues\n"
    assert (running.returncode, out, err) == (130, "", "" if command == "watch" else said)
    assert daemon.store.left.wait(30)


@pytest.mark.parametrize(
    ("kept", "done", "said"),
    [
        (36 << 20, 36 << 20, "36.0 MiB kept"),
        (36 << 20, 37 << 20, "36.0 MiB kept of 37.0 MiB, as complete ranges"),
        (0, 9, "0 B kept of 9.0 B, as complete ranges"),
        (0, 0, "nothing was downloaded yet"),
    ],
    ids=["all", "some", "no-range", "none"],
)
def test_ctrl_c_says_what_is_kept(daemon, imgctl, kept, done, said):
    images = [ImageProgress(U, "a", "1", "downloading", done, 64 << 20, 0, kept=kept)]
    daemon.store.scripts[U] = [Progress(9, 9, 0.0, images, fraction=0.5), Importing(U, "a", "1", URL), HOLD]
    with imgctl.start("import", U) as running:
        assert daemon.store.begun.wait(30)
        assert running.stdout.readline().startswith("Importing")
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
    assert err == f"imgctl: interrupted: {said}; the same command continues\n"


EVENT = {
    "number": 7,
    "at": "2026-11-29T00:12:13.456Z",
    "event": "installed",
    "uuid": U,
    "name": "a",
    "version": "1",
}


def test_events(daemon, imgctl):
    evil = {**EVENT, "number": 8, "event": "import-failed", "name": "a\x1b[2J", "message": "no\nroom"}
    daemon.store.scripts["events"] = [{**EVENT, "pool": "zones", "bytes": 5 << 20}, evil]
    shown = imgctl("events", "--since", "6", "--no-follow")
    assert shown.stdout.splitlines() == [
        f"     7  2026-11-29T00:12:13Z  installed         a@1 {U} in zones 5.0 MiB",
        f"     8  2026-11-29T00:12:13Z  import-failed     a\\x1b[2J@1 {U}: no\\nroom",
    ]
    assert daemon.store.wishes == [{"since": 6, "on": False}]
    lines = imgctl("events", "--since", "7", "-j").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [evil]
    assert daemon.store.wishes[1:] == [{"since": 7, "on": True}]


def test_events_from_now_on_begin_with_the_newest_number(daemon, imgctl):
    """What comes while the daemon is away before the first event is not missed."""
    daemon.store.scripts["events"] = []
    daemon.store.newest = 41
    assert imgctl("events").stdout == ""
    assert daemon.store.wishes == [{"since": None, "on": False}, {"since": 41, "on": True}]


@pytest.mark.parametrize("arguments", [("--since", "-1"), ("--since", "1" * 20), ("--since", "x"), ("more",)])
def test_events_that_make_no_sense(daemon, imgctl, arguments):
    daemon.store.scripts["events"] = []
    assert imgctl("events", *arguments).returncode == 1
    assert daemon.store.wishes == []


def test_a_detached_import_is_asked_for(daemon, imgctl):
    daemon.store.scripts[U] = [Importing(U, "a", "1", URL)]
    done = imgctl("import", "--detach", U)
    assert done.stdout.splitlines()[-1] == f"Image {U} is being imported; `imgctl wait {U}` waits for it"
    assert daemon.store.wishes[0]["detach"] is True
    daemon.store.scripts[U] = [AlreadyInstalled(U, "a", "1")]
    assert "imgctl wait" not in imgctl("ensure", "--detach", U).stdout


@pytest.mark.parametrize("seconds", ["-1", "x", "nan", "1e99"])
def test_a_time_limit_that_makes_no_sense(daemon, imgctl, seconds):
    refused = imgctl("wait", "-t", seconds, U)
    assert (refused.returncode, "invalid number of seconds" in refused.stderr) == (1, True)


def test_wait_until_the_time_is_over(daemon, imgctl):
    daemon.store.scripts |= {U: [HOLD], V: [Installed(V, "b", "1")]}
    late = imgctl("wait", "-t", "0.5", U, V)
    assert late.returncode == 124
    assert f"error (TimedOut): image {U} is not installed after 0.5 s" in late.stderr
    assert "1 image installed, 1 failed" in late.stdout + late.stderr


def test_a_reader_that_leaves_ends_it_quietly(daemon, imgctl):
    daemon.store.images = [image(name=f"n{number}") for number in range(5000)]
    with imgctl.start("list") as running:
        running.stdout.close()
        assert running.stderr.read() == ""
        assert running.wait(30) == 141


def test_a_disk_that_is_full_is_told(daemon, imgctl):
    with Path("/dev/full").open("w") as full:
        shown = imgctl("--help", stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert (shown.returncode, shown.stderr) == (
        1,
        "imgctl: error (FileSystem): [Errno 28] No space left on device\n",
    )


def test_closed_streams_are_no_reason_to_fail(daemon, imgctl):
    daemon.store.scripts[U] = [Note("n"), Installed(U, "a", "1")]
    line = " ".join(imgctl.line("import", U))
    assert (
        subprocess.run(["sh", "-c", f"{line} >&- 2>&-"], env=imgctl.environment, timeout=30).returncode == 0
    )


def test_a_cancelled_import_fails(daemon, imgctl):
    daemon.store.scripts[U] = [Importing(U, "a", "1", URL), CancelledError("it was cancelled")]
    shown = imgctl("import", U)
    assert shown.returncode == 1
    assert shown.stdout.splitlines()[-1] == "Aborting (it was cancelled)"
    assert shown.stderr == "imgctl import: error (Cancelled): it was cancelled\n"
