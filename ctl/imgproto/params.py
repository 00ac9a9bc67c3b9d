"""The parameters of operations. A parameter that is None counts as left out.

The daemon refuses unknown parameters and values of other types, and names what is wrong.
"""

# As in imgproto.documents, annotations are evaluated here.
from typing import Any, Literal, NotRequired, TypedDict

#: Where `resolve` looks for an image: in a pool, in what the sources have, in what of that can be imported,
#: in what is under way, or in the history.
Among = Literal["installed", "available", "active", "jobs", "history"]


class NoParams(TypedDict):
    """No parameters."""


class HelloParams(TypedDict):
    """`client` is the name and version that the client gives itself."""

    protocol: int
    client: str


# -- images --------------------------------------------------------------------------------------------------


class ListParams(TypedDict):
    """`holds` adds the tags that hold each image."""

    holds: NotRequired[bool | None]


class ImageParams(TypedDict):
    """An image of the sources, or of an import."""

    uuid: str


class InstalledParams(TypedDict):
    """An installed image. `pool` is the daemon's first one if nothing else is said, here and below."""

    uuid: str
    pool: NotRequired[str | None]


class GetParams(InstalledParams):
    """`recursive` adds the image's children."""

    recursive: NotRequired[bool | None]


class ReleaseParams(TypedDict):
    """The hold to end."""

    uuid: str
    tag: str
    pool: NotRequired[str | None]


class HoldParams(TypedDict):
    """Without a `tag` the hold lasts as long as the request."""

    uuid: str
    tag: NotRequired[str | None]
    pool: NotRequired[str | None]


class ResolveParams(TypedDict):
    """`pool` is for "installed", `sources` (URLs) and `channel` for "available" and "active"."""

    names: list[str]
    among: Among
    pool: NotRequired[str | None]
    sources: NotRequired[list[str] | None]
    channel: NotRequired[str | None]


class UsageParams(TypedDict):
    """All pools and images if nothing else is said."""

    pool: NotRequired[str | None]
    uuids: NotRequired[list[str] | None]


class OutdatedParams(TypedDict):
    """All pools if nothing else is said."""

    pool: NotRequired[str | None]


class AliasParams(TypedDict):
    """The image that an alias is to mean."""

    alias: str
    uuid: str


class UnaliasParams(TypedDict):
    """The alias to remove."""

    alias: str


class VerifyParams(TypedDict):
    """Images with their origins, or all images; with `record`, writes down what they are now."""

    uuids: NotRequired[list[str] | None]
    pool: NotRequired[str | None]
    record: NotRequired[bool | None]


class UpdateParams(TypedDict):
    """All images if nothing else is said."""

    uuids: NotRequired[list[str] | None]
    dry_run: NotRequired[bool | None]


class VacuumParams(TypedDict):
    """`older_than` is in seconds since the installation; `keep` counts the newest of each name."""

    older_than: NotRequired[int | None]
    keep: NotRequired[int | None]


class HistoryParams(TypedDict):
    """The newest `limit` entries, of one image or of all."""

    limit: NotRequired[int | None]
    uuid: NotRequired[str | None]


# -- sources -------------------------------------------------------------------------------------------------


class AddSourceParams(TypedDict):
    """`force` adds a source that does not answer."""

    url: str
    type: NotRequired[str | None]
    insecure: NotRequired[bool | None]
    force: NotRequired[bool | None]


class UrlParams(TypedDict):
    """A source's URL."""

    url: str


class SetSourcesParams(TypedDict):
    """`sources` are maps of {url, type?, insecure?, channel?}, `before` the answer of `sources.list`."""

    sources: list[dict[str, Any]]
    before: list[dict[str, Any]]
    force: NotRequired[bool | None]


# -- imports -------------------------------------------------------------------------------------------------


class PlanParams(TypedDict):
    """`sources` are URLs that replace the configured ones."""

    uuid: str
    pool: NotRequired[str | None]
    sources: NotRequired[list[str] | None]
    channel: NotRequired[str | None]


class ImportParams(PlanParams):
    """With `zstream`, no size and no checksum of the manifest is compared.

    With `detach` the answer comes once the import has begun, and it goes on without the client.
    """

    zstream: NotRequired[bool | None]
    detach: NotRequired[bool | None]


class EnsureParams(TypedDict):
    """The images to have; `detach` is as of `import`."""

    uuids: list[str]
    pool: NotRequired[str | None]
    detach: NotRequired[bool | None]


class InstallParams(TypedDict):
    """`path` is what the client calls the file that it passes, for messages, here and below."""

    manifest: dict[str, Any]
    pool: NotRequired[str | None]
    path: NotRequired[str | None]


class WatchParams(TypedDict):
    """All imports if nothing else is said."""

    uuid: NotRequired[str | None]


class EventsParams(TypedDict):
    """The events after number `since`, 0 for all, or those to come. `follow` (true) waits for more."""

    since: NotRequired[int | None]
    follow: NotRequired[bool | None]


# -- making images -------------------------------------------------------------------------------------------


class CreateParams(TypedDict):
    """`source` is a machine's uuid or POOL/NAME; `fields` are `field=value`, and replace the manifest's."""

    source: str
    manifest: dict[str, Any]
    fields: NotRequired[list[str] | None]
    compression: NotRequired[str | None]
    index: NotRequired[bool | None]
    incremental: NotRequired[bool | None]
    max_origin_depth: NotRequired[int | None]
    script: NotRequired[str | None]
    path: NotRequired[str | None]


class ExportParams(TypedDict):
    """`format` is "stream", or "raw" for the disk of a volume."""

    uuid: str
    pool: NotRequired[str | None]
    compression: NotRequired[str | None]
    index: NotRequired[bool | None]
    format: NotRequired[str | None]
    path: NotRequired[str | None]


class PublishParams(TypedDict):
    """The server's URL, the manifest of the file that the client passes, and a token for the server.

    `keys` are texts of secret keys, which sign an image in a registry.
    """

    manifest: dict[str, Any]
    url: str
    token: NotRequired[str | None]
    keys: NotRequired[list[str] | None]
    path: NotRequired[str | None]


# -- sites and mirrors ---------------------------------------------------------------------------------------


class ExportSiteParams(TypedDict):
    """All images of the library if no `names`; `keys` are texts of secret keys, `days` how long they hold."""

    names: NotRequired[list[str] | None]
    url: NotRequired[str | None]
    keys: NotRequired[list[str] | None]
    days: NotRequired[int | None]
    delete: NotRequired[bool | None]
    path: NotRequired[str | None]


class MirrorParams(TypedDict):
    """`url` is of a configured source, or of an IMGAPI server; `newest` counts images of each name.

    `to` is a registry that gets the images, too; for root alone.
    """

    url: str
    to: NotRequired[str | None]
    name: NotRequired[str | None]
    os: NotRequired[str | None]
    newest: NotRequired[int | None]
    dry_run: NotRequired[bool | None]
