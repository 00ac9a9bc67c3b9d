"""Runs another program in place of this one: passes on streams, signals and the exit status."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
from dataclasses import dataclass

#: Signals that are passed on: they ask a program to do something.
_PASSED_ON = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
)


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a program: `status` is as of os.waitpid."""

    status: int

    def pass_on(self) -> int:
        """The program's exit status; if a signal ended it, the same one ends this process."""
        if not os.WIFSIGNALED(self.status):
            return os.waitstatus_to_exitcode(self.status)
        number = os.WTERMSIG(self.status)
        # The program has left a core file, if there is to be one.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return 128 + number


def run_child(command: list[str], given: bytes | None) -> Ended:
    """Runs a program (a path, and its arguments) to its end, with `given` on standard input; None is our own.

    Raises `OSError` if it cannot be started. To be called from the main thread.
    """
    # Signals are taken one by one below. SIGCHLD would be thrown away if it had no handler.
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *_PASSED_ON})
    try:
        pid = _started(command, given, mask)
        return Ended(_waited(pid))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGCHLD, before)


def _started(command: list[str], given: bytes | None, mask: set[int | signal.Signals]) -> int:
    # What Python ignores, the program is not to ignore.
    defaults = [signal.SIGPIPE, *(each for each in (getattr(signal, "SIGXFSZ", None),) if each)]
    if given is None:
        return os.posix_spawn(command[0], command, os.environ, setsigmask=mask, setsigdef=defaults)
    reader, writer = os.pipe()
    try:
        pid = os.posix_spawn(
            command[0],
            command,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0)],
            setsigmask=mask,
            setsigdef=defaults,
        )
    except BaseException:
        os.close(writer)
        raise
    finally:
        os.close(reader)
    threading.Thread(target=_feed, args=(writer, given), daemon=True).start()
    return pid


def _feed(writer: int, given: bytes) -> None:
    """A program that does not read all of it is no error."""
    view = memoryview(given)
    with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "wb", buffering=0) as pipe:
        while len(view):
            view = view[pipe.write(view) :]


def _waited(pid: int) -> int:
    while True:
        info = signal.sigwaitinfo({signal.SIGCHLD, *_PASSED_ON})
        if info.si_signo != signal.SIGCHLD:
            # A terminal's own (si_code above 0) go to all of the foreground, and so to the program, too.
            if info.si_code <= 0:
                os.kill(pid, info.si_signo)
            continue
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
