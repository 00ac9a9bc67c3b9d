"""The client under the name imgadm does what imgadm did in each of its recorded runs, byte for byte.

The real client, by a link, asks the real daemon, which asks a real web server. Only hints are more; they
follow imgadm's error line. `DIFFERENT` has the runs that end in another way on purpose.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.image_site import BASE, DATA, INCREMENTAL, ZVOL, fixture_file, fixture_manifest
from tests.support.imgadm_host import CLOSED, FAILING, FAILING_TOO, UNAVAILABLE, ImgadmHost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Step = str | Callable[[ImgadmHost], object]

RUNS: dict[str, dict[str, Any]] = {
    run["case"]: run
    for name in ("imgadm-runs.json", "imgadm-runs-host.json")
    for run in json.loads((DATA / name).read_text())
}

#: Runs of which the text is not kept: help is for people, and says what the program at hand has.
HELP = {
    "help": ("--help",),
    "help-avail": ("help", "avail"),
    "help-list": ("help", "list"),
    "help-sources": ("help", "sources"),
    "help-vacuum": ("help", "vacuum"),
    "no-args": (),
}

DEFAULT = {"type": "imgapi", "url": "https://images.smartos.org"}
MACHINES = ("33333333-aaaa-4bbb-8ccc-000000000001", "33333333-aaaa-4bbb-8ccc-000000000002")


@dataclass(frozen=True)
class Difference:
    """How a run ends with us, as regular expressions and a number; what is None is as imgadm had it."""

    why: str
    stderr: str | None = None
    stdout: str | None = None
    exit: int | None = None


_ABORT = "imgadm aborts with a stack trace, a defect: this is the error that it should have been"
_BEGUN = r"Importing [^\n]+\nGather [^\n]+\nMust download and install 1 image \(1.7 MiB\)\n"
_WORDS = "the error has no words of Node's, and the URL that was asked"

DIFFERENT = {
    "ancestry-bad-uuid": Difference(
        "imgadm fails an assertion", r'imgadm ancestry: error \(InvalidUUID\): invalid uuid: "not-a-uuid"\n'
    ),
    "avail-500": Difference(
        _WORDS,
        r"imgadm avail: error \(InternalError\): http://[0-9.]+:8085/images: something is broken\n",
    ),
    "avail-503text": Difference(
        "imgadm does not say which source it was",
        r"imgadm avail: error \(APIError\): http://[0-9.]+:8083/images: 503 Service Unavailable\n",
    ),
    "avail-nosources-j": Difference(
        "imgadm fails an assertion",
        r"imgadm avail: error \(NoSources\): imgadm has no configured sources\n",
    ),
    "avail-one-down": Difference(
        _WORDS,
        r"imgadm avail: error \(ClientError\): http://[0-9.]+:9999/images: connection refused\n",
    ),
    "config-invalid-json": Difference(
        "the file is the test's, and the error says where in it; imgadm reads it before it knows the command",
        r'imgadm sources: error \(ConfigError\): config file "[^"]+/imgadm.conf" is not valid JSON: .*\n',
    ),
    "import-P-nopool": Difference(
        f"{_ABORT}, and nothing need be downloaded to find it",
        r'imgadm import: error \(InternalError\): no such pool: "nopool"\n',
        stdout="",
        exit=1,
    ),
    "import-badsum": Difference(
        "the file is hashed as it is received, and so it is said before that it is downloaded",
        stdout=rf"{_BEGUN}"
        r"Downloaded image [0-9a-f-]+ \(1.7 MiB\)\nAborting \(image [0-9a-f-]+ file checksum \(sha1\) error: "
        r'expected "0{40}", downloaded checksum was "[0-9a-f]{40}"\)\n',
    ),
    "import-corrupt": Difference(
        _ABORT,
        r"imgadm import: error \(InternalError\): the checksum of the OBJECT record at byte \d+ of the stream"
        r" is wrong\n",
        stdout=rf"{_BEGUN}Downloaded [^\n]+\nAborting \(the checksum [^\n]+\)\n",
        exit=1,
    ),
    "import-truncated": Difference(
        "the size is compared before anything is downloaded, and so there is one error, not two",
        r"imgadm import: error \(DownloadError\): [^\n]+ file size error: expected 1851100 bytes, "
        r"the server has 1000000 bytes\n",
        stdout=rf"{_BEGUN}Aborting \(.*\)\n",
    ),
    "install-bad-json": Difference(
        "what is wrong with the JSON is said in other words",
        r"imgadm install: error \(InvalidManifest\): manifest is invalid: Expecting property name [^\n]+\n",
    ),
    "install-origin-missing": Difference(
        f"{_ABORT}, and the origin is looked for before anything is done",
        r'imgadm install: error \(OriginNotInstalled\): origin image "[0-9a-f-]+" is not installed [^\n]+\n',
        stdout="",
        exit=3,
    ),
    "list-with-clones": Difference(
        "without ZFS only images can be clones, and these are listed, too",
        stdout=rf"UUID +NAME +CLONES\n{BASE}  base +2\n(33333333[^\n]+  0\n){{2}}{ZVOL}  zvol +0\n",
    ),
    "show-missing-503": Difference(
        "imgadm does not say which source it was",
        r"imgadm show: error \(APIError\): http://[0-9.]+:8083/images/[0-9a-f-]+: 503 Service Unavailable\n",
    ),
    "sources-a-404text": Difference(
        _WORDS,
        r'imgadm sources: error \(SourcePing\): unexpected ping error with "imgapi" image source '
        r'"http://[0-9.]+:8084": http://[0-9.]+:8084/ping: 404 Not Found\n',
    ),
    "sources-a-500": Difference(
        _WORDS,
        r'imgadm sources: error \(SourcePing\): unexpected ping error with "imgapi" image source '
        r'"http://[0-9.]+:8082": http://[0-9.]+:8082/ping: something is broken\n',
    ),
    "sources-a-badtype": Difference(
        "imgadm's list of types is an error of its own (without a code), and this one says which there are",
        r'imgadm sources: error \(ConfigError\): type "bogus" for source url "http://[0-9.]+:8080" is '
        r'invalid: must be one of "imgapi", "dsapi", "static", "oci"\n',
    ),
    "sources-a-badurl": Difference(
        f"{_WORDS}, which has a scheme",
        r'imgadm sources: error \(SourcePing\): unexpected ping error with "imgapi" image source '
        r'"http://notaurl": http://notaurl/ping: [^\n]+\n',
    ),
    "sources-a-refused": Difference(
        _WORDS,
        r'imgadm sources: error \(SourcePing\): unexpected ping error with "imgapi" image source '
        r'"http://[0-9.]+:9999": http://[0-9.]+:9999/ping: connection refused\n',
    ),
    "update": Difference("without ZFS an image always has its snapshot @final", ""),
    "version": Difference(
        "it is another program; the second word is its version", stdout=r"imgadm \d+\.\d+\.\d+\S*\n"
    ),
}


def sources(*names: str | dict[str, Any] | None) -> Callable[[ImgadmHost], None]:
    """imgadm.conf has these sources; "" is the server, a number another port of its host."""

    def use(host: ImgadmHost) -> None:
        host.use(*(_source(host, name) for name in names))

    return use


def _source(host: ImgadmHost, name: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    if name == "":
        return host.url
    if name == "insecure":
        return {"type": "imgapi", "url": host.url, "insecure": True}
    return f"http://{host.address}:{name}" if isinstance(name, str) else name


def imgadm(*arguments: str) -> Callable[[ImgadmHost], None]:
    """Something that must work, and is not compared."""

    def run(host: ImgadmHost) -> None:
        result = host.imgadm(*arguments)
        assert result.returncode == 0, result.stderr

    return run


def broken_conf(host: ImgadmHost) -> None:
    host.conf.write_text("{bad")


def machines(host: ImgadmHost) -> None:
    """What is cloned from the base twice."""
    for uuid in MACHINES:
        manifest = {**fixture_manifest(INCREMENTAL), "uuid": uuid, "name": "machine"}
        host.serve(manifest, fixture_file(INCREMENTAL))
        imgadm("import", uuid)(host)


def without_a_manifest(host: ImgadmHost) -> None:
    """As images are that were there before imgadm."""
    for uuid in MACHINES:
        imgadm("delete", uuid)(host)
    host.daemon.stop()
    (host.conf.parent / "images" / f"zones-{BASE}.json").unlink()
    host.daemon.start()


READING: Sequence[Step] = (
    sources(""),
    *("list-empty", "list-empty-j", "list-f-bad", "vacuum-f-nothing", "update-unknown", "version"),
    *("no-args", "help", "help-avail", "help-list", "help-sources", "help-vacuum"),
    *(
        case
        for case in sorted(RUNS)
        if case.startswith(("unknown", "option", "show")) and case != "show-missing-503"
    ),
    *(case for case in sorted(RUNS) if case.endswith("noargs") and not case.startswith("show")),
    *("get-bad-uuid", "get-missing", "delete-missing", "ancestry-bad-uuid"),
    *("import-bad-arg", "import-unknown", "import-disabled", "install-bad-json", "install-bad-manifest"),
    *("avail", "avail-H", "avail-H-o", "avail-o", "avail-o-all", "avail-s"),
    *(case for case in sorted(RUNS) if case.startswith("avail-f")),
    sources("", str(CLOSED)),
    "avail-one-down",
    sources("", str(FAILING_TOO)),
    "avail-500",
    sources("", str(UNAVAILABLE)),
    "avail-503text",
    sources(str(UNAVAILABLE)),
    "show-missing-503",
    sources(),
    "avail-nosources-j",
    broken_conf,
    "config-invalid-json",
)

SOURCES: Sequence[Step] = (
    sources(None),
    "sources-default-j",
    sources(DEFAULT),
    "sources-d-default",
    "sources-a-ok-again",
    "sources-a-already-slash",
    "sources-a-insecure",
    "sources-d-ok-two",
    "sources-d-missing",
    "sources-a-force-down",
    "sources-d-down",
    *("sources-a-refused", "sources-a-404text", "sources-a-500", "sources-a-badtype", "sources-a-badurl"),
    *("sources-a-and-d", "sources-extra-args"),
    sources(DEFAULT, "", str(CLOSED), "insecure"),
    *("sources-list", "sources-list-v"),
)

INSTALLING: Sequence[Step] = (
    sources(""),
    *("import-P-nopool", "import-badsum", "import-truncated", "import-corrupt", "state-after-corrupt"),
    *("install-origin-missing", "install-size-mismatch", "install-badsum"),
    "import-minplat",
    *("import-zvol", "vacuum-n-f", imgadm("delete", ZVOL)),
    *(
        imgadm("install", "-m", "streams/base.imgmanifest", "-f", "streams/base.zfs.gz"),
        "state-after-install",
    ),
    *(imgadm("delete", BASE), "import-q", imgadm("delete", BASE)),
    *("import-chain", "state-after-chain", "import-already", "install-already"),
    *("get", "get-r", "list-f", "list-j", "ancestry", "delete-dependent"),
    *(imgadm("import", ZVOL), "state-after-zvol", "list-o", "delete-ok"),
    *(machines, "get-with-clones", "list-with-clones", "delete-two-clones"),
    *(without_a_manifest, "list-nomanifest", "update", "state-after-update"),
)


@pytest.fixture
def host(tmp_path: Path):
    with ImgadmHost(tmp_path) as host:
        yield host


@pytest.mark.slow
@pytest.mark.parametrize("steps", [READING, SOURCES, INSTALLING], ids=["reading", "sources", "installing"])
def test_it_prints_what_imgadm_printed(host: ImgadmHost, steps: Sequence[Step]):
    wrong = {}
    for step in steps:
        if callable(step):
            step(host)
        elif (difference := compared(host, step)) is not None:
            wrong[step] = difference
    assert wrong == {}


@pytest.mark.parametrize(
    ("command", "source", "code"),
    [
        ((), "", "NoCommand"),
        (("import", BASE), str(CLOSED), "ECONNREFUSED"),
        (("import", BASE), "no-such-host", "ENOTFOUND"),
        (("show", BASE), str(CLOSED), "ECONNREFUSED"),
        (("avail",), str(CLOSED), "ClientError"),
        (("import", BASE), str(FAILING), "InternalError"),
        (("show", BASE), str(FAILING), "InternalError"),
        (("avail",), str(FAILING), "InternalError"),
        (("import", BASE), str(UNAVAILABLE), "APIError"),
        (("import", BASE), "", "ResourceNotFound"),
        (("import", INCREMENTAL), "", "ActiveImageNotFound"),
        (("import", "-x"), "", "Option"),
    ],
)
def test_the_code_of_an_error_is_imgadms(host: ImgadmHost, command: Sequence[str], source: str, code: str):
    """In the record of -E, and on the line for people; the last line is the record, and the only one."""
    site = host.folder / "site"
    (site / "files" / BASE).unlink()
    (site / "manifests" / f"{INCREMENTAL}.json").unlink()
    url = "http://no-such-host.invalid" if source == "no-such-host" else source
    host.use(url if "//" in url else _source(host, url))
    done = host.imgadm("-E", *command)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["err"]["code"] == code
    people = host.imgadm(*command)
    assert people.returncode == 1
    assert people.stderr == "" if code == "NoCommand" else f" error ({code}): " in people.stderr


def test_every_run_is_compared_and_there_are_all_of_them():
    cases = [step for steps in (READING, SOURCES, INSTALLING) for step in steps if isinstance(step, str)]
    assert sorted(cases) == sorted(RUNS.keys() | HELP.keys()), "each in one place"
    assert len(cases) == 104
    assert DIFFERENT.keys() <= RUNS.keys()
    assert all(difference.why for difference in DIFFERENT.values())


def compared(host: ImgadmHost, case: str) -> object:
    """What is not as it should be, or None."""
    if case in HELP:
        result = host.imgadm(*HELP[case])
        wanted = (1 if case == "no-args" else 0, "")
        usage = "\nUsage:\n    imgadm " in result.stdout
        return None if usage and (result.returncode, result.stderr) == wanted else result
    run = {key: _here(host, value) for key, value in RUNS[case].items()}
    if case.startswith("state-"):
        return _files_differ(host, run["stdout"])
    result = host.shell(["sh", "-c", run["command"]])
    stderr = "".join(
        line for line in result.stderr.splitlines(keepends=True) if not line.startswith("  hint: ")
    )
    if "imgadm -E " in run["command"]:
        stderr, run["stderr"] = _record(stderr), _record(run["stderr"])
    expected = DIFFERENT.get(case, Difference(""))
    same = (
        _meets(_sorted(result.stdout), _sorted(run["stdout"]), expected.stdout)
        and _meets(stderr, run["stderr"], expected.stderr)
        and result.returncode == (run["exit"] if expected.exit is None else expected.exit)
    )
    return (
        None if same else {"is": (result.stdout, stderr, result.returncode), "imgadm": run, "ours": expected}
    )


def _here(host: ImgadmHost, value: Any) -> Any:
    """What a run says, with the server and the folder for files that are here; both are as long."""
    if not isinstance(value, str):
        return value
    return value.replace("127.0.0.1", host.address).replace("/tmp/", f"{host.folder}/")


def _sorted(stdout: str) -> str:
    """What is downloaded first is up to chance."""
    return re.sub(r"(Downloaded [^\n]+\n)+", lambda lines: "".join(sorted(lines[0].splitlines(True))), stdout)


def _meets(text: str, imgadms: str, ours: str | None) -> bool:
    return text == imgadms if ours is None else re.fullmatch(ours, text, re.DOTALL) is not None


def _record(line: str) -> str:
    """What programs read of the record of an error."""
    record = json.loads(line)
    err = {key: record["err"][key] for key in ("code", "message")}
    return json.dumps([sorted(record), *(record[key] for key in ("name", "level", "msg", "v")), err])


def _files_differ(host: ImgadmHost, state: str) -> object:
    """The manifests on disk that are not, or not byte for byte, those that imgadm had.

    Of an image that could not be installed imgadm leaves the manifest, which is a defect; so it names none.
    """
    listed = re.findall(r"## FILE /var/imgadm/images/(\S+) (\d+):(\d+)\n(.*?\n)\n", state, re.DOTALL)
    wanted = {name: (mode, int(size), text) for name, mode, size, text in listed}
    found = {
        path.name: (f"{path.stat().st_mode & 0o7777:o}", path.stat().st_size, path.read_text())
        for path in (host.conf.parent / "images").glob("*.json")
    }
    return None if found == wanted else {"is": found, "imgadm": wanted}
