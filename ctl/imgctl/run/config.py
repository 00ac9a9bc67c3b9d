"""`config`: the daemon's configuration, and whether a daemon would start with it, as imgstored says it."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from imgctl import ssh
from imgctl.errors import CommandError, RemoteError, UsageError
from imgctl.run.doctor import FILES, program_of_daemon

if TYPE_CHECKING:
    from imgctl.arguments import Arguments
    from imgctl.session import Session


def config(session: Session, arguments: Arguments) -> int:
    """`config show|check [-j] [--config FILE]...`. The exit status is imgstored's."""
    what = arguments.one()
    if what not in ("show", "check"):
        raise UsageError(f'unknown: "{what}"', hint="`config show`, or `config check`")
    if what == "check" and arguments.flag("-j"):
        raise UsageError("`config check` prints no JSON", hint="`imgctl doctor -j` does")
    given = arguments.texts("--config")
    form = ["--json"] if arguments.flag("-j") else []
    if (session.socket_path or "").startswith(ssh.SCHEME):
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
        return [path for path in FILES if os.path.exists(path)]  # noqa: PTH110 - as in doctor
    return [file] if file else []


def _run(command: list[str]) -> int:
    try:
        status = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode  # noqa: S603
    except OSError as error:
        raise CommandError(
            "NotInstalled", f"{command[0]} cannot be run: {error.strerror or error}"
        ) from error
    return status if status >= 0 else 1
