"""The program `imgstored`: reads its arguments and its configuration, and runs the daemon."""

from __future__ import annotations

import argparse
import errno
import gc
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from imgstored import __version__
from imgstored.errors import ConfigError, ImgstoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproto.documents import DoctorDocument, FindingDocument

    from imgstored.config.tables import Config

#: Why a folder, a file or a socket cannot be used today, and can be tomorrow: no fault of the configuration.
_MAY_PASS = {
    errno.EADDRINUSE, errno.EAGAIN, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOLCK,
    errno.ENOMEM, errno.ENOSPC, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip


def argument_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(
        prog="imgstored",
        description="The daemon that owns this host's images. It stays in the foreground.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        action="append",
        default=[],
        help="TOML; without it, every key has its default. May be given again: a later file overrides"
        " earlier ones",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="read the configuration, name everything that would keep the daemon from starting, and exit",
    )
    parser.add_argument(
        "--show",
        action="store_true",
        help="print the configuration that holds as TOML, with the file and line of each value, and exit",
    )
    parser.add_argument(
        "--deep",
        action="store_true",
        help="with --check: read every image to its end, and look for files that belong to nothing; changes"
        " nothing, and may run while a daemon runs",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="with --show: as JSON; with --check: also look at the host, its pools and sources, and print"
        " the findings as JSON; with --deep: print its findings as JSON",
    )
    parser.add_argument(
        "--detach",
        action="store_true",
        help="run in the background; return once the daemon answers requests, or with the status of a failed"
        " start",
    )
    parser.add_argument("--version", action="version", version=f"imgstored {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the daemon; returns 0 after a clean stop, or else what `exit_status` says of the error."""
    _open_standard_files()
    arguments = argument_parser().parse_args(argv)

    # Imported late: --help, --version and a wrong configuration need none of it.
    from imgstored.config import loading

    try:
        if arguments.deep:
            return _audit(arguments.config, check=arguments.check, as_json=arguments.json)
        if arguments.check and arguments.json:
            return _examine(arguments.config)
        from imgstored.eventloop import trial
        from imgstored.host import exhaustion, heap

        heap.keep_what_is_freed()
        trial.waits_by()
        settings = loading.load(*arguments.config)
        if arguments.check:
            return _check(settings)
        if arguments.show:
            return _show(settings, arguments.config, as_json=arguments.json)
        waiting = _in_background() if arguments.detach else None
        # Nearly all that a start makes stays: to look for garbage in it only makes the start longer.
        gc.disable()
        from imgstored.app import serve
        from imgstored.host.notify import Notifier

        serve(settings, arguments.config, Notifier.of(os.environ, waiting=waiting))
        return int(exhaustion.is_noted())  # whoever started it does so again
    except ImgstoreError as error:
        return _failed(error.all_faults() if isinstance(error, ConfigError) else [error])


def _failed(errors: Sequence[ImgstoreError]) -> int:
    """Says what is wrong, with what to do about each; returns the status of the first."""
    from imgstored.http.secrets import redacted
    from imgstored.log import is_journal

    priority = "<3>" if is_journal() else ""
    with suppress(OSError):  # the status says enough where standard error takes nothing
        for error in errors:
            hint = f"{priority}hint: {error.hint}\n" if error.hint else ""
            said = redacted(f"imgstored: error ({error.code}): {error.message}\n{hint}")
            sys.stderr.write(f"{priority}{said}")
    return exit_status(errors[0])


def _show(settings: Config, files: Sequence[Path], *, as_json: bool) -> int:
    """Prints the configuration that holds, without its secrets."""
    from imgstored.config import effective
    from imgstored.config.specs import secrets
    from imgstored.http.secrets import KNOWN

    KNOWN.configure(secrets(settings, os.environ))
    values = effective.effective(settings, files)
    lines = [json.dumps(effective.document(values))] if as_json else effective.toml(values)
    try:
        sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough. Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return 0


def _check(settings: Config) -> int:
    """Names all that would keep a daemon of these settings from starting, as far as it shows now."""
    from imgstored.config import preflight
    from imgstored.config.specs import check, faults_of

    wrong = [fault for error in faults_of(lambda: check(settings)) for fault in error.all_faults()]
    found = [*wrong, *preflight.faults(settings), *preflight.pool_faults(settings)]
    return _failed(found) if found else 0


def _open_standard_files() -> None:
    """Opens /dev/null as standard input, output or error where whoever starts us has closed it.

    What the daemon opens first would get that number, and then what is meant for standard error.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free, which is this one; programs that we start have it, too.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for good


def exit_status(error: ImgstoreError) -> int:
    """The exit status for an error, as in sysexits.h, so that the parent knows what to do.

    77: give us permissions; 78: change the configuration; both are no use to try again. 1: it may help.
    """
    cause = error.__cause__
    if isinstance(cause, PermissionError):
        return os.EX_NOPERM
    may_pass = isinstance(cause, OSError) and cause.errno in _MAY_PASS
    return os.EX_CONFIG if isinstance(error, ConfigError) and not may_pass else 1


def _examine(files: Sequence[Path]) -> int:
    """Runs the checks of `imgctl doctor` without a daemon. Starts nothing; returns 1 if a check fails."""
    from imgstored.eventloop import trial

    try:
        # All checks run in trio.
        trial.waits_by()
    except ConfigError as error:
        python: FindingDocument = {
            "check": "python",
            "status": "fail",
            "seen": error.message,
            "hint": error.hint,
        }
        found: DoctorDocument = {"version": __version__, "running": False, "findings": [python]}
    else:
        from imgstored import log
        from imgstored.config.tables import LogTable
        from imgstored.doctor.services import examined

        log.set_up(LogTable(level="error"))
        found = examined(files)
    sys.stdout.write(json.dumps(found) + "\n")
    return int(any(finding["status"] == "fail" for finding in found["findings"]))


def _audit(files: Sequence[Path], *, check: bool, as_json: bool) -> int:
    """Runs `--check --deep`; returns 1 if something is not whole. Raises `ConfigError`."""
    if not check:
        raise ConfigError("--deep goes with --check", hint="`imgstored --check --deep`")
    from imgstored import log
    from imgstored.audit.audit import audited
    from imgstored.config.tables import LogTable
    from imgstored.foreign_text import printable
    from imgstored.http.secrets import KNOWN

    log.set_up(LogTable(level="error"))
    found: DoctorDocument = KNOWN.hidden_in(audited(files))
    for finding in () if as_json else found["findings"]:
        hint = f"\n      hint: {finding['hint']}" if finding["hint"] else ""
        # Names of files are in it, which anybody may have chosen.
        seen = printable(finding["seen"])
        sys.stdout.write(f"{finding['status']:4}  {finding['check']}: {seen}{hint}\n")
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    return int(any(finding["status"] == "fail" for finding in found["findings"]))


def _in_background() -> int:
    """Forks; returns in the child, with the pipe at whose other end the parent waits for us to be ready.

    The parent exits as soon as the child reports that, or exits.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setsid()
        # Whoever reads what we would print must see the end of it. The log stays where it is.
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for standard in (0, 1):
            os.dup2(nothing, standard)
        return writing
    os.close(writing)
    if os.read(reading, 1):
        os._exit(0)
    _, status = os.waitpid(child, 0)
    os._exit(max(1, os.waitstatus_to_exitcode(status)))


if __name__ == "__main__":
    sys.exit(main())
