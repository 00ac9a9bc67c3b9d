"""What a daemon that died while it wrote a small file left goes with the next start, wherever it is."""

from __future__ import annotations

import pytest

from imgstored.catalog.catalog import Catalog
from imgstored.catalog.image_locks import ImageLocks
from imgstored.library.library import Library
from imgstored.pools.embedded import EmbeddedPool
from imgstored.state.folder import owned
from tests.support.image_site import BASE
from tests.support.lock_holder import LockHolder

PLACES = (
    "aliases.json.new",
    "version.new",
    f"receipts/zones-{BASE}.json.new",
    "lists/1.json.new",
    f"pool/{BASE}/holds.json.new",
    f"imgadm/images/zones-{BASE}.json.new",
    f"imgadm/images/zones-{BASE}.json.unsettled.new",
    f"library/{BASE}/entry.json.new",
)


def start(host) -> None:
    """As the daemon does it, one after the other."""
    with owned(host.state) as state:
        pool = EmbeddedPool("zones", state / "pool")
        locks = ImageLocks(state / "locks")
        Catalog({"zones": pool}, state / "imgadm" / "images", host.receipts).sweep(locks)
        Library(state / "library", 100 << 20).open()
        pool.close()


@pytest.mark.parametrize("place", PLACES)
def test_it_is_found_and_goes(host, place):
    start(host)
    path = host.state / place
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"half of it")
    assert len(host.check()[1]) == 1
    start(host)
    assert not path.exists()
    assert host.check() == (0, [])


def test_what_another_program_writes_is_left(host):
    """imgadm may be at work on the image."""
    path = host.state / "imgadm" / "images" / f"zones-{BASE}.json.new"
    path.write_bytes(b"half of it")
    (host.state / "locks").mkdir()
    with LockHolder(host.state / "locks", BASE):
        start(host)
    assert path.exists()
