"""What other tools look for in imgadm's output is there: their patterns, written anew.

Ansible's community.general.imgadm, Salt's smartos_imgadm, Triton's agent on compute nodes, and imgadm's own
completion for bash. Their calls are made under the name imgadm, against the real daemon and a real server.
"""

from __future__ import annotations

import json
import re

import pytest

from tests.support.image_site import BASE, INCREMENTAL, ZVOL
from tests.support.imgadm_host import CLOSED, ImgadmHost

MISSING = "22222222-aaaa-4bbb-8ccc-000000000001"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory):
    with ImgadmHost(tmp_path_factory.mktemp("host")) as host:
        yield host


@pytest.fixture
def host(running: ImgadmHost):
    """With nothing installed."""
    running.use(running.url)
    yield running
    running.imgadm("vacuum", "-f", check=True)


def errmsg(stderr: str) -> str | None:
    """Ansible's: the message of an error with a code."""
    match = re.match(r"^imgadm .*?: error \(\w+\): (.*): .*", stderr)
    return match[1] if match else None


def test_ansible_imports_and_deletes(host: ImgadmHost):
    def present(uuid: str):
        return host.imgadm("import", "-P", "zones", "-q", uuid)

    first = present(ZVOL)
    assert first.stdout.splitlines()[-1].startswith(f"Imported image {ZVOL}")
    again = present(ZVOL)
    assert (again.returncode, again.stderr) == (0, "")
    assert re.match(rf"Image {ZVOL} \(.*\) is already installed, skipping", again.stdout)
    unknown = present(MISSING)
    assert unknown.returncode == 1
    assert "ActiveImageNotFound" in unknown.stderr
    gone = host.imgadm("delete", "-P", "zones", ZVOL)
    assert f"Deleted image {ZVOL}" in gone.stdout
    again = host.imgadm("delete", "-P", "zones", ZVOL)
    assert again.returncode == 3
    assert "ImageNotInstalled" in again.stderr


def test_ansible_vacuums(host: ImgadmHost):
    assert host.imgadm("vacuum", "-f").stdout == "", "nothing on standard output: not changed"
    host.imgadm("import", INCREMENTAL)
    assert host.imgadm("vacuum", "-f").stdout != ""
    assert host.imgadm("list").stdout == ""


def test_ansible_adds_and_deletes_sources(host: ImgadmHost):
    closed = f"http://{host.address}:{CLOSED}"
    already = host.imgadm("sources", "-a", host.url, "-t", "imgapi").stdout
    assert f'Already have "imgapi" image source "{host.url}", no change' in already
    refused = host.imgadm("sources", "-a", closed, "-t", "imgapi")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert errmsg(refused.stderr) is not None
    added = host.imgadm("sources", "-f", "-a", closed, "-t", "imgapi").stdout
    assert f'Added "imgapi" image source "{closed}"' in added
    deleted = host.imgadm("sources", "-d", closed).stdout
    assert re.search(rf'Deleted ".*" image source "{closed}"', deleted)
    again = host.imgadm("sources", "-d", closed).stdout
    assert f'Do not have image source "{closed}", no change' in again


def test_salt_reads_lists_and_manifests(host: ImgadmHost):
    assert re.fullmatch(r"[0-9]+(\.[0-9]+)+\S*", host.imgadm("--version").stdout.split()[-1])
    for each in json.loads(host.imgadm("avail", "-j").stdout):
        for field in ("uuid", "name", "version", "os", "description", "published_at", "public"):
            assert field in each["manifest"]
        assert each["manifest"]["disabled"] is False
        assert each["source"] == host.url
    assert json.loads(host.imgadm("show", ZVOL).stdout)["uuid"] == ZVOL
    assert host.imgadm("import", ZVOL).returncode == 0
    assert [each["manifest"]["name"] for each in json.loads(host.imgadm("list", "-j").stdout)] == ["zvol"]
    assert json.loads(host.imgadm("get", ZVOL).stdout)["manifest"]["uuid"] == ZVOL
    assert [each["url"] for each in json.loads(host.imgadm("sources", "-j").stdout)] == [host.url]
    assert host.imgadm("get", MISSING).returncode == 3


def test_salt_takes_words_of_lines(host: ImgadmHost):
    host.imgadm("import", INCREMENTAL)
    deleted = host.imgadm("delete", INCREMENTAL).stdout
    assert [line.split(" ")[2] for line in deleted.splitlines()] == [INCREMENTAL]
    vacuumed = host.imgadm("vacuum", "-f").stdout
    assert [line.split()[2:4] for line in vacuumed.splitlines()] == [[BASE, "(base@1.0.0)"]]


def test_tritons_agent_imports_and_reads_errors(host: ImgadmHost):
    environment = {"IMGADM_LOG_LEVEL": "debug", "REQ_ID": "7c2e9a52-7a9f-4d9c-a52e-5a0b4d6b3b5e"}

    def imgadm(*arguments: str):
        settings = " ".join(f"{name}={value}" for name, value in environment.items())
        return host.shell(["sh", "-c", f"{settings} imgadm {' '.join(arguments)}"])

    done = imgadm("import", "-q", "-P", "zones", ZVOL, "-S", host.url)
    assert (done.returncode, done.stderr) == (0, "")
    failed = imgadm("import", "-q", "-P", "zones", MISSING)
    assert failed.returncode == 1
    assert len(failed.stderr) < 1024
    record = json.loads(imgadm("-E", "import", "-q", "-P", "zones", MISSING).stderr.splitlines()[-1])
    assert record["err"]["code"] == "ActiveImageNotFound"
    assert MISSING in record["err"]["message"]
    assert record["req_id"] == environment["REQ_ID"]
    assert json.loads(imgadm("get", ZVOL).stdout)["manifest"]["uuid"] == ZVOL


def test_vmadm_asks_for_the_image(host: ImgadmHost):
    """It fails closed: an exit status, or a document without a manifest, is no image."""
    host.imgadm("import", ZVOL)
    document = json.loads(host.imgadm("get", "-P", "zones", ZVOL).stdout)
    assert (document["manifest"]["type"], document["manifest"]["image_size"]) == ("zvol", 24)
    assert host.imgadm("get", "-P", "zones", MISSING).returncode != 0


def test_bashs_completion_lists_uuids(host: ImgadmHost):
    assert ZVOL in host.imgadm("avail", "-H", "-o", "uuid").stdout.splitlines()
    host.imgadm("import", ZVOL)
    assert host.imgadm("list", "-H", "-o", "uuid").stdout == f"{ZVOL}\n"
