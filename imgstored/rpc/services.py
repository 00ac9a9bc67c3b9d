"""The services that the socket's methods call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from imgproto.documents import DoctorDocument

    from imgstored.catalog.aliases import Aliases
    from imgstored.catalog.images import Images
    from imgstored.create.export import Exporter
    from imgstored.create.maker import Maker
    from imgstored.create.publish import Publisher
    from imgstored.imports.manager import ImportManager
    from imgstored.maintenance.maintenance import Maintenance
    from imgstored.maintenance.verifier import Verifier
    from imgstored.mirrors.export_site import SiteExporter
    from imgstored.mirrors.mirror import Mirrors
    from imgstored.queries.dry_run import DryRun
    from imgstored.queries.event_log import EventLog
    from imgstored.queries.history import History
    from imgstored.queries.outdated import Outdated
    from imgstored.queries.resolver import Resolver
    from imgstored.queries.status import Status
    from imgstored.queries.usage import Usage
    from imgstored.sources.source_set import SourceSet


class Services(Struct, frozen=True):
    """The services of the daemon. Requests that name no pool use the first of `pools`."""

    pools: Sequence[str]
    images: Images
    aliases: Aliases
    imports: ImportManager
    sources: SourceSet
    resolver: Resolver
    dry_run: DryRun
    outdated: Outdated
    usage: Usage
    history: History
    event_log: EventLog
    maintenance: Maintenance
    verifier: Verifier
    maker: Maker
    exporter: Exporter
    publisher: Publisher
    site_exporter: SiteExporter
    mirrors: Mirrors
    status: Status
    doctor: Callable[[], Awaitable[DoctorDocument]]
