"""One run of a hook's program: who may have written it, what it gets, how long it may take. Blocks."""

from __future__ import annotations

import errno
import os
import select
import signal
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from imgstored.errors import ConfigError
from imgstored.foreign_text import one_line
from imgstored.host import shortage, signals
from imgstored.host.guardian import Guardian

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: All that a program has of an environment, but for what is said of the event.
ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/"}

#: Characters that are kept of a program's complaints.
_WORDS: Final = 1000
#: Seconds between two looks whether a program has ended, and from SIGTERM to SIGKILL.
_LOOK: Final = 0.05
_GRACE: Final = 2.0
_PIECE: Final = 1 << 14
#: Links on the way to a program; Linux's limit.
_MAX_LINKS: Final = 40


class Run(Struct, frozen=True):
    """The end of a run: its exit status, negative for a signal, None if it took too long; and its words."""

    status: int | None
    words: str


def check_program(path: str) -> None:
    """Raises `ConfigError` unless only root, and the daemon's own user, can say what the program does."""
    try:
        program, folders = _way(path)
        _check(program, path, directory=False)
        for place in folders:
            _check(place, path, directory=True)
    except (OSError, ValueError) as error:  # ValueError: it has a byte of zero
        why = shortage.why(error) if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"hook: {path} cannot be used: {why}", hint="name a program that is there"
        ) from error


def _way(path: str) -> tuple[Path, list[Path]]:
    """The file that a path means, and all folders on the way to it, those of links between, too.

    Raises `OSError`.
    """
    ahead = list(reversed(Path(path).absolute().parts[1:]))
    at, links = Path("/"), 0
    folders = {at: None}
    while ahead:
        name = ahead.pop()
        if name == "..":
            at = at.parent
            continue
        there = at / name
        if not stat.S_ISLNK(there.lstat().st_mode):
            at = there
            if ahead:
                folders[at] = None
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = there.readlink()
        at = Path("/") if target.is_absolute() else at
        ahead.extend(reversed([part for part in target.parts if part != "/"]))
    return at, [*folders]


def _check(place: Path, path: str, *, directory: bool) -> None:
    """Raises `ConfigError`, `OSError`."""
    found = place.stat()
    hint = f"`chown root {place}`, `chmod go-w {place}`"
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"hook: {path}: {place} is not root's, but uid {found.st_uid}'s", hint=hint)
    # Of a sticky folder, as /tmp, nobody else can replace what is root's.
    if found.st_mode & 0o022 and not (directory and found.st_mode & stat.S_ISVTX):
        raise ConfigError(f"hook: {path}: others may write {place}", hint=hint)
    if not directory and not (stat.S_ISREG(found.st_mode) and found.st_mode & 0o111):
        raise ConfigError(f"hook: {path} is no program", hint=f"`chmod +x {place}`")


def run(
    command: Sequence[str],
    given: bytes,
    environment: Mapping[str, str],
    seconds: float,
    check: Callable[[], None],
) -> Run:
    """Runs a program with `given` as its standard input, without a shell. Nothing of it is left on return.

    What it starts and leaves behind is its own affair, unless it takes longer than `seconds`: then all of its
    process group ends. `check` is called often; what it raises ends the program, too, and so does the end of
    the daemon, however that ends. Raises `OSError`.
    """
    with Guardian() as guardian:
        return _run(command, given, environment, seconds, check, guardian)


def _run(
    command: Sequence[str],
    given: bytes,
    environment: Mapping[str, str],
    seconds: float,
    check: Callable[[], None],
    guardian: Guardian,
) -> Run:
    with signals.for_child():
        process = subprocess.Popen(  # noqa: S603  a program of the configuration, which was checked
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**ENVIRONMENT, **environment},
            cwd="/",
            process_group=guardian.group,
        )
    assert process.stdin is not None
    assert process.stderr is not None
    talk = _Talk(process.stdin.fileno(), process.stderr.fileno(), given)
    deadline = time.monotonic() + seconds
    try:
        while process.poll() is None:
            if time.monotonic() > deadline:
                return Run(None, talk.words)
            check()
            if talk.go_on(_LOOK):
                process.stdin.close()
        talk.finish()
        return Run(process.returncode, talk.words)
    finally:
        _end(process, guardian.group)
        process.stdin.close()
        process.stderr.close()


def _end(process: subprocess.Popen[bytes], group: int) -> None:
    """Ends a program that runs, and all of its group."""
    for number, wait in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
        if process.poll() is not None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(wait)


class _Talk:
    """The input and output of a program; nobody waits for one that does not listen."""

    def __init__(self, stdin: int, stderr: int, given: bytes) -> None:
        self._stdin: int | None = stdin
        self._stderr: int | None = stderr
        self._given = memoryview(given)
        self._said = bytearray()
        for fd in (stdin, stderr):
            os.set_blocking(fd, False)

    @property
    def words(self) -> str:
        """The output of the program, in one line that can be printed."""
        return one_line(bytes(self._said))[:_WORDS]

    def go_on(self, seconds: float) -> bool:
        """Writes and reads what is possible, for up to `seconds`; whether all is written now, once."""
        poll = select.poll()
        if self._stdin is not None:
            poll.register(self._stdin, select.POLLOUT)
        if self._stderr is not None:
            poll.register(self._stderr, select.POLLIN)
        written = False
        for fd, _ in poll.poll(seconds * 1000):
            if fd == self._stderr:
                self._read(fd)
            elif fd == self._stdin:
                written = self._write(fd)
        return written

    def finish(self) -> None:
        """Reads what the program left."""
        while self._stderr is not None and self._read(self._stderr):
            pass

    def _write(self, fd: int) -> bool:
        try:
            self._given = self._given[os.write(fd, self._given) :]
        except BrokenPipeError:
            self._given = self._given[:0]  # it wants no more
        except BlockingIOError:
            pass
        if self._given:
            return False
        self._stdin = None
        return True

    def _read(self, fd: int) -> bool:
        """Reads once; True if there may be more. Children that write on are not waited for."""
        try:
            data = os.read(fd, _PIECE)
        except BlockingIOError:
            return False
        if not data:
            self._stderr = None
        room = 4 * _WORDS - len(self._said)
        self._said += data[: max(0, room)]
        return len(data) > 0 and room > 0
