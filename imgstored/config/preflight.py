"""The needs of a configuration on its host: packages, libraries, a group, certificates. Starts nothing."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imgstored import metrics, serve
from imgstored.errors import ImgstoreError, PoolError
from imgstored.httpd.server import server_context
from imgstored.pools.zfs import ZfsPool
from imgstored.rpc.peer import change_rights
from imgstored.view.open import check_fuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from imgstored.config.tables import Config

#: Seconds that a pool may take to answer.
_SECONDS = 15.0


def faults(settings: Config) -> list[ImgstoreError]:
    """The reasons why a daemon would not start with these settings, as far as they show now."""
    return _failed(_needs(settings))


def pool_faults(settings: Config) -> list[ImgstoreError]:
    """Why ZFS pools cannot be opened. Waits for each of them, but not for ever."""
    return _failed(
        partial(_within, _SECONDS, table.name, partial(ZfsPool, table.name))
        for table in settings.pools
        if table.type == "zfs"
    )


def _failed(needs: Iterable[Callable[[], object]]) -> list[ImgstoreError]:
    found: dict[str, ImgstoreError] = {}
    for need in needs:
        try:
            need()
        except ImgstoreError as error:
            found.setdefault(error.message, error)
    return [*found.values()]


def _within(seconds: float, name: str, opens: Callable[[], object]) -> None:
    """Raises what `opens` raises, or `PoolError` if it takes longer; then its thread stays in the kernel."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            opens()
        except ImgstoreError as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise PoolError(f'pool "{name}" does not answer', hint=f"is it suspended? See `zpool status {name}`")
    if raised:
        raise raised[0]


def _needs(settings: Config) -> Iterator[Callable[[], object]]:
    """Calls that fail if a start of the daemon would fail."""
    yield partial(change_rights, settings.socket.group)
    if settings.view.mode == "fuse":
        yield check_fuse
    if settings.metrics.listen is not None:
        yield metrics.check_packages
    if settings.serve.listen is not None:
        yield serve.check_packages
        yield from _certificate(settings)
        for name, path in settings.serve.keys.items():
            yield partial(_read_key, name, Path(path))


def _certificate(settings: Config) -> Iterator[Callable[[], object]]:
    table = settings.serve
    if table.cert_file is not None:
        certificate, key = Path(table.cert_file), None if table.key_file is None else Path(table.key_file)
        yield partial(server_context, certificate, key)


def _read_key(name: str, path: Path) -> None:
    serve.check_packages()
    from imgstored.serve.writers import read_key

    read_key(name, path)
