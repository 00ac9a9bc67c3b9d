"""What the socket's methods call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from imgproto.documents import DoctorDocument

    from imgstored.care.dry_run import DryRun
    from imgstored.care.history import History
    from imgstored.care.resolver import Resolver
    from imgstored.care.status import Status
    from imgstored.care.upkeep import Upkeep
    from imgstored.care.usage import Usage
    from imgstored.care.verifier import Verifier
    from imgstored.create.export import Exporter
    from imgstored.create.maker import Maker
    from imgstored.create.publish import Publisher
    from imgstored.sources.sourcebook import SourceBook
    from imgstored.store.store import Store


@dataclass(frozen=True, slots=True)
class Services:
    """The rooms below, each by what it does. The first of `pools` serves requests that name none."""

    pools: Sequence[str]
    store: Store
    sources: SourceBook
    resolver: Resolver
    dry_run: DryRun
    usage: Usage
    history: History
    upkeep: Upkeep
    verifier: Verifier
    maker: Maker
    exporter: Exporter
    publisher: Publisher
    status: Status
    doctor: Callable[[], Awaitable[DoctorDocument]]
