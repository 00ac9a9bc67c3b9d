"""What imgadm printed in the same state of things, imgctl prints under imgadm's name, byte by byte.

Only hints are more: they follow imgadm's error line.
"""

from __future__ import annotations

import json
import shlex
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from imgstored.errors import (
    ActiveImageNotFoundError,
    ClientError,
    DownloadError,
    ImageHasDependentClonesError,
    ImgstoreError,
    InvalidUUIDError,
    MinPlatformError,
    SourcePingError,
)
from tests.support.events import (
    AlreadyInstalled,
    Downloaded,
    GatheringAncestry,
    Importing,
    Installed,
    Installing,
    Planned,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.ctl.conftest import Command
    from tests.ctl.fake_daemon import FakeDaemon

DATA = Path(__file__).parents[1] / "data"
RUNS = {run["case"]: run for run in json.loads((DATA / "imgadm-runs.json").read_text())}
SERVED = json.loads((DATA / "imgadm-server-images.json").read_text())
MANIFESTS = {manifest["uuid"]: manifest for manifest in SERVED}
SERVER = "http://127.0.0.1:8080"
CLOSED = "http://127.0.0.1:9999"


def uuid(number: int) -> str:
    return f"11111111-aaaa-4bbb-8ccc-{number:012}"


BASE, INCREMENTAL, ZVOL = uuid(1), uuid(2), uuid(3)
MISSING = "22222222-aaaa-4bbb-8ccc-000000000001"


def installed(uuid_: str, *clones: str, manifest: bool = True) -> dict[str, Any]:
    image: dict[str, Any] = {"manifest": MANIFESTS[uuid_] if manifest else {"uuid": uuid_}, "zpool": "zones"}
    if manifest:
        image["source"] = SERVER
    return {**image, "cloneNames": [f"zones/{clone}" for clone in clones], "clones": len(clones)}


def source(url: str, *, insecure: bool = False) -> dict[str, Any]:
    return {"url": url, "type": "imgapi", "insecure": insecure, "channel": None}


def nothing(daemon: FakeDaemon) -> None:
    """A host without images, and a server that has some."""
    daemon.sources.manifests = MANIFESTS
    daemon.sources.found = {
        "images": [{"manifest": manifest, "source": SERVER} for manifest in SERVED],
        "problems": [],
    }


def chain(daemon: FakeDaemon) -> None:
    nothing(daemon)
    daemon.store.images = [installed(BASE, INCREMENTAL), installed(INCREMENTAL)]


def all_three(daemon: FakeDaemon) -> None:
    chain(daemon)
    daemon.store.images.append(installed(ZVOL))


def two_machines(daemon: FakeDaemon) -> None:
    nothing(daemon)
    machines = ("33333333-aaaa-4bbb-8ccc-000000000001", "33333333-aaaa-4bbb-8ccc-000000000002")
    daemon.store.images = [installed(BASE, *machines), installed(ZVOL)]


def without_a_manifest(daemon: FakeDaemon) -> None:
    daemon.store.images = [installed(BASE, manifest=False), installed(ZVOL)]


def failing(method: str, error: ImgstoreError, state: Callable[[FakeDaemon], None] = chain):
    def prepare(daemon: FakeDaemon) -> None:
        state(daemon)
        daemon.store.errors[method] = error

    return prepare


def with_sources(*sources: Mapping[str, Any], refusal: ImgstoreError | None = None):
    def prepare(daemon: FakeDaemon) -> None:
        nothing(daemon)
        daemon.sources.specs = [dict(each) for each in sources]
        daemon.sources.refusal = refusal

    return prepare


def one_down(daemon: FakeDaemon) -> None:
    nothing(daemon)
    error = ClientError(f"{CLOSED}: Error: connect ECONNREFUSED 127.0.0.1:9999")
    daemon.sources.found["problems"] = [{"source": CLOSED, "error": error.as_wire()}]


def script(key: str, *steps: Any):
    def prepare(daemon: FakeDaemon) -> None:
        daemon.store.scripts[key] = list(steps)

    return prepare


def beginning(uuid_: str) -> list[Any]:
    manifest = MANIFESTS[uuid_]
    return [Importing(uuid_, manifest["name"], manifest["version"], SERVER), GatheringAncestry(uuid_)]


def done(uuid_: str) -> Installed:
    return Installed(uuid_, MANIFESTS[uuid_]["name"], "1.0.0")


def downloaded(uuid_: str) -> Downloaded:
    return Downloaded(uuid_, MANIFESTS[uuid_]["files"][0]["size"])


def whole(*uuids: str) -> list[Any]:
    size = sum(MANIFESTS[each]["files"][0]["size"] for each in uuids)
    return [
        *beginning(uuids[0]),
        Planned(len(uuids), size),
        *(downloaded(each) for each in uuids),
        *(done(each) for each in reversed(uuids)),
    ]


def message_of(case: str) -> str:
    """The message of the error that imgadm ended with."""
    line: str = RUNS[case]["stderr"].splitlines()[0]
    return line.split("): ", 1)[1]


default = "https://images.smartos.org"
refused = SourcePingError(message_of("sources-a-refused"))
dependent = {
    case: ImageHasDependentClonesError(message_of(case), hint="delete those first")
    for case in ("delete-dependent", "delete-two-clones")
}

STATES: dict[str, Callable[[FakeDaemon], None]] = {
    **dict.fromkeys([case for case in RUNS if case.startswith("avail")], nothing),
    **dict.fromkeys(
        [case for case in RUNS if case.startswith(("show", "list-empty", "unknown", "option"))], nothing
    ),
    **dict.fromkeys([case for case in RUNS if case.endswith("noargs")], nothing),
    "avail-one-down": one_down,
    "delete-dependent": failing("delete", dependent["delete-dependent"]),
    "delete-two-clones": failing("delete", dependent["delete-two-clones"], two_machines),
    "delete-missing": chain,
    "delete-ok": chain,
    "get-bad-uuid": failing("get", InvalidUUIDError("not-a-uuid")),
    "get-missing": chain,
    "get-r": chain,
    "get-with-clones": two_machines,
    "get": chain,
    "import-already": script(INCREMENTAL, AlreadyInstalled(INCREMENTAL, "incremental", "1.0.0")),
    "import-badsum": script(
        uuid(11), *beginning(uuid(11)), Planned(1, 1_851_100), DownloadError(message_of("import-badsum"))
    ),
    "import-chain": script(INCREMENTAL, *whole(INCREMENTAL, BASE)),
    "import-disabled": script(uuid(14), ActiveImageNotFoundError(message_of("import-disabled"))),
    "import-minplat": script(
        uuid(16), *beginning(uuid(16)), MinPlatformError(message_of("import-minplat"), hint="update")
    ),
    "import-q": script(BASE, *whole(BASE)),
    "import-unknown": script(MISSING, ActiveImageNotFoundError(message_of("import-unknown"))),
    "import-zvol": script(ZVOL, *whole(ZVOL)),
    "install-already": script("install", AlreadyInstalled(BASE, "base", "1.0.0")),
    "install-size-mismatch": script(
        "install", Installing(ZVOL, "zvol", "1.0.0"), DownloadError(message_of("install-size-mismatch"))
    ),
    "list-f-bad": nothing,
    "list-f": chain,
    "list-j": chain,
    "list-nomanifest": without_a_manifest,
    "list-o": all_three,
    "list-with-clones": two_machines,
    "sources-a-already-slash": with_sources(source(SERVER)),
    "sources-a-and-d": nothing,
    "sources-a-force-down": with_sources(refusal=refused),
    "sources-a-insecure": with_sources(source(SERVER)),
    "sources-a-ok-again": nothing,
    "sources-a-refused": with_sources(refusal=refused),
    "sources-d-default": with_sources(source(default)),
    "sources-d-down": with_sources(source(CLOSED)),
    "sources-d-missing": nothing,
    "sources-d-ok-two": with_sources(source(SERVER), source(SERVER, insecure=True)),
    "sources-default-j": with_sources(source(default)),
    "sources-extra-args": nothing,
    "sources-list-v": with_sources(
        source(default), source(SERVER), source(CLOSED), source(SERVER, insecure=True)
    ),
    "sources-list": with_sources(source(default), source(SERVER), source(CLOSED), source(SERVER)),
}

#: The error that ends these is printed for programs: compared by `test_an_error_for_programs`.
STRUCTURED = {case for case in RUNS if "-E" in RUNS[case]["command"]}


@pytest.mark.parametrize("case", sorted(STATES.keys() - STRUCTURED))
def test_imgctl_prints_what_imgadm_printed(daemon: FakeDaemon, imgctl: Command, case: str):
    STATES[case](daemon)
    run = RUNS[case]
    before = deepcopy(MANIFESTS)
    result = imgctl(*arguments_of(run), imgadm=True)
    assert (result.stdout, imgadms(result.stderr), result.returncode) == (
        run["stdout"],
        run["stderr"],
        run["exit"],
    )
    assert before == MANIFESTS


@pytest.mark.parametrize("case", sorted(STRUCTURED))
def test_an_error_for_programs_is_imgadms_record(daemon: FakeDaemon, imgctl: Command, case: str):
    run = RUNS[case]
    result = imgctl(*arguments_of(run), imgadm=True)
    assert (result.stdout, result.returncode) == (run["stdout"], run["exit"])
    ours, imgadms_ = json.loads(result.stderr.splitlines()[-1]), json.loads(run["stderr"])
    assert ours.keys() == imgadms_.keys()
    for field in ("name", "level", "msg", "v"):
        assert ours[field] == imgadms_[field]
    assert (ours["err"]["code"], ours["err"]["message"]) == (
        imgadms_["err"]["code"],
        imgadms_["err"]["message"],
    )
    assert len(result.stderr.splitlines()) == 1


def test_every_run_of_imgadm_is_compared():
    assert RUNS.keys() == STATES.keys()


def arguments_of(run: Mapping[str, Any]) -> list[str]:
    words = shlex.split(run["command"])[1:]
    return [
        str(DATA / word.removeprefix("streams/")) if word.startswith("streams/") else word for word in words
    ]


def imgadms(stderr: str) -> str:
    return "".join(line for line in stderr.splitlines(keepends=True) if not line.startswith("  hint: "))
