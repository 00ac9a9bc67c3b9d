"""`doctor` and `config`: the checks of the daemon and its configuration, also those that work without it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from imgproto import PROTOCOL_VERSION

from imgctl import __version__
from imgctl.errors import CommandError, NotConnectedError, RemoteError, UsageError
from imgctl.session import RED
from imgctl.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgctl.arguments import Arguments
    from imgctl.client import Client
    from imgctl.session import Session

    #: `{check, status, seen, hint}`, as in docs/protocol.md.
    Finding = dict[str, str]

#: Seconds for the daemon's answer, or for imgstored's look: it gives each of its checks fifteen.
_TIMEOUT = 60.0

#: Where the services' configuration is, unless another one is named; the second is what SMF's properties say.
FILES = ("/etc/imgstored.toml", "/var/run/imgstored-default.toml")

_FIELDS = ("check", "status", "seen", "hint")


def doctor(session: Session, arguments: Arguments) -> int:
    """`doctor [-j] [--config FILE]`. Status 1 if anything fails."""
    arguments.none()
    with_daemon = session.client(timeout=_TIMEOUT)
    findings = [*_with_daemon(with_daemon, arguments.text("--config"))]
    failing = sum(finding["status"] == "fail" for finding in findings)
    if arguments.flag("-j"):
        session.say_json({"ok": not failing, "findings": findings})
    else:
        for finding in findings:
            style = RED if finding["status"] == "fail" else ""
            for line in _lines(finding, max(len(each["check"]) for each in findings), session.verbose):
                session.say([session.painted(line, style, sys.stdout) if style else line])
        session.say([_summary(len(findings), failing, sum(each["status"] == "warn" for each in findings))])
    return 1 if failing else 0


def _with_daemon(client: Client, file: str | None) -> Iterator[Finding]:
    """The daemon's findings; without a daemon, those of `imgstored --check`."""
    try:
        with client:
            yield from _greeted(client)
            yield from _asked(client)
    except NotConnectedError as error:
        yield _no_daemon(client.socket_path, error)
        if not client.socket_path.startswith("ssh://"):  # this host's state says nothing of another one
            yield from _alone(file)


def _greeted(client: Client) -> Iterator[Finding]:
    hello = client.call("hello", client=f"imgctl {__version__} (doctor)", protocol=PROTOCOL_VERSION)
    version = str(hello.get("version"))
    yield _finding("daemon", "ok", f"imgstored {version} listens at {client.socket_path}")
    if version != __version__:
        seen = f"imgctl is {__version__}, and the daemon {version}"
        yield _finding(
            "version", "warn", seen, "restart the daemon after an upgrade; use one version of both"
        )
    else:
        yield _finding("version", "ok", f"imgctl and imgstored are both {version}")


def _asked(client: Client) -> Iterator[Finding]:
    try:
        found = client.doctor()
    except NotConnectedError as error:
        # It did answer before: the host is not to be looked at as if none ran.
        yield _finding("daemon", "fail", error.message, error.hint)
    except RemoteError as error:
        hint = "use sudo or pfexec" if error.code == "NotPermitted" else error.hint
        yield _finding("doctor", "warn", f"the daemon does not say how it is: {error.message}", hint)
    else:
        yield from _read(found)


def _no_daemon(path: str, error: NotConnectedError) -> Finding:
    seen = error.message
    if isinstance(error.__cause__, ConnectionRefusedError):
        seen = f"{path} is there, and nobody listens: the daemon was killed, or is another one"
    return _finding("daemon", "fail", seen, error.hint)


def _alone(file: str | None) -> Iterator[Finding]:
    import json
    import subprocess

    program = program_of_daemon()
    if program is None:
        hint = "install it, or put it into PATH: without it, this host cannot be looked at"
        yield _finding("imgstored", "fail", "the program imgstored is not installed here", hint)
        return
    files = [file] if file is not None else [path for path in FILES if os.path.exists(path)]  # noqa: PTH110
    command = [program, "--check", "--json", *(word for path in files for word in ("--config", path))]
    try:
        done = subprocess.run(  # noqa: S603 - our own daemon's program
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=False
        )
        found = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield _finding("imgstored", "fail", f"{program} cannot be run: {error}")
    except ValueError:
        last = done.stderr.decode(errors="replace").strip().split("\n")[-1]
        hint = "is it of the same version as imgctl?"
        yield _finding("imgstored", "fail", f"{program} fails: {last or done.returncode}", hint)
    else:
        if os.geteuid() != 0:
            seen = f"looked at as uid {os.geteuid()}, which may see less than the daemon does"
            yield _finding("imgstored", "warn", seen, "use sudo or pfexec")
        yield from _read(found)


def program_of_daemon() -> str | None:
    """The program `imgstored` of the same installation, or of PATH."""
    import shutil

    beside = os.path.join(os.path.dirname(sys.executable), "imgstored")  # noqa: PTH118, PTH120 - quick to import
    return beside if os.access(beside, os.X_OK) else shutil.which("imgstored")


def _read(found: Any) -> Iterator[Finding]:
    for finding in found.get("findings", []) if isinstance(found, dict) else []:
        yield {field: str(finding.get(field, "")) for field in _FIELDS}


def _finding(check: str, status: str, seen: str, hint: str = "") -> Finding:
    return {"check": check, "status": status, "seen": seen, "hint": hint}


def _lines(finding: Finding, width: int, verbose: bool) -> Sequence[str]:
    """Two at most: what was seen, and what to do where something is to be done."""
    status = finding["status"]
    line = f"{status:<4}  {printable(finding['check']):<{width}}  {printable(finding['seen'])}"
    if not finding["hint"] or (status == "ok" and not verbose):
        return [line]
    return [line, f"      {'':<{width}}  hint: {printable(finding['hint'])}"]


def _summary(checks: int, failing: int, worth: int) -> str:
    if not failing and not worth:
        return f"All is well: {checks} checks."
    parts = [f"{failing} fail"] if failing else []
    parts += [f"{worth} worth a look"] if worth else []
    return f"{checks} checks: {', '.join(parts)}."


# -- the configuration ---------------------------------------------------------------------------------------


def config(session: Session, arguments: Arguments) -> int:
    """`config show|check [-j] [--config FILE]...`. The exit status is imgstored's."""
    what = arguments.one()
    if what not in ("show", "check"):
        raise UsageError(f'unknown: "{what}"', hint="`config show`, or `config check`")
    if what == "check" and arguments.flag("-j"):
        raise UsageError("`config check` prints no JSON", hint="`imgctl doctor -j` does")
    given = arguments.texts("--config")
    form = ["--json"] if arguments.flag("-j") else []
    if (session.socket_path or "").startswith("ssh://"):
        from imgctl import ssh

        words = ["config", what, *form, *(word for file in given for word in ("--config", file))]
        return _run(ssh.Host(session.socket_path or "").command(*words))
    program = program_of_daemon()
    if program is None:
        raise CommandError(
            "NotInstalled",
            "the program imgstored is not installed here",
            hint="install it, or put it into PATH",
        )
    files = given or _files(session)
    options = [word for file in files for word in ("--config", file)]
    status = _run([program, *options, f"--{what}", *form])
    if what == "check" and status == 0:
        session.say([f"A daemon would start with {' and '.join(files) or 'no file, and all defaults'}"])
    return status


def _files(session: Session) -> list[str]:
    """The file of the daemon that runs, or else that of the service."""
    try:
        with session.client(timeout=5.0) as client:
            file = client.status()["config"]
    except (RemoteError, KeyError):
        return [path for path in FILES if os.path.exists(path)]  # noqa: PTH110
    return [file] if file else []


def _run(command: list[str]) -> int:
    import subprocess

    try:
        status = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode  # noqa: S603
    except OSError as error:
        raise CommandError(
            "NotInstalled", f"{command[0]} cannot be run: {error.strerror or error}"
        ) from error
    return status if status >= 0 else 1
