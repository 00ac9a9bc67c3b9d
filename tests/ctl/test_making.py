"""`create`, `publish` and `export`: imgadm's lines, and what becomes of the files."""

from __future__ import annotations

import json
import signal

import pytest

from imgstored.create.maker import CreateSpec
from imgstored.errors import NoSpaceError, VmNotStoppedError
from tests.support.events import CreationStep, Inheriting, ManifestMade, Note, Progress, Publishing, Sending

BASE = "11111111-aaaa-4bbb-8ccc-000000000001"
VM = "55555555-aaaa-4bbb-8ccc-000000000001"
MANIFEST = {"v": 2, "uuid": BASE, "name": "test1", "version": "1.0"}
FILES = [{"sha1": "0" * 40, "size": 8, "compression": "gzip"}]
NAMED = ManifestMade(MANIFEST, "test1-1.0", ".zfs.gz")

#: As imgadm prints it: the longest way, with a prepare script.
LINES = f"""\
Inheriting from origin image {BASE} (base 9)
Manifest:
    {{
      "v": 2,
      "uuid": "{BASE}",
      "name": "test1",
      "version": "1.0"
    }}
Stopping VM {VM} to snapshot it
Snapshotting VM "{VM}" to @imgadm-create-pre-prepare
Preparing VM {VM} (starting it)
Prepare script is running
Prepare script succeeded
Prepare script stopped VM {VM}
Moving existing @final snapshot out of the way to "zones/{VM}@final-5"
Snapshotting to "zones/{VM}@final"
Sending image file to "test1-1.0.zfs.gz"
Rollback VM {VM} to pre-prepare snapshot (cleanup)
Restarting VM {VM} (cleanup)
Saving manifest to "test1-1.0.imgmanifest"
"""
EVENTS = [
    Inheriting(BASE, "base", "9"),
    NAMED,
    CreationStep("vm-stopping", VM),
    CreationStep("vm-snapshotting", VM),
    CreationStep("vm-starting", VM),
    CreationStep("prepare-running", VM),
    CreationStep("prepare-succeeded", VM),
    CreationStep("prepare-stopped", VM),
    CreationStep("final-moved", f"zones/{VM}@final-5"),
    CreationStep("snapshotting", f"zones/{VM}@final"),
    Sending(),
    Progress(done=4, total=8, rate=0.0),
    CreationStep("vm-rolling-back", VM),
    CreationStep("vm-restarting", VM),
]


@pytest.fixture
def making(daemon):
    daemon.making.events = [NAMED, Sending()]
    daemon.making.result = {"manifest": {**MANIFEST, "files": FILES}}
    return daemon.making


@pytest.fixture
def there(folder):
    """What is in the folder where files are written, and the folder."""
    (folder / "here").mkdir()
    return lambda: sorted(path.name for path in (folder / "here").iterdir()), folder / "here"


def test_all_lines_of_create(imgctl, making, there):
    names, here = there
    making.events = EVENTS
    (here.parent / "script").write_text("#!/bin/sh\n")
    script = ("-s", str(here.parent / "script"))
    said = imgctl("create", "-i", "-c", "gz", *script, VM, "name=test1", "version=1.0", imgadm=True, cwd=here)
    assert (said.returncode, said.stderr, said.stdout) == (0, "", LINES)
    assert making.asked == [
        CreateSpec(VM, {}, ["name=test1", "version=1.0"], "gzip", True, None, "#!/bin/sh\n"),
    ]
    assert names() == ["test1-1.0.imgmanifest", "test1-1.0.zfs.gz"]
    assert (here / "test1-1.0.zfs.gz").read_bytes() == b"a stream"
    manifest = (here / "test1-1.0.imgmanifest").read_text()
    assert manifest == json.dumps({**MANIFEST, "files": FILES}, indent=2)


@pytest.mark.parametrize(
    ("template", "files"),
    [
        ("here", ["test1-1.0.imgmanifest", "test1-1.0.zfs.gz"]),
        ("here/mine", ["mine.imgmanifest", "mine.zfs.gz"]),
        ("here/mine.v1", ["mine.v1.imgmanifest", "mine.v1.zfs.gz"]),
    ],
)
def test_where_the_files_go(imgctl, making, there, template, files):
    names, here = there
    said = imgctl("create", "-o", template, "zones/web", cwd=here.parent)
    assert said.returncode == 0, said.stderr
    assert names() == files
    assert said.stdout.splitlines()[-1] == f'Saving manifest to "here/{files[0]}"'


def test_what_is_there_is_replaced(imgctl, making, there):
    names, here = there
    for name in ("test1-1.0.imgmanifest", "test1-1.0.zfs.gz"):
        (here / name).write_text("before")
    making.events = [NAMED, NoSpaceError("no room left")]
    assert imgctl("create", "zones/web", cwd=here).returncode == 1
    assert {(here / name).read_text() for name in names()} == {"before"}
    making.events = [NAMED]
    assert imgctl("create", "zones/web", cwd=here).returncode == 0
    assert "before" not in {(here / name).read_text() for name in names()}


def test_a_manifest_that_is_given(imgctl, making, there, tmp_path):
    _, here = there
    (tmp_path / "m.json").write_text('{"name": "a", "tags": {"b": 1}}')
    assert imgctl("create", "-m", str(tmp_path / "m.json"), VM, "version=1", cwd=here).returncode == 0
    assert imgctl("create", "-m", "-", VM, cwd=here, stdin=None, input='{"os": "bsd"}').returncode == 0
    assert [(spec.manifest, spec.fields) for spec in making.asked] == [
        ({"name": "a", "tags": {"b": 1}}, ["version=1"]),
        ({"os": "bsd"}, []),
    ]


def test_a_failure_leaves_no_file(imgctl, making, there):
    names, here = there
    making.events = [VmNotStoppedError(VM)]
    failed = imgctl("create", VM, "name=a", imgadm=True, cwd=here)
    assert failed.returncode == 1
    assert failed.stderr.startswith(
        f'imgadm create: error (VmNotStopped): vm "{VM}" is not stopped\n  hint: '
    )
    record = imgctl("-E", "create", VM, "name=a", imgadm=True, cwd=here).stderr.splitlines()[-1]
    assert json.loads(record)["err"]["code"] == "VmNotStopped"
    assert names() == []


def test_ctrl_c_leaves_no_file(imgctl, making, there):
    names, here = there
    making.events = [NAMED, "until the client leaves"]
    client = imgctl.start("create", "zones/web", cwd=here)
    assert client.stdout.readline() == "Manifest:\n"
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=30)
    assert client.returncode == 130
    assert names() == []


def test_a_hostile_name_of_a_file(imgctl, making, there):
    names, here = there
    making.events = [ManifestMade(MANIFEST, "../../etc/x", ".zfs")]
    assert "cannot have the name" in imgctl("create", "zones/web", cwd=here).stderr
    assert names() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "error (Usage): an argument is missing"),
        (["-o", "x", "-p", "http://a", VM], "cannot specify both -o,--output-template and -p,--publish"),
        (["-c", "lz4", VM], 'error (Usage): invalid -c,--compression "lz4": must be one of "none"'),
        (["--max-origin-depth", "1", VM], 'invalid max-origin-depth "1": must be greater than 1'),
        (["--max-origin-depth", "x", VM], 'invalid max-origin-depth "x": must be greater than 1'),
        (["-m", "nosuch", VM], 'manifest path does not exist: "nosuch"'),
        (["-s", "nosuch", VM], 'prepare-image script path does not exist: "nosuch"'),
        (["--raw", "-i", "disk"], "-i is not for a disk"),
        (["--block-size", "4096", "zones/web"], "--block-size is for a disk, with --raw"),
        (["-x"], 'error (Option): unknown option: "-x"'),
    ],
)
def test_wrong_arguments(imgctl, making, there, arguments, words):
    names, here = there
    said = imgctl("create", *arguments, cwd=here)
    assert said.returncode == 1
    assert words in said.stderr
    assert (names(), making.asked) == ([], [])


def test_publish(imgctl, making, there):
    _, here = there
    (here / "m").write_text(json.dumps(MANIFEST))
    (here / "f").write_bytes(b"the file")
    making.events = [
        Publishing(BASE, "test1", "1.0", "imported", state="unactivated"),
        Progress(done=1, total=8, rate=0.0),
        Publishing(BASE, "test1", "1.0", "file", compression="gzip"),
        Publishing(BASE, "test1", "1.0", "activated"),
    ]
    said = imgctl("publish", "-m", "m", "-f", "f", "http://images.example.com", imgadm=True, cwd=here)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.splitlines() == [
        f"Imported image {BASE} (test1, 1.0, state=unactivated)",
        f'Added file "f" (compression "gzip") to image {BASE}',
        f"Activated image {BASE}",
        f"Successfully published image {BASE} to http://images.example.com",
    ]
    assert making.asked == [{"manifest": MANIFEST, "url": "http://images.example.com", "file": b"the file"}]
    for missing, words in ((("-m", "m"), "-f <file>"), (("-f", "f"), "-m <manifest>")):
        assert f"{words} is required" in imgctl("publish", *missing, "http://a", cwd=here).stderr


def test_export(imgctl, making, there):
    names, here = there
    making.events = [NAMED, Sending(), Note("a note")]
    said = imgctl("export", "-c", "gzip", BASE, cwd=here)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines() == [
        f'Exported image {BASE} to "test1-1.0.imgmanifest"',
        f'Exported image {BASE} to "test1-1.0.zfs.gz"',
    ]
    assert names() == ["test1-1.0.imgmanifest", "test1-1.0.zfs.gz"]
    asked = making.asked[0]
    assert (asked["uuid"], asked["compression"], asked["form"]) == (BASE, "gzip", "stream")
    assert "must be one of" in imgctl("export", "--format", "vdi", BASE, cwd=here).stderr
    wrong = imgctl("export", "--format", "raw", "-c", "xz", BASE, cwd=here)
    assert "a disk is not compressed" in wrong.stderr


def test_export_into_a_folder_that_is_not_there(imgctl, making, there):
    names, here = there
    said = imgctl("export", "-o", "nowhere/img", BASE, cwd=here)
    assert said.returncode == 1
    first, hint = said.stderr.splitlines()
    assert first == "imgctl export: error (FileSystem): there is no folder nowhere"
    assert hint == "  hint: make it first"
    assert (names(), making.asked) == ([], [])


def test_the_manifest_of_an_export_can_be_read_again_however_large_it_is(imgctl, making, there):
    """Indentation would make it larger than what `install` reads."""
    _, here = there
    large = {**MANIFEST, "tags": {"x": [[[[[number]]]] for number in range(10_000)], "y": ["y"] * 19_000}}
    assert len(json.dumps(large, indent=2)) > 1 << 20
    making.result = {"manifest": large}
    making.events = [NAMED, Sending()]
    assert imgctl("export", BASE, cwd=here).returncode == 0
    path = here / "test1-1.0.imgmanifest"
    assert path.stat().st_size < 1 << 19
    assert json.loads(path.read_text()) == large
