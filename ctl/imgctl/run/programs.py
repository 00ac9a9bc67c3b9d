"""Programs of imgstored that need no daemon: disks, streams and keys, with the user's rights."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn

from imgctl.errors import CommandError, remote_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgctl.arguments import Arguments
    from imgctl.connection import OnEvent
    from imgctl.run.image_files import ImageFile
    from imgctl.session import Session

_PACKAGE = "imgstored"


def make(
    session: Session,
    file: ImageFile,
    disk: str,
    manifest: Mapping[str, Any],
    fields: Sequence[str],
    compression: str,
    arguments: Arguments,
    on_event: OnEvent,
) -> dict[str, Any]:
    """Makes the image of a disk into the file; returns its manifest. Raises `CommandError`."""
    import json
    import subprocess

    command = [*_program(session, "create", "create --raw"), "--output", str(file.descriptor)]
    command += ["--path", file.shown, "--compression", compression]
    if (block_size := arguments.text("--block-size")) is not None:
        command += ["--block-size", block_size]
    if arguments.flag("--index"):
        command.append("--index")
    if arguments.flag("--as-raw"):
        command.append("--as-raw")
    child = subprocess.Popen(  # noqa: S603 - our own Python; the disk's name is an argument after --
        [*command, "--", disk],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(file.descriptor,),
        text=True,
        encoding="utf-8",
    )
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        with child.stdin as given:
            json.dump({"manifest": dict(manifest), "fields": [*fields]}, given)
        for line in child.stdout:
            said = json.loads(line)
            if "error" in said:
                raise remote_error(said["error"])
            if "result" in said:
                made: dict[str, Any] = said["result"]["manifest"]
                return made
            on_event(said)
    except BrokenPipeError:
        pass  # its status tells
    finally:
        if child.stdout is not None:
            child.stdout.close()
        child.terminate()
        status = child.wait()
    raise CommandError("InternalError", f"the program that creates the image exited with status {status}")


def zstream(session: Session, arguments: Arguments) -> NoReturn:
    """`zstream COMMAND [ARGS...]`: becomes that program.

    So its streams, its exit status, and what a signal does to it are its own.
    """
    command = [*_program(session, "zstream", "zstream"), *arguments.rest]
    os.execv(sys.executable, command)  # noqa: S606 - there is to be no shell


def keys_program(session: Session, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of imgstored's program for the keys of sites. Raises `CommandError`."""
    import json
    import subprocess

    done = subprocess.run(  # noqa: S603 - our own Python
        _program(session, "site", "keys"),
        input=json.dumps(request).encode(),
        stdout=subprocess.PIPE,
        check=False,
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise CommandError(
            "InternalError", f"the program for keys exited with status {done.returncode}"
        ) from None
    if "error" in answer:
        raise remote_error(answer["error"])
    return answer


def _program(session: Session, module: str, command: str) -> list[str]:
    """The beginning of the command line. Raises `CommandError` if this Python has no imgstored."""
    if not sys.executable or find_spec(_PACKAGE) is None:
        raise CommandError(
            "NotInstalled",
            f"the Python that runs {session.program} ({sys.executable or 'unknown'}) has no {_PACKAGE}",
            hint=f"`{command}` is a part of imgstored: install the package imgstore for that Python",
        )
    # -P: never from the current folder.
    return [sys.executable, "-P", "-m", f"{_PACKAGE}.{module}"]
