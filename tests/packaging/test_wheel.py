"""The sdist and the wheel: what is in them, and that the wheel alone makes a machine an image store."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

import imgstored
from tests.support.image_site import BASE, INCREMENTAL, ImageSite
from tests.support.packages import ROOT, CleanPlace, InstalledDaemon, build

if TYPE_CHECKING:
    from tests.support.nginx import Nginx

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


#: What the wheel needs by itself.
BASE_PACKAGES = {
    "trio",
    "msgpack",
    "blake3",
    "httpx2",
    "httpcore2",
    "h11",
    "socksio",
    "msgspec",
    "structlog",
    "tqdm",
}
#: What the extras bring.
EXTRAS = ("isal", "numpy", "zstandard", "pyfuse3", "werkzeug", "prometheus_client")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture
def wheel(built: tuple[Path, Path]) -> Path:
    return built[1]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, built: tuple[Path, Path]) -> CleanPlace:
    """The wheel without extras."""
    place = CleanPlace(tmp_path_factory.mktemp("bare") / "place")
    place.install(built[1])
    return place


@pytest.fixture
def site_url(site: Path, nginx: Nginx) -> str:
    ImageSite(site).add_fixtures()
    return nginx.url


def modules(folder: Path) -> set[str]:
    return {str(path.relative_to(folder.parent)) for path in folder.rglob("*.py")}


def test_the_wheel_has_both_programs_and_what_belongs_to_them(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = Parser().parsestr(
            archive.read(f"imgstore-{imgstored.__version__}.dist-info/METADATA").decode()
        )
        scripts = archive.read(f"imgstore-{imgstored.__version__}.dist-info/entry_points.txt").decode()
    code = {name for name in names if name.endswith(".py")}
    folders = (ROOT / "imgstored", ROOT / "ctl" / "imgctl", ROOT / "ctl" / "imgproto")
    assert code == set().union(*map(modules, folders))
    data = {name.partition(".data/data/")[2] for name in names if ".data/data/" in name}
    assert {
        "share/man/man1/imgctl.1",
        "share/man/man8/imgstored.8",
        "share/man/man5/imgstored.toml.5",
        "share/bash-completion/completions/imgctl",
        "share/zsh/site-functions/_imgctl",
        "share/fish/vendor_completions.d/imgctl.fish",
        "share/imgstore/systemd/imgstored.service",
        "share/imgstore/smf/imgstored.xml",
        "share/imgstore/smf/method/imgstored",
        "share/imgstore/smf/check-host",
        "share/imgstore/imgstored.toml",
    } <= data
    assert metadata["Version"] == imgstored.__version__
    needed = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    assert {
        each.name for each in needed if not each.marker or "extra" not in str(each.marker)
    } == BASE_PACKAGES
    (blake3,) = (each for each in needed if each.name == "blake3")
    assert str(blake3.marker) == 'sys_platform != "sunos5"'
    assert set(metadata.get_all("Provides-Extra")) == {"fuse", "fast", "serve", "sign"}
    assert scripts.splitlines()[1:3] == ["imgctl = imgctl.cli:main", "imgstored = imgstored.__main__:main"]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    # Type checkers of programs that use `Client` look for these.
    assert {"imgctl/py.typed", "imgproto/py.typed"} <= names


def test_the_sdist_has_the_tests_and_nothing_that_was_made(built: tuple[Path, Path]):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"tests/setup.sh", "tests/requirements.lock", "tests/packaging/test_wheel.py", "Makefile"} <= names
    assert {"tests/data/README.md", "docs/install.md", "bench/__main__.py", "LICENSE"} <= names
    made = ("__pycache__", ".pyc", ".venv", "build/", ".hypothesis")
    assert [name for name in names if any(part in name for part in made)] == []


def test_a_clean_machine_without_extras(bare: CleanPlace, site_url: str):
    place = bare
    for extra in EXTRAS:
        assert place.run("python", "-c", f"import {extra}").returncode == 1

    source = f'[[sources]]\nurl = "{site_url}"\ntype = "static"\n'
    with InstalledDaemon(place, f'[view]\npath = "{place.folder}/images"\n{source}') as daemon:
        assert place.run("imgctl", "import", INCREMENTAL).returncode == 0
        listed = place.run("imgctl", "list", "-H", "-o", "uuid").stdout.split()
        assert {BASE, INCREMENTAL} == set(listed)
        # Without FUSE, plain files.
        assert (daemon.images / INCREMENTAL / "manifest.json").is_file()
        assert str(daemon.images) not in Path("/proc/mounts").read_text()
    assert daemon.status == 0
    # It was the installed one.
    where = place.run("python", "-c", "import imgstored, imgctl; print(imgstored.__file__, imgctl.__file__)")
    assert all(path.startswith(str(place.folder)) for path in where.stdout.split())


@pytest.mark.parametrize(
    ("setting", "extra"),
    [
        ('[view]\nmode = "fuse"\npath = "@/images"\n', "fuse"),
        ('[view]\nmode = "files"\npath = "@/images"\n[metrics]\nlisten = "unix:@/metrics"\n', "serve"),
    ],
    ids=["fuse", "serve"],
)
def test_what_is_missing_is_said(bare: CleanPlace, setting: str, extra: str):
    daemon = InstalledDaemon(bare, setting.replace("@", str(bare.folder)))
    done = bare.run("imgstored", "--config", str(daemon.config_file))
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert f"pip install 'imgstore[{extra}]'" in done.stderr


def test_with_all_extras(tmp_path: Path, wheel: Path, site_url: str):
    place = CleanPlace(tmp_path / "place")
    place.install(wheel, "[fuse,fast,serve]")
    for extra in EXTRAS:
        assert place.run("python", "-c", f"import {extra}").returncode == 0

    view = f'[view]\nmode = "fuse"\npath = "{tmp_path}/place/images"\n'
    view += f'[metrics]\nlisten = "unix:{tmp_path}/place/metrics"\n'
    with InstalledDaemon(place, f'{view}[[sources]]\nurl = "{site_url}"\ntype = "static"\n') as daemon:
        assert place.run("imgctl", "import", INCREMENTAL).returncode == 0
        assert (daemon.images / INCREMENTAL / "manifest.json").is_file()
        assert str(daemon.images) in Path("/proc/mounts").read_text()
        curl = ["curl", "-sf", "--unix-socket", f"{place.folder}/metrics", "http://localhost/metrics"]
        assert b"imgstored_imports_total" in subprocess.run(curl, capture_output=True, check=True).stdout
    assert daemon.status == 0
    assert str(daemon.images) not in Path("/proc/mounts").read_text()
