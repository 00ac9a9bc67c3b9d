"""The main job where packages are not installed: one after another, and all of them at once."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from imgstored.hashing import BLAKE2B
from imgstored.imports.journal import Journal
from imgstored.zstream.fletcher4 import library
from tests.e2e.conftest import made_image, static_source
from tests.e2e.test_on_demand import jobs, started, until
from tests.support.compressed import zstd
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, ZVOL_SHA256
from tests.support.nginx import Nginx
from tests.support.streams import filesystem_stream
from tests.support.without import environment

#: What the daemon and imgctl can do without, each with what it is compiled to, where it is.
COMPILED = {
    "blake3": "blake3/blake3",
    "isal": "isal/isal_zlib",
    "msgpack._cmsgpack": "msgpack/_cmsgpack",
    "numpy": "numpy/_core/_multiarray_umath",
    "pyfuse3": "pyfuse3/__init__",
    "zstandard": "zstandard/backend_c",
}
ALL = (*COMPILED, "werkzeug", "prometheus_client", "tqdm")

ZSTD = "44444444-aaaa-4bbb-8ccc-000000000003"
MADE = "44444444-aaaa-4bbb-8ccc-000000000004"
MIB = 1 << 20


def mapped(pid: int) -> set[str]:
    """The packages of which the process has loaded what is compiled."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {name for name, file in COMPILED.items() if f"/{file}." in maps}


@pytest.mark.slow
@pytest.mark.parametrize("without", [(), *((name,) for name in ALL), ALL], ids=lambda names: "+".join(names))
def test_the_main_job(served, tmp_path, without):
    stream = filesystem_stream(size=4 * MIB, seed=5)
    add_zstd(served.pages, stream)
    config = static_source(served.url)
    # Where ZFS's own library sums up, NumPy is not loaded.
    with Daemon(tmp_path / "store", config=config, view="auto", without=[*without, "libzfs"]) as daemon:
        imported = daemon.imgctl("import", INCREMENTAL)  # xz, and its origin gzip
        assert (imported.returncode, imported.stderr) == (0, "")
        assert imported.stdout.endswith(f"Imported image {INCREMENTAL} (incremental@1.0.0)\n")
        daemon.imgctl("import", ZVOL, check=True)  # bzip2
        (disk,) = (daemon.folder / "state" / "pool" / ZVOL).glob("*.raw")
        assert hashlib.sha256(disk.read_bytes()).hexdigest() == ZVOL_SHA256
        images = {BASE, INCREMENTAL, ZVOL}

        compressed = daemon.imgctl("import", ZSTD)
        if "zstandard" in without:
            assert compressed.returncode == 1
            assert (
                "(UncompressionError): the image file is compressed with zstd, which this"
                in compressed.stderr
            )
            assert 'hint: install the Python package "zstandard"' in compressed.stderr
        else:
            assert compressed.returncode == 0
            images.add(ZSTD)
        listed = daemon.imgctl("list", "-H", "-o", "uuid").stdout.split()
        assert set(listed) == images
        assert len(listed) == len(images)
        assert {path.name for path in daemon.images.glob("*-*-*-*-*")} == images
        assert (daemon.images / INCREMENTAL / "manifest.json").is_file()
        mounted = str(daemon.images) in Path("/proc/mounts").read_text()
        assert mounted == ("pyfuse3" not in without)

        assert mapped(daemon.pid) == COMPILED.keys() - set(without)
        absent = {name for name in ALL if f"{name} is not installed" in daemon.imgctl("doctor").stdout}
        assert absent - {"pyfuse3"} == set(without) - {"pyfuse3"}

        verified = daemon.imgctl("verify")
        assert (verified.returncode, verified.stdout.splitlines()[-1]) == (
            0,
            f"Verified {len(images)} images: {len(images)} ok",
        )
        for uuid in sorted(images, reverse=True):
            assert daemon.imgctl("delete", uuid).stdout == f"Deleted image {uuid}\n"
        assert daemon.imgctl("list").stdout == ""
        assert "Traceback" not in daemon.log.read_text()
        assert daemon.stop() == 0


def test_numpy_is_not_loaded_where_zfs_has_its_library(served, tmp_path):
    with Daemon(tmp_path / "store", config=static_source(served.url)) as daemon:
        daemon.imgctl("import", BASE, check=True)
        assert ("numpy" in mapped(daemon.pid)) == (library() is None)


def add_zstd(pages, stream: bytes) -> None:
    """An image that is compressed with zstd."""
    file = zstd(stream)
    described = {"sha1": hashlib.sha1(file).hexdigest(), "size": len(file), "compression": "zstd"}
    manifest, _ = made_image(ZSTD, size=MIB, seed=5)
    pages.add({**manifest, "files": [described]}, file)


@pytest.mark.parametrize("name", ALL)
def test_what_it_does_without_is_installed_here(name):
    """Else the test above would show nothing."""
    assert importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("name", ["werkzeug", "prometheus_client"])
def test_metrics_are_refused_without(tmp_path, name):
    config = f'[metrics]\nlisten = "unix:{tmp_path}/metrics"\n'
    with pytest.raises(RuntimeError, match=f"the Python package {name} is not installed") as caught:
        Daemon(tmp_path / "store", config=config, without=[name]).start()
    assert "pip install 'imgstore[serve]'" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_mount_is_refused_without(tmp_path):
    with pytest.raises(RuntimeError, match="FUSE is not possible here") as caught:
        Daemon(tmp_path / "store", view="fuse", without=["pyfuse3"]).start()
    assert "Traceback" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("later", [(), ("blake3",)], ids=["with", "without"])
def test_what_was_downloaded_without_blake3_is_not_fetched_again(served, gate, tmp_path, later):
    """Neither by a daemon that has it, nor by another one without."""
    manifest, file = made_image(MADE, size=8 * MIB)
    served.pages.add(manifest, file)
    folder = tmp_path / "store"
    gate.hold(after=len(file) // 2 + 1)
    locations = {f"/{MADE}/": gate.location}
    with Nginx(tmp_path / "slow", root=served.pages.folder, locations=locations) as slow:
        config = static_source(slow.url) + "[limits]\nconnections = 2\nmin_rate = 0\n"
        with Daemon(folder, config=config, without=["blake3"]) as daemon:
            client = started(daemon, "import", MADE)
            until(lambda: any(job["done"] >= len(file) // 2 for job in jobs(daemon)), seconds=60)
            daemon.kill()
            client.communicate(timeout=30)
    journal = Journal(folder / "state" / "journal.sqlite")
    known = journal.ranges(f"zones-{MADE}").load()
    journal.close()
    assert known is not None
    ranges = known.fingerprints
    assert ranges
    assert {each.algorithm for each in ranges.values()} == {BLAKE2B}
    with Daemon(folder, config=static_source(served.url), without=later) as daemon:
        until(lambda: MADE in daemon.imgctl("list").stdout, seconds=60)
        assert daemon.imgctl("verify", MADE).returncode == 0
        assert daemon.stop() == 0
    # An idle connection may ask for what another one is at: so not the bytes, but the ranges tell.
    asked = [hit.range for hit in served.nginx.settled_hits(quiet=0.3) if hit.path == f"/{MADE}/file"]
    starts = [int(each.removeprefix("bytes=").partition("-")[0]) for each in asked]
    assert starts
    assert {start // known.range_size for start in starts} & ranges.keys() == set()


def test_what_is_not_found_is_as_if_it_were_not_installed():
    """To `importlib`, to what imports it, and to what can do without a part of it."""
    code = (
        "import importlib.util\n"
        "assert importlib.util.find_spec('blake3') is None\n"
        "assert importlib.util.find_spec('isal') is not None\n"
        "try:\n    import numpy.linalg\n"
        "except ModuleNotFoundError as error:\n    assert error.name == 'numpy', error.name\n"
        "else:\n    raise SystemExit('numpy is there')\n"
        "import msgpack\n"
        "print(msgpack.Unpacker.__module__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment("blake3", "numpy", "msgpack._cmsgpack"),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("msgpack.fallback\n", "")
