"""The stand-in for kqueue, on real descriptors, by poll(2) and by a fake of devpoll."""

from __future__ import annotations

import errno
import os
import re
import resource
import select
import socket
from contextlib import closing

import pytest

from imgstored.eventloop import kqueue_by_poll
from imgstored.eventloop.kqueue_by_poll import (
    KQ_EV_ADD,
    KQ_EV_DELETE,
    KQ_EV_EOF,
    KQ_EV_ERROR,
    KQ_EV_ONESHOT,
    KQ_FILTER_PROC,
    KQ_FILTER_READ,
    KQ_FILTER_WRITE,
    Kevent,
    Kqueue,
)
from tests.support.devpoll import FakeDevpoll

ONCE = KQ_EV_ADD | KQ_EV_ONESHOT
READ, WRITE = KQ_FILTER_READ, KQ_FILTER_WRITE
#: Seconds, however busy the machine is: for what comes.
TIMEOUT = 30


@pytest.fixture(params=["poll", "devpoll"])
def kqueue(request):
    with closing(Kqueue(FakeDevpoll() if request.param == "devpoll" else None)) as made:
        assert made.waits_by == request.param
        yield made


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def add(kqueue, descriptor, what=READ, flags=ONCE):
    assert kqueue.control([Kevent(descriptor, what, flags)], 0) == []


def seen(kqueue, *, timeout=0.0, most=10):
    return [(event.ident, event.filter, event.flags) for event in kqueue.control([], most, timeout)]


def test_an_event_comes_once(kqueue, pair):
    ours, theirs = pair
    add(kqueue, ours)
    assert seen(kqueue) == []
    theirs.send(b"x")
    assert seen(kqueue, timeout=TIMEOUT) == [(ours.fileno(), READ, KQ_EV_ONESHOT)]
    assert seen(kqueue) == []
    add(kqueue, ours)
    assert seen(kqueue, timeout=TIMEOUT) == [(ours.fileno(), READ, KQ_EV_ONESHOT)]


def test_without_oneshot_it_comes_until_it_is_taken(kqueue, pair):
    ours, theirs = pair
    add(kqueue, ours, flags=KQ_EV_ADD)
    theirs.send(b"x")
    for _ in range(3):
        assert seen(kqueue, timeout=TIMEOUT) == [(ours.fileno(), READ, 0)]
    ours.recv(1)
    assert seen(kqueue) == []


def test_two_filters_of_one_descriptor(kqueue, pair):
    ours, theirs = pair
    add(kqueue, ours, READ)
    add(kqueue, ours, WRITE)
    assert seen(kqueue, timeout=TIMEOUT) == [(ours.fileno(), WRITE, KQ_EV_ONESHOT)]
    theirs.send(b"x")
    add(kqueue, ours, WRITE)
    assert [what for _, what, _ in seen(kqueue, timeout=TIMEOUT)] == [READ, WRITE]
    assert seen(kqueue) == []


def test_deleted(kqueue, pair):
    ours, theirs = pair
    theirs.send(b"x")
    add(kqueue, ours, READ)
    add(kqueue, ours, WRITE)
    kqueue.control([Kevent(ours, READ, KQ_EV_DELETE)], 0)
    assert [what for _, what, _ in seen(kqueue, timeout=TIMEOUT)] == [WRITE]
    assert seen(kqueue) == []


def wrong(fd: int) -> list[tuple[Kevent, int]]:
    """Changes of a descriptor that is closed, and what is wrong with them."""
    return [
        (Kevent(fd, READ, ONCE), errno.EBADF),
        (Kevent(-1, WRITE, ONCE), errno.EBADF),
        (Kevent(fd, READ, KQ_EV_DELETE), errno.ENOENT),
        (Kevent(0, READ, KQ_EV_ONESHOT), errno.ENOENT),
        (Kevent(0, KQ_FILTER_PROC, ONCE), errno.EINVAL),
        (Kevent(0, READ, KQ_EV_ADD | 0x20), errno.EINVAL),  # EV_CLEAR
    ]


def test_a_wrong_change_raises_where_there_is_no_room(kqueue, pair):
    ours, theirs = pair
    closed = theirs.fileno()
    theirs.close()
    for change, number in wrong(closed):
        with pytest.raises(OSError, match=re.escape(os.strerror(number))):
            kqueue.control([change], 0)
    # What was right before it holds.
    with pytest.raises(OSError, match="Bad file"):
        kqueue.control([Kevent(ours, WRITE, ONCE), Kevent(closed, READ, ONCE)], 0)
    assert [what for _, what, _ in seen(kqueue, timeout=TIMEOUT)] == [WRITE]


def test_a_wrong_change_is_an_event_where_there_is_room(kqueue, pair):
    ours, theirs = pair
    closed = theirs.fileno()
    theirs.close()
    changes = wrong(closed)
    # Nothing is waited for then.
    events = kqueue.control([Kevent(ours, WRITE, ONCE), *(change for change, _ in changes)], 10, None)
    assert [(event.flags, event.data) for event in events] == [(KQ_EV_ERROR, number) for _, number in changes]


def test_arguments(kqueue):
    with pytest.raises(ValueError, match="timeout"):
        kqueue.control([], 1, -1)
    with pytest.raises(ValueError, match="eventlist"):
        kqueue.control([], -1)
    assert kqueue.control(None, 0) == []
    kqueue.close()
    kqueue.close()
    with pytest.raises(ValueError, match="closed"):
        kqueue.control([], 1, 0)


def test_a_socket_whose_other_end_says_no_more(kqueue, pair):
    ours, theirs = pair
    theirs.shutdown(socket.SHUT_WR)
    add(kqueue, ours, READ)
    add(kqueue, ours, WRITE)
    assert [what for _, what, _ in seen(kqueue, timeout=TIMEOUT)] == [READ, WRITE]
    assert (ours.recv(1), ours.send(b"x")) == (b"", 1)
    assert theirs.recv(1) == b"x"


def test_a_socket_whose_other_end_is_gone(kqueue, pair):
    ours, theirs = pair
    theirs.close()
    for what in (READ, WRITE):
        add(kqueue, ours, what)
        assert seen(kqueue, timeout=TIMEOUT) == [(ours.fileno(), what, KQ_EV_ONESHOT | KQ_EV_EOF)]


def test_a_connection_that_is_refused(kqueue):
    with socket.socket() as nobody, socket.socket() as client:
        nobody.bind(("127.0.0.1", 0))
        client.setblocking(False)
        assert client.connect_ex(nobody.getsockname()) == errno.EINPROGRESS
        add(kqueue, client, WRITE)
        assert seen(kqueue, timeout=TIMEOUT) == [(client.fileno(), WRITE, KQ_EV_ONESHOT | KQ_EV_EOF)]
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_a_pipe_whose_other_end_is_gone(kqueue):
    for ours, what in ((0, READ), (1, WRITE)):
        ends = os.pipe()
        add(kqueue, ends[ours], what)
        os.close(ends[1 - ours])
        # Of a pipe whose reader goes, there is room to write, too.
        assert [event[:2] for event in seen(kqueue, timeout=TIMEOUT)] == [(ends[ours], what)]
        assert seen(kqueue) == []
        os.close(ends[ours])


@pytest.mark.parametrize("flags", [ONCE, KQ_EV_ADD])
def test_closed_while_somebody_waits(kqueue, pair, flags):
    """He is woken, once: a poll that says it for ever would keep a processor busy."""
    ours, theirs = pair
    fd = ours.fileno()
    add(kqueue, ours, READ, flags)
    add(kqueue, theirs, READ)
    ours.close()
    (event,) = [event for event in kqueue.control([], 10, TIMEOUT) if event.ident == fd]
    assert (event.flags & KQ_EV_ERROR, event.data) == (KQ_EV_ERROR, errno.EBADF)
    # The other end has a reason of its own.
    assert [event.ident for event in kqueue.control([], 10, 0)] in ([], [theirs.fileno()])
    assert seen(kqueue) == []
    with pytest.raises(OSError, match="No such file"):
        kqueue.control([Kevent(fd, READ, KQ_EV_DELETE)], 0)


def test_deleted_after_it_was_closed(kqueue, pair):
    ours, theirs = pair
    fd = ours.fileno()
    add(kqueue, ours)
    assert seen(kqueue) == []
    ours.close()
    kqueue.control([Kevent(fd, READ, KQ_EV_DELETE)], 0)
    add(kqueue, theirs, WRITE)
    assert [event[0] for event in seen(kqueue, timeout=TIMEOUT)] == [theirs.fileno()]


def test_closed_and_another_file_has_its_number(kqueue, pair):
    ours, theirs = pair
    fd = ours.fileno()
    add(kqueue, ours)
    theirs.send(b"x")
    assert [event[0] for event in seen(kqueue, timeout=TIMEOUT)] == [fd]
    ours.close()
    reader, writer = os.pipe()
    assert reader == fd
    add(kqueue, reader)
    assert seen(kqueue) == []
    os.write(writer, b"x")
    assert seen(kqueue, timeout=TIMEOUT) == [(reader, READ, KQ_EV_ONESHOT)]
    os.close(reader)
    os.close(writer)


def test_more_events_than_there_is_room_for(kqueue):
    pairs = [socket.socketpair() for _ in range(5)]
    for ours, theirs in pairs:
        add(kqueue, ours)
        theirs.send(b"x")
    found = []
    while events := seen(kqueue, most=2):
        assert len(events) <= 2
        found += [ident for ident, _, _ in events]
    assert sorted(found) == sorted(ours.fileno() for ours, _ in pairs)
    for each in pairs:
        for end in each:
            end.close()


def test_thousands_of_descriptors(kqueue):
    count = 3000
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], count + 200), before[1]))
    counters = [os.eventfd(0) for _ in range(count)]
    try:
        for counter in counters:
            add(kqueue, counter)
        assert seen(kqueue, most=count) == []
        for counter in counters[::3]:
            os.eventfd_write(counter, 1)
        assert sorted(ident for ident, _, _ in seen(kqueue, timeout=TIMEOUT, most=count)) == sorted(
            counters[::3]
        )
        assert seen(kqueue, most=count) == []
    finally:
        for counter in counters:
            os.close(counter)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Recorder:
    """A poller that sees nothing, and knows what it was asked."""

    def __init__(self) -> None:
        self.timeouts: list[float | None] = []

    def register(self, fd: int, eventmask: int) -> None:
        raise NotImplementedError

    modify = unregister = register

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        self.timeouts.append(timeout)
        return []


def test_times_are_rounded_up_to_what_poll_can_have():
    """To nothing would be to ask again and again until the time has come."""
    recorder = Recorder()
    kqueue = Kqueue(recorder)
    for timeout in (None, 0, 0.0001, 0.25, 1.0005, 1e12, float("inf")):
        assert kqueue.control([], 1, timeout) == []
    assert recorder.timeouts == [None, 0, 1, 250, 1001, 2**31 - 1, 2**31 - 1]


def test_devpoll_is_asked_again_for_each_wait_and_poll_is_not(pair):
    """devpoll knows files: the number may have another one by now. poll's list would be made anew."""
    ours, theirs = pair
    theirs.send(b"x")
    devpoll = FakeDevpoll()
    with closing(Kqueue(devpoll)) as kqueue:
        for _ in range(3):
            add(kqueue, ours)
            assert len(seen(kqueue, timeout=TIMEOUT)) == 1
        assert seen(kqueue) == []
    fd = ours.fileno()
    assert devpoll.calls == [f"register {fd}", f"modify {fd}", f"modify {fd}", f"unregister {fd}"]
    assert devpoll.closed


def test_devpoll_where_there_is_one(monkeypatch):
    monkeypatch.setattr(select, "devpoll", FakeDevpoll, raising=False)
    assert Kqueue().waits_by == "devpoll"

    def refused():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/dev/poll")

    monkeypatch.setattr(select, "devpoll", refused)
    assert Kqueue().waits_by == "poll"
    monkeypatch.delattr(select, "devpoll")
    assert Kqueue().waits_by == "poll"


def test_an_event_reads_well():
    event = Kevent(7, READ, ONCE)
    assert repr(event) == "<select.kevent ident=7 filter=-1 flags=0x11 fflags=0x0 data=0x0 udata=0x0>"


def test_the_numbers_are_those_of_sys_event_h():
    """As `select` has them on macOS and FreeBSD."""
    assert {name: value for name, value in vars(kqueue_by_poll).items() if name.startswith("KQ_")} == {
        "KQ_FILTER_READ": -1,
        "KQ_FILTER_WRITE": -2,
        "KQ_FILTER_PROC": -5,
        "KQ_EV_ADD": 1,
        "KQ_EV_DELETE": 2,
        "KQ_EV_ONESHOT": 16,
        "KQ_EV_ERROR": 16384,
        "KQ_EV_EOF": 32768,
        "KQ_NOTE_EXIT": 2147483648,
    }
