"""`ancestry`, `update`, `vacuum` and `sources -e`: what is asked, what is printed, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from imgstored.errors import ImageHasDependentClonesError, InvalidManifestError, SourcePingError, UsageError
from tests.support.events import (
    Left,
    ManifestUpdated,
    NotInSources,
    OriginalUnknown,
    SnapshotRenamed,
    UpdateFailed,
)
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ctl.conftest import Command
    from tests.ctl.fake_daemon import FakeDaemon

A, B, C = (f"11111111-aaaa-4bbb-8ccc-00000000000{n}" for n in (1, 2, 3))
URL = "http://images.example"


def installed(uuid: str, **fields: Any) -> dict[str, Any]:
    manifest = {"uuid": uuid, "name": "base", "version": "1.0", "published_at": "2026-01-01T00:00:00.000Z"}
    return {"manifest": {**manifest, **fields}, "zpool": "zones", "cloneNames": [], "clones": 0}


def planned(*uuids: str) -> list[dict[str, Any]]:
    return [{"uuid": uuid, "zpool": "zones", "name": "base", "version": "1.0"} for uuid in uuids]


def occupied(used: dict[str, int]) -> dict[str, Any]:
    facts = {"name": "base", "version": "1.0", "origin": None, "referenced": 0, "clones": []}
    images = [{"uuid": uuid, "used": count, **facts} for uuid, count in used.items()]
    return {"zpool": "zones", "total": 1 << 40, "available": 1 << 39, "images": images}


class TestAncestry:
    def test_the_image_comes_first(self, daemon: FakeDaemon, imgctl: Command):
        daemon.store.images = [installed(A), installed(B, origin=A)]
        result = imgctl("ancestry", B)
        assert result.stdout == (
            "UUID                                  NAME  VERSION  PUBLISHED\n"
            f"{B}  base  1.0      2026-01-01T00:00:00Z\n"
            f"{A}  base  1.0      2026-01-01T00:00:00Z\n"
        )
        assert imgctl("ancestry", "-H", "-o", "uuid", B).stdout == f"{B}\n{A}\n"
        (first, second) = json.loads(imgctl("ancestry", "-j", B).stdout)
        assert first == {"manifest": {**installed(B)["manifest"], "origin": A}, "zpool": "zones"}
        assert second["manifest"]["uuid"] == A

    def test_a_missing_link_is_not_installed(self, daemon: FakeDaemon, imgctl: Command):
        daemon.store.images = [installed(B, origin=A)]
        result = imgctl("ancestry", B)
        assert result.returncode == 3
        assert f'error (ImageNotInstalled): image "{A}" was not found on zpool "zones"' in result.stderr


class TestUpdate:
    def test_what_is_changed_is_told_in_imgadms_words(self, daemon: FakeDaemon, imgctl: Command):
        daemon.maintenance.events = [
            NotInSources(A),
            ManifestUpdated(B, "zones", URL, None),
            ManifestUpdated(B, "zones", URL, ["description"]),
            ManifestUpdated(C, "zones", URL, ["tags", "requirements.brand"]),
            SnapshotRenamed(C, "zones", "x"),
            OriginalUnknown(C, "zones"),
        ]
        result = imgctl("update", imgadm=True)
        assert result.stdout == (
            f"warning: Could not find image {A} in image sources (skipping)\n"
            f'Added manifest info for image {B} from "{URL}"\n'
            f'Updated 1 manifest field for image {B} from "{URL}": description\n'
            f'Updated 2 manifest fields for image {C} from "{URL}": tags, requirements.brand\n'
            f"Renamed image {C} original snapshot from zones/{C}@x to zones/{C}@final\n"
        )
        assert result.stderr == (
            f'imgadm: warn: cannot determine original snapshot for image "{C}" '
            '(source info has no "dataset_guid")\n'
        )
        assert result.returncode == 0
        assert daemon.maintenance.asked == [{"uuids": [], "dry_run": False}]

    def test_a_failure_is_said_and_the_others_go_on(self, daemon: FakeDaemon, imgctl: Command):
        error = InvalidManifestError("manifest is invalid: it is odd", hint="tell them").as_wire()
        daemon.maintenance.events = [UpdateFailed(A, "zones", error), ManifestUpdated(B, "zones", URL, None)]
        result = imgctl("update", "-n", A, B)
        assert result.returncode == 1
        assert result.stdout == f'Added manifest info for image {B} from "{URL}"\n'
        assert result.stderr == (
            "imgctl update: error (InvalidManifest): manifest is invalid: it is odd\n  hint: tell them\n"
        )
        assert daemon.maintenance.asked == [{"uuids": [A, B], "dry_run": True}]

    def test_an_unknown_image(self, daemon: FakeDaemon, imgctl: Command):
        daemon.maintenance.events = [UsageError(f"no installed image with the given UUID(s): {A}")]
        result = imgctl("update", A)
        assert result.returncode == 1
        assert "error (Usage): no installed image with the given UUID(s)" in result.stderr


class TestVacuum:
    def test_nothing_to_do_is_silent(self, imgctl: Command):
        result = imgctl("vacuum")
        assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)

    def test_a_dry_run_asks_and_deletes_nothing(self, daemon: FakeDaemon, imgctl: Command):
        daemon.store.images = [installed(A), installed(B)]
        daemon.maintenance.planned = planned(A, B)
        result = imgctl("vacuum", "-n")
        assert result.stdout == (
            f"[dry-run] Deleted image {A} (base@1.0)\n[dry-run] Deleted image {B} (base@1.0)\n"
        )
        assert result.returncode == 0
        assert len(daemon.store.images) == 2
        assert json.loads(imgctl("vacuum", "-n", "-j").stdout) == [
            {**each, "used": None} for each in planned(A, B)
        ]

    def test_what_has_no_manifest_is_named(self, daemon: FakeDaemon, imgctl: Command):
        daemon.store.images = [installed(A)]
        daemon.maintenance.planned = planned(A)
        daemon.maintenance.left = [Left(B, "zones", "no manifest")]
        result = imgctl("vacuum", "-n")
        assert result.stdout == f"Left image {B}: no manifest\n[dry-run] Deleted image {A} (base@1.0)\n"
        assert json.loads(imgctl("vacuum", "-n", "-j").stdout) == [{**planned(A)[0], "used": None}]
        daemon.maintenance.planned = []
        assert imgctl("vacuum").stdout == f"Left image {B}: no manifest\n"

    def test_with_force_it_does_not_ask(self, daemon: FakeDaemon, imgctl: Command):
        daemon.store.images = [installed(A), installed(B), installed(C)]
        daemon.maintenance.planned = planned(B, A)
        result = imgctl("vacuum", "-f", "--older-than", "2d", "--keep", "3")
        assert result.stdout == f"Deleted image {B} (base@1.0)\nDeleted image {A} (base@1.0)\n"
        assert [image["manifest"]["uuid"] for image in daemon.store.images] == [C]
        assert daemon.maintenance.asked == [{"older_than": 172800, "keep": 3}]

    @pytest.mark.parametrize(
        ("answer", "gone"), [("y\n", True), ("YES\n", True), ("\n", False), ("\x04", False)]
    )
    def test_it_asks(self, daemon: FakeDaemon, imgctl: Command, answer: str, gone: bool):
        daemon.store.images = [installed(A)]
        daemon.maintenance.planned = planned(A)
        with Terminal(imgctl.line("vacuum"), imgctl.environment) as terminal:
            shown = terminal.wait_for("Delete this image? [y/N] ").decode()
            assert f"This will delete the following images:\r\n    {A} (base@1.0)\r\n" in shown
            terminal.type(answer)
            assert terminal.end() == (0 if gone else 1)
            last = f"Deleted image {A} (base@1.0)" if gone else "Aborting"
            assert terminal.shown.decode().endswith(f"{last}\r\n")
        assert daemon.store.images == ([] if gone else [installed(A)])

    def test_json_is_for_a_dry_run(self, daemon: FakeDaemon, imgctl: Command):
        daemon.store.images, daemon.maintenance.planned = [installed(A)], planned(A)
        error = json.loads(imgctl("vacuum", "-fj").stderr)["error"]
        assert error["message"] == '"-j" needs "-n": it says what would be deleted'
        assert daemon.store.images == [installed(A)]

    @pytest.mark.parametrize("columns", [100, 40])
    def test_it_says_what_that_frees(self, daemon: FakeDaemon, imgctl: Command, columns: int):
        daemon.store.images = [installed(A), installed(B), installed(C)]
        daemon.maintenance.planned = planned(B, A)
        daemon.queries.pools = [occupied({A: 3 << 20, B: 2 << 20, C: 1 << 30})]
        assert imgctl("vacuum", "-n").stdout.endswith("\nWould free 5.0 MiB\n")
        assert [each["used"] for each in json.loads(imgctl("vacuum", "-nj").stdout)] == [2 << 20, 3 << 20]
        assert "free" not in imgctl("vacuum", "-n", imgadm=True).stdout
        with Terminal(imgctl.line("vacuum"), imgctl.environment, size=(24, columns)) as terminal:
            terminal.wait_for("This will free 5.0 MiB.\r\nDelete these 2 images? [y/N] ")
            terminal.type("y\n")
            assert terminal.end() == 0
            assert terminal.shown.decode().endswith("\r\nFreed 5.0 MiB\r\n")

    def test_what_is_not_known_is_not_said(self, daemon: FakeDaemon, imgctl: Command):
        daemon.store.images = [installed(A), installed(B)]
        daemon.maintenance.planned = planned(A, B)
        daemon.queries.pools = [occupied({A: 3 << 20})]
        assert "free" not in imgctl("vacuum", "-n").stdout.lower()

    def test_several_are_asked_for_at_once(self, daemon: FakeDaemon, imgctl: Command):
        daemon.maintenance.planned = planned(A, B)
        with Terminal(imgctl.line("vacuum"), imgctl.environment) as terminal:
            terminal.wait_for("Delete these 2 images? [y/N] ")

    @pytest.mark.parametrize("imgadm", [False, True])
    def test_what_comes_by_a_pipe_is_no_answer(
        self, daemon: FakeDaemon, imgctl: Command, tmp_path: Path, imgadm: bool
    ):
        """The person at the terminal is asked, although neither input nor output is that."""
        daemon.store.images = [installed(A)]
        daemon.maintenance.planned = planned(A)
        said = tmp_path / "said"
        piped = ["/bin/sh", "-c", 'yes | "$@" >"$0" 2>&1', str(said), *imgctl.line("vacuum", imgadm=imgadm)]
        with Terminal(piped, imgctl.environment) as terminal:
            terminal.wait_for("Delete this image? [y/N] ")
            assert f"    {A} (base@1.0)\n" in said.read_text(), "what it is about was said before"
            terminal.type("n\n")
            assert terminal.end() == 1
        assert said.read_text().endswith("Aborting\n")
        assert daemon.store.images == [installed(A)]
        with Terminal(piped, imgctl.environment) as terminal:
            terminal.wait_for("Delete this image? [y/N] ")
            terminal.type("y\n")
            assert terminal.end() == 0
        assert daemon.store.images == []

    def test_without_a_terminal_nothing_is_deleted(self, daemon: FakeDaemon, imgctl: Command):
        daemon.store.images = [installed(A)]
        daemon.maintenance.planned = planned(A)
        result = imgctl("vacuum", stdin=None, input="y\n" * 100, start_new_session=True)
        assert result.returncode == 1
        assert result.stderr == (
            "imgctl vacuum: error (NoTerminal): nothing is deleted: there is no terminal on which to ask\n"
            "  hint: `imgctl vacuum -f` deletes without asking; `-n` shows what would be deleted\n"
        )
        assert daemon.store.images == [installed(A)]

    def test_it_stops_at_an_error(self, daemon: FakeDaemon, imgctl: Command):
        daemon.maintenance.planned = planned(A, B)
        daemon.store.errors["delete"] = ImageHasDependentClonesError("in use", hint="wait")
        result = imgctl("vacuum", "-f")
        assert result.stdout == f"Error deleting image {A} (base@1.0): in use\n"
        assert "error (ImageHasDependentClones): in use" in result.stderr
        assert result.returncode == 1

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["x", "y"], "unexpected arguments: x y"),
            (["--older-than", "2"], 'invalid --older-than "2"'),
            (["--older-than", "-2d"], 'invalid --older-than "-2d"'),
            (["--keep", "x"], 'invalid --keep: "x"'),
        ],
    )
    def test_what_makes_no_sense_does_nothing(
        self, daemon: FakeDaemon, imgctl: Command, arguments: list[str], message: str
    ):
        daemon.store.images, daemon.maintenance.planned = [installed(A)], planned(A)
        result = imgctl("vacuum", "-f", *arguments)
        assert result.returncode == 1
        assert f"error (Usage): {message}" in result.stderr
        assert daemon.store.images == [installed(A)]


def source(url: str, **fields: Any) -> dict[str, Any]:
    return {"url": url, "type": "imgapi", "insecure": False, "channel": None, **fields}


@pytest.fixture
def editor(folder: Path, imgctl: Command, monkeypatch: pytest.MonkeyPatch):
    """Writes a program that edits: `sed` scripts, one a call."""

    def write(*scripts: str) -> None:
        program = folder / "editor"
        steps = "\n".join(f"{n}) {script} ;;" for n, script in enumerate(scripts, 1))
        program.write_text(
            f"#!/bin/sh\necho . >> {folder}/calls\ncase $(wc -l < {folder}/calls) in\n{steps}\n"
            f"*) exit 9 ;;\nesac\n"
        )
        program.chmod(0o755)
        imgctl.environment["VISUAL"] = str(program)
        imgctl.environment["TMPDIR"] = str(folder)

    return write


class TestEdit:
    def left(self, folder: Path) -> list[Path]:
        return list(folder.glob("img*-sources-*"))

    def test_what_was_written_counts(self, daemon: FakeDaemon, imgctl: Command, editor, folder: Path):
        daemon.sources.specs = [source("http://a"), source("http://b", insecure=True)]
        editor('sed -i "/a imgapi/d; s/b imgapi.*/c dsapi/" "$1"')
        result = imgctl("sources", "-e")
        assert result.stdout == (
            'Added "dsapi" image source "http://c"\n'
            'Deleted "imgapi" image source "http://a"\n'
            'Deleted "imgapi" image source "http://b" (insecure)\n'
        )
        assert daemon.sources.specs == [source("http://c", type="dsapi")]
        assert self.left(folder) == []

    @pytest.mark.parametrize("script", [":", 'echo "# a remark" >> "$1"'])
    def test_nothing_written_nothing_changed(self, daemon: FakeDaemon, imgctl: Command, editor, script: str):
        daemon.sources.specs = [source("http://a")]
        editor(script)
        assert imgctl("sources", "-e").stdout == "Image sources unchanged\n"

    def test_editor_with_arguments(self, daemon: FakeDaemon, imgctl: Command, editor):
        editor(":")
        imgctl.environment["VISUAL"] += " -f 'two words'"
        assert imgctl("sources", "-e").returncode == 0

    def test_without_a_terminal_an_error_keeps_what_was_written(
        self, daemon: FakeDaemon, imgctl: Command, editor, folder: Path
    ):
        daemon.sources.specs = [source("http://a")]
        editor('echo "http://b imgapi secure" >> "$1"')
        result = imgctl("sources", "-e")
        assert result.returncode == 1
        (path,) = self.left(folder)
        assert result.stderr == (
            "imgctl sources: error (Usage): unknown source option: secure\n"
            f"  hint: nothing is changed; what was written is in {path}\n"
        )
        assert "http://b imgapi secure\n" in path.read_text()
        assert daemon.sources.specs == [source("http://a")]

    @pytest.mark.parametrize(
        ("visual", "words"), [("false", "exited with status 1"), ("/nowhere", "cannot run")]
    )
    def test_an_editor_that_fails(self, daemon: FakeDaemon, imgctl: Command, editor, visual: str, words: str):
        editor()
        imgctl.environment["VISUAL"] = visual
        result = imgctl("sources", "-e")
        assert result.returncode == 1
        assert words in result.stderr
        assert "nothing is changed" in result.stderr

    def test_a_source_that_does_not_answer_is_edited_again(
        self, daemon: FakeDaemon, imgctl: Command, editor, folder: Path
    ):
        """On a terminal one is asked; what was written is still there the second time."""
        daemon.sources.specs = [source("http://a")]
        daemon.sources.refusal = SourcePingError("it does not answer")
        editor('echo "http://b" >> "$1"', 'grep -q "^http://b$" "$1" && sed -i "/^http:..b$/d" "$1"')
        status, output = on_a_terminal(imgctl, ["sources", "-e"], {"Edit again? [Y/n] ": "\n"})
        assert status == 0
        assert "it does not answer" in output
        assert output.endswith("Image sources unchanged\r\n")
        assert self.left(folder) == []

    def test_on_a_terminal_one_may_give_up(self, daemon: FakeDaemon, imgctl: Command, editor, folder: Path):
        daemon.sources.refusal = SourcePingError("it does not answer")
        editor('echo "http://b" >> "$1"')
        status, output = on_a_terminal(imgctl, ["sources", "-e"], {"Edit again? [Y/n] ": "n\n"})
        assert status == 1
        (path,) = self.left(folder)
        assert f"what was written is in {path}" in re.sub("\x1b\\[[0-9;]*m", "", output)

    def test_force_does_without_an_answer(self, daemon: FakeDaemon, imgctl: Command, editor):
        daemon.sources.refusal = SourcePingError("it does not answer")
        editor('echo "http://b" >> "$1"')
        assert imgctl("sources", "-e", "-f").stdout == 'Added "imgapi" image source "http://b"\n'


def on_a_terminal(imgctl: Command, arguments: list[str], answers: dict[str, str]) -> tuple[int, str]:
    """Runs the command on a terminal and answers its questions; returns its exit status and output."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        imgctl.line(*arguments), env=imgctl.environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    output, deadline = "", time.monotonic() + 30
    while time.monotonic() < deadline:
        if not select.select([ours], [], [], 0.2)[0]:
            if process.poll() is not None:
                break
            continue
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        output += piece.decode()
        for question, answer in list(answers.items()):
            if question in output:
                os.write(ours, answer.encode())
                del answers[question]
    os.close(ours)
    return process.wait(10), output.replace("\r\r", "\r")


def test_import_hands_zstream_on(daemon: FakeDaemon, imgctl: Command):
    daemon.store.scripts[A] = []
    assert imgctl("import", "--zstream", A).returncode == 0
    assert daemon.store.wishes[0]["zstream"] is True
    assert imgctl("import", A).returncode == 0
    assert daemon.store.wishes[1]["zstream"] is False


def test_the_level_of_the_log_is_as_verbose(daemon: FakeDaemon, imgctl: Command):
    daemon.store.errors["delete"] = ImageHasDependentClonesError("in use", data={"dependents": ["x"]})
    assert "data:" not in imgctl("delete", A).stderr
    imgctl.environment["IMGADM_LOG_LEVEL"] = "debug"
    assert "data:" in imgctl("delete", A).stderr
