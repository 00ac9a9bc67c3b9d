"""A stand-in for `select.kqueue` on top of poll(2), for systems that trio does not know.

trio waits by epoll on Linux and by kqueue on macOS and the BSDs. On illumos it cannot even be imported:
CPython has no kqueue there, packaged ones have no epoll either, and where there is epoll, trio's `_core` asks
for names that its epoll backend lacks. With the names of this module in `select`, trio's own kqueue backend
runs unmodified.

It has what that backend uses, as kqueue(2) and the documentation of `select` describe it: the filters READ
and WRITE, the flags ADD, DELETE and ONESHOT, and errors of changes as ENOENT and EBADF. Three things differ:

- Other filters and flags are refused with EINVAL. So `trio.run_process` cannot wait for a child (it wants the
  filter PROC); the daemon waits for its children in threads.
- kqueue forgets a descriptor that is closed, and whoever waits for it waits for ever. Here the event comes,
  with ERROR and EBADF, so that the next call on the descriptor fails.
- Times are rounded up to milliseconds, as trio does for epoll.

Where CPython has `select.devpoll` (poll(4D) of illumos: the kernel keeps the set, and a wait does not become
longer with its size), that is asked instead of poll(2).
"""

from __future__ import annotations

import errno
import math
import os
import select
import sys
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed import FileDescriptorLike


#: The values of FreeBSD's and macOS's sys/event.h.
KQ_FILTER_READ: Final = -1
KQ_FILTER_WRITE: Final = -2
KQ_FILTER_PROC: Final = -5
KQ_EV_ADD: Final = 0x0001
KQ_EV_DELETE: Final = 0x0002
KQ_EV_ONESHOT: Final = 0x0010
KQ_EV_ERROR: Final = 0x4000
KQ_EV_EOF: Final = 0x8000
KQ_NOTE_EXIT: Final = 0x80000000

#: What `sys.platform` begins with where trio has a backend of its own.
_KNOWN: Final = ("linux", "android", "darwin", "ios", "win32", "freebsd", "openbsd", "netbsd", "dragonfly")

_ASKED: Final = {KQ_FILTER_READ: select.POLLIN, KQ_FILTER_WRITE: select.POLLOUT}
#: poll(2) says these unasked. Whoever waits then learns the cause from the next call on the descriptor.
_OVER: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL
#: Milliseconds: poll(2) takes a C int. A wait that ends early is one without events.
_LONGEST: Final = (1 << 31) - 1


class Poller(Protocol):
    """`select.poll()` or `select.devpoll()`."""

    def register(self, fd: int, eventmask: int, /) -> object:
        """Adds a descriptor."""

    def modify(self, fd: int, eventmask: int, /) -> object:
        """Asks for other events."""

    def unregister(self, fd: int, /) -> object:
        """Forgets a descriptor, which may be closed by now."""

    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        """Descriptors and their events, after so many milliseconds at most."""


class Kevent:
    """One change, or one event: `select.kevent`."""

    __slots__ = ("data", "fflags", "filter", "flags", "ident", "udata")

    def __init__(
        self,
        ident: FileDescriptorLike,
        filter: int = KQ_FILTER_READ,  # noqa: A002  select.kevent calls it so
        flags: int = KQ_EV_ADD,
        fflags: int = 0,
        data: int = 0,
        udata: int = 0,
    ) -> None:
        self.ident = ident if isinstance(ident, int) else ident.fileno()
        self.filter = filter
        self.flags = flags
        self.fflags = fflags
        self.data = data
        self.udata = udata

    def __repr__(self) -> str:
        return (
            f"<select.kevent ident={self.ident} filter={self.filter} flags={self.flags:#x}"
            f" fflags={self.fflags:#x} data={self.data:#x} udata={self.udata:#x}>"
        )


class Kqueue:
    """A set of descriptors that are waited for: `select.kqueue`. For one thread at a time."""

    def __init__(self, poller: Poller | None = None) -> None:
        self._poller: Poller | None = _poller() if poller is None else poller
        #: poll(2) knows numbers. poll(4D) knows files: after a close, the number alone says nothing.
        self._knows_files = not isinstance(self._poller, type(select.poll()))
        self._wanted: dict[tuple[int, int], int] = {}  # flags by descriptor and filter
        self._asked: dict[int, int] = {}  # what the poller has
        self._changed: set[int] = set()

    @property
    def waits_by(self) -> str:
        """The system call behind it: `poll` or `devpoll`."""
        return "devpoll" if self._knows_files else "poll"

    def close(self) -> None:
        """Forgets all descriptors. May be called twice."""
        close = getattr(self._poller, "close", None)
        self._poller = None
        if close is not None:
            close()

    def control(
        self, changelist: Iterable[Kevent] | None, max_events: int, timeout: float | None = None, /
    ) -> list[Kevent]:
        """Makes the changes, then waits for events; `timeout` is in seconds, None waits for ever.

        Where there is no room for events, the first change that is wrong raises `OSError`: EBADF for a
        descriptor that is not open, ENOENT for the deletion of what is not there, EINVAL for what this
        stand-in does not have. Else errors are events with ERROR, and nothing is waited for. Raises
        `ValueError` for a negative number or time, and after `close`.
        """
        if self._poller is None:
            raise ValueError("I/O operation on closed kqueue object")
        if max_events < 0:
            raise ValueError(f"Length of eventlist must be 0 or positive, got {max_events}")
        if timeout is not None and timeout < 0:
            raise ValueError("timeout must be positive or None")
        errors: list[Kevent] = []
        for change in changelist or ():
            try:
                self._change(change)
            except OSError as error:
                if len(errors) >= max_events:
                    raise
                errors.append(Kevent(change.ident, change.filter, KQ_EV_ERROR, data=error.errno or 0))
        if errors or not max_events:
            return errors
        return self._wait(self._poller, max_events, timeout)

    def _change(self, change: Kevent) -> None:
        key = (change.ident, change.filter)
        if change.filter not in _ASKED or change.flags & ~(KQ_EV_ADD | KQ_EV_DELETE | KQ_EV_ONESHOT):
            raise _os_error(errno.EINVAL)
        if change.flags & KQ_EV_DELETE:
            if self._wanted.pop(key, None) is None:
                raise _os_error(errno.ENOENT)
        elif change.flags & KQ_EV_ADD:
            os.get_inheritable(change.ident)  # F_GETFD: EBADF now, as kqueue says it
            self._wanted[key] = change.flags & KQ_EV_ONESHOT
        elif key not in self._wanted:
            raise _os_error(errno.ENOENT)
        self._changed.add(change.ident)

    def _wait(self, poller: Poller, most: int, timeout: float | None) -> list[Kevent]:
        self._tell(poller)
        milliseconds = None if timeout is None else math.ceil(min(timeout * 1000, _LONGEST))
        events: list[Kevent] = []
        for fd, seen in poller.poll(milliseconds):
            for what, asked in _ASKED.items():
                flags = self._wanted.get((fd, what))
                if flags is None or not seen & (asked | _OVER):
                    continue
                if len(events) == most:
                    return events
                events.append(_event(fd, what, flags, seen))
                if flags & KQ_EV_ONESHOT or seen & select.POLLNVAL:
                    del self._wanted[fd, what]
                    self._changed.add(fd)
        return events

    def _tell(self, poller: Poller) -> None:
        """Has the poller ask for what is wanted now.

        Only here: mostly an event is taken and wanted again before the next wait, and then poll's list, which
        CPython makes anew after each change, stays as it is.
        """
        for fd in self._changed:
            mask = sum(asked for what, asked in _ASKED.items() if (fd, what) in self._wanted)
            known = self._asked.get(fd)
            if not mask:
                if known is not None:
                    poller.unregister(fd)
                    del self._asked[fd]
                continue
            if known is None:
                poller.register(fd, mask)
            elif mask != known or self._knows_files:
                poller.modify(fd, mask)
            self._asked[fd] = mask
        self._changed.clear()


def _event(fd: int, what: int, flags: int, seen: int) -> Kevent:
    if seen & select.POLLNVAL:
        return Kevent(fd, what, flags | KQ_EV_ERROR, data=errno.EBADF)
    return Kevent(fd, what, flags | KQ_EV_EOF if seen & _OVER else flags)


def _os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _poller() -> Poller:
    """By devpoll if CPython has it and the device can be opened, else by poll."""
    devpoll = getattr(select, "devpoll", None)
    if devpoll is not None:
        try:
            poller: Poller = devpoll()
        except OSError:
            return select.poll()
        return poller
    return select.poll()


def install_where_needed() -> None:
    """Puts the stand-in into `select` where trio does not know the system, and Python has no kqueue.

    To be called before trio is imported. Elsewhere, and a second time, it does nothing.
    """
    if sys.platform.startswith(_KNOWN) or hasattr(select, "kqueue") or not hasattr(select, "poll"):
        return
    # It, too, chooses by the names in `select`, once and for the whole process.
    import selectors  # noqa: F401

    names = {name: value for name, value in globals().items() if name.startswith("KQ_")}
    for name, value in {**names, "kevent": Kevent, "kqueue": Kqueue}.items():
        setattr(select, name, value)
    # trio would prefer it, and then fail: see above.
    if hasattr(select, "epoll"):
        del select.epoll


def is_installed() -> bool:
    """True if `select.kqueue` is the stand-in."""
    return getattr(select, "kqueue", None) is Kqueue
