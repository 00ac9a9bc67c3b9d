"""The Debian package: built, and put on this machine with a layer over it, used, removed and purged."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import imgstored
from tests.docs.pages import blocks
from tests.support.image_site import ImageSite
from tests.support.nginx import Nginx
from tests.support.overlay import run_over
from tests.support.packages import ROOT, TIMEOUT, build, outside

MAINTAINER = {"DEBFULLNAME": "Ada Lovelace", "DEBEMAIL": "ada@example.org"}
#: KiB of what is installed. It was 86,000 when this was set, and 147,000 with libraries' tests and symbols.
LARGEST = 100_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dist = tmp_path_factory.mktemp("dist")
    build(dist)
    venv = Path(sys.executable).parents[1]
    done = subprocess.run(
        [str(ROOT / "smf" / "debian" / "build.sh"), str(venv), str(dist)],
        env={**outside(), **MAINTAINER, "COMPRESSION": "none"},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.splitlines()[-1])


def dpkg_deb(*arguments: str | Path) -> str:
    return subprocess.run(
        ["dpkg-deb", *map(str, arguments)], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_what_dpkg_is_told(package: Path):
    assert dpkg_deb("-f", package, "Package").strip() == "imgstore"
    assert dpkg_deb("-f", package, "Version").startswith(f"{imgstored.__version__}-1~")
    depends = dpkg_deb("-f", package, "Depends")
    # Its Python packages are of one minor version of Python; pyfuse3 was built here.
    minor = f"3.{sys.version_info.minor}"
    assert f"python3 (>= {minor})" in depends
    assert "libfuse3-" in depends
    assert re.findall(r"@[A-Z]+@", dpkg_deb("-f", package)) == []
    assert dpkg_deb("-f", package, "Maintainer").strip() == "Ada Lovelace <ada@example.org>"
    assert int(dpkg_deb("-f", package, "Installed-Size")) < LARGEST


def test_nobody_maintains_nothing(tmp_path: Path):
    """No package comes from a place that does not say who answers for it."""
    (tmp_path / f"imgstore-{imgstored.__version__}-py3-none-any.whl").touch()
    done = subprocess.run(
        [str(ROOT / "smf" / "debian" / "build.sh"), str(Path(sys.executable).parents[1]), str(tmp_path)],
        env={**outside(), "DEBFULLNAME": "root", "DEBEMAIL": "nowhere"},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert done.returncode == 1
    assert "who maintains the package? Set DEBFULLNAME and DEBEMAIL" in done.stderr


def test_its_bill_of_materials(package: Path):
    """What is in it, each with the hash of the file that was installed: one of those in the lock."""
    packed = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        name = "./usr/share/doc/imgstore/sbom.cdx.json"
        file = tar.extractfile(name)
        assert file is not None
        found = json.loads(file.read())
        inside = {each.name for each in tar if each.name.endswith(".dist-info")}
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.5")
    assert found["metadata"]["component"]["version"] == imgstored.__version__
    lock = (ROOT / "tests" / "requirements.lock").read_text()
    components = {each["name"].lower(): each for each in found["components"]}
    assert {"trio", "msgpack", "httpx2", "pyfuse3"} <= components.keys()
    assert len(inside) == len(components) + 1  # imgstore's own
    for name, each in components.items():
        assert f"{name.replace('_', '-')}=={each['version']}" in lock
        assert each["purl"] == f"pkg:pypi/{name.replace('_', '-')}@{each['version']}"
        (digest,) = each["hashes"]
        assert digest["alg"] == "SHA-256"
        assert digest["content"] in lock


def test_what_is_where(package: Path):
    lines = [line.split(maxsplit=5) for line in dpkg_deb("-c", package).splitlines()]
    files = {line[5].split(" -> ")[0].removeprefix(".") for line in lines}
    assert {
        "/usr/bin/imgctl",
        "/usr/bin/imgstored",
        "/etc/imgstored.toml",
        "/usr/lib/systemd/system/imgstored.service",
        "/usr/lib/systemd/system/imgstored-update.service",
        "/usr/lib/systemd/system/imgstored-update.timer",
        "/usr/lib/systemd/system/imgstored-vacuum.service",
        "/usr/lib/systemd/system/imgstored-vacuum.timer",
        "/usr/lib/python3/dist-packages/imgstore.pth",
        "/usr/share/doc/imgstore/examples/prometheus-alerts.yml",
        "/usr/share/doc/imgstore/examples/grafana-dashboard.json",
        "/usr/share/man/man8/imgstored.8.gz",
        "/usr/share/bash-completion/completions/imgctl",
        "/usr/share/zsh/vendor-completions/_imgctl",
        "/usr/share/fish/vendor_completions.d/imgctl.fish",
        "/usr/share/doc/imgstore/copyright",
        "/usr/share/doc/imgstore/sbom.cdx.json",
    } <= files
    assert {line[1] for line in lines} == {"root/root"}
    # Its sources may have passwords.
    assert [line[0] for line in lines if line[5] == "./etc/imgstored.toml"] == ["-rw-------"]
    # Nothing that another package may have, too: of Python's all is in /opt/imgstore.
    elsewhere = {file for file in files if not file.startswith("/opt/")}
    assert [file for file in elsewhere if file.endswith((".py", ".pyc", ".so"))] == []
    assert [file for file in files if re.search(r"/_?tests?/", file)] == []
    programs = {Path(file).name for file in files if file.startswith("/opt/imgstore/bin/")}
    assert {program for program in programs if not program.startswith("python")} == {
        "bin",
        "imgctl",
        "imgstored",
    }


SESSION = """
dpkg --no-triggers --install "$package" >/dev/null
echo "group $(getent group imgstore | cut -d: -f1)"
dpkg --verify imgstore
imgstored --config /etc/imgstored.toml --check
imgstored --config /etc/imgstored.toml 2>/dev/null & daemon=$!
for _ in $(seq 300); do imgctl list >/dev/null 2>&1 && break; sleep 0.1; done
imgctl list -H && echo listed
stat -c '%G %a' /run/imgstored/imgstored.sock
stat -c 'configuration %a' /etc/imgstored.toml
ls /images
imgctl sources -a "$server" -t static >/dev/null
imgctl sources -d https://images.smartos.org >/dev/null
# Debian's own packages are found, too, for python3-pyzfs is one.
/opt/imgstore/bin/python -c 'import pyfuse3, sys; print(*sys.path)' | grep -o /usr/lib/python3/dist-packages
# The README's example, by the system's own Python.
/usr/bin/python3 -W error /tmp/example.py && echo "an example"
# What was taken out of the libraries is not missed.
imgctl doctor | grep -E '^(warn|fail) +extras' && echo "something is missed"
/opt/imgstore/bin/python -W error -c "$libraries" && echo "all of them"
kill $daemon; wait $daemon && echo stopped
# Python wrote nothing beside what is installed.
dpkg --verify imgstore
find /opt/imgstore -type f | sort >/tmp/found
dpkg --listfiles imgstore | sort >/tmp/listed
comm -23 /tmp/found /tmp/listed | sed 's/^/not listed: /'
echo '# changed' >>/etc/imgstored.toml
dpkg --no-triggers --install "$package" >/dev/null
tail -n 1 /etc/imgstored.toml
dpkg --no-triggers --remove imgstore >/dev/null 2>&1
ls /opt/imgstore /usr/bin/imgctl 2>/dev/null || echo removed
ls /etc/imgstored.toml
dpkg --no-triggers --purge imgstore >/dev/null
ls /etc/imgstored.toml 2>/dev/null || echo purged
dpkg --audit
"""


LIBRARIES = """
import cryptography.hazmat.primitives.asymmetric.ed25519, isal.isal_zlib, numpy, os, zstandard
from imgstored.zstream.fletcher4 import Plain, WithNumPy
assert zstandard.backend == "cext"
assert zstandard.decompress(zstandard.compress(b"x" * 9999)) == b"x" * 9999
data, places = os.urandom(40000), [400, 20000, 40000]
for order in "<>":
    assert WithNumPy().whole(order, (1, 2, 3, 4), data) == Plain().whole(order, (1, 2, 3, 4), data)
    noted = [engine.noting(order, (1, 2, 3, 4), data, places) for engine in (WithNumPy(), Plain())]
    assert noted[0] == noted[1]
"""


def readme_example() -> str:
    """The README's program."""
    (block,) = [block.text for block in blocks("README.md") if block.language == "python"]
    assert 'store.ensure("base@latest", on_event=print)' in block
    return block


def test_install_use_upgrade_remove_purge(package: Path, tmp_path: Path):
    (tmp_path / "example.py").write_text(readme_example())
    site = ImageSite(tmp_path / "site")
    site.add_fixtures()
    with Nginx(tmp_path / "nginx", root=site.folder) as nginx:
        given = (
            f"package={package}\nlibraries={shlex.quote(LIBRARIES)}\nserver={nginx.url}\n"
            f"cp {tmp_path}/example.py /tmp/example.py\n"
        )
        done = run_over(tmp_path / "layer", given + SESSION, timeout=600)
    assert done.returncode == 0, done.stdout
    said = done.stdout.splitlines()
    expected = [
        "group imgstore",
        "listed",
        "imgstore 666",
        "configuration 600",
        "by-name",
        "/usr/lib/python3/dist-packages",
        "an example",
        "all of them",
        "stopped",
        "# changed",
        "removed",
        "/etc/imgstored.toml",
        "purged",
    ]
    assert [line for line in said if line in expected] == expected, done.stdout
    assert "not listed" not in done.stdout
    assert "something is missed" not in done.stdout
    assert "['base']" in said
    # This machine has none of it.
    assert not Path("/opt/imgstore").exists()
