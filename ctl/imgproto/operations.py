"""The table of operations of the socket."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from imgproto import documents as d
from imgproto import events as e
from imgproto import params as p

P = TypeVar("P")
R = TypeVar("R")

#: Who may ask: whoever may open the socket, who may change, or root and the daemon's own user.
Who = Literal["read", "change", "root"]


@dataclass(frozen=True)
class Operation(Generic[P, R]):
    """One operation. `params` is a TypedDict, `result` the type of the answer."""

    name: str
    params: type[P]
    result: type[R]
    who: Who = "read"
    events: e.Events = ()
    file: bool = False  #: takes one descriptor, which comes with the request
    #: `hello` names this where the operation is there; None: its own name, empty: it was always there
    announced_as: str | None = field(default=None, kw_only=True)

    @property
    def feature(self) -> str:
        """The feature of `hello` that the operation belongs to; empty for the first ones."""
        return self.name if self.announced_as is None else self.announced_as


# In the order in which the protocol got them, which is the order of `FEATURES`.
HELLO = Operation("hello", p.HelloParams, d.HelloDocument, announced_as="")
LIST = Operation("list", p.ListParams, list[d.ImageDocument], announced_as="")
GET = Operation("get", p.GetParams, d.ImageDocument, announced_as="")
AVAIL = Operation("avail", p.NoParams, d.AvailableDocument, announced_as="")
SHOW = Operation("show", p.ImageParams, d.ManifestDocument, announced_as="")
IMPORT = Operation("import", p.ImportParams, d.ImageChange, "change", e.OF_IMPORTS)
ENSURE = Operation("ensure", p.EnsureParams, d.ImagesChange, "change", e.OF_IMPORTS)
INSTALL = Operation("install", p.InstallParams, d.InstalledChange, "change", e.OF_IMPORTS, file=True)
DELETE = Operation("delete", p.InstalledParams, d.ImageChange, "change")
JOBS = Operation("jobs", p.NoParams, list[d.JobDocument])
WATCH = Operation("watch", p.WatchParams, type(None), events=e.OF_IMPORTS)
CANCEL = Operation("cancel", p.ImageParams, d.ImageChange, "change")
SOURCES_LIST = Operation("sources.list", p.NoParams, list[d.SourceDocument], announced_as="sources")
SOURCES_ADD = Operation("sources.add", p.AddSourceParams, d.AddedDocument, "change", announced_as="sources")
SOURCES_DELETE = Operation(
    "sources.delete", p.UrlParams, d.DeletedSourcesDocument, "change", announced_as="sources"
)
SOURCES_CHECK = Operation("sources.check", p.NoParams, list[d.CheckedSourceDocument], announced_as="sources")
HOLD = Operation("hold", p.HoldParams, d.HoldChange, "change", (e.Held,))
RELEASE = Operation("release", p.ReleaseParams, d.HoldChange, "change", announced_as="hold")
HOLDS = Operation("holds", p.InstalledParams, list[str], announced_as="hold")
RESOLVE = Operation("resolve", p.ResolveParams, list[d.NamedDocument])
PLAN = Operation("plan", p.PlanParams, d.PlanDocument)
USAGE = Operation("usage", p.UsageParams, list[d.UsageDocument])
HISTORY = Operation("history", p.HistoryParams, list[d.EntryDocument])
ANCESTRY = Operation("ancestry", p.InstalledParams, list[d.ImageDocument])
UPDATE = Operation("update", p.UpdateParams, d.ImagesChange, "change", e.OF_UPDATES)
VACUUM = Operation("vacuum", p.VacuumParams, list[d.VacuumDocument], events=(e.Left,))
SOURCES_SET = Operation("sources.set", p.SetSourcesParams, d.EditedSourcesDocument, "change")
SOURCES_KNOWN = Operation("sources.known", p.NoParams, list[d.KnownDocument])
VERIFY = Operation("verify", p.VerifyParams, dict[d.Result, int], "change", e.OF_VERIFICATIONS)
CREATE = Operation("create", p.CreateParams, d.MadeDocument, "root", e.OF_CREATION, file=True)
EXPORT = Operation(
    "export", p.ExportParams, d.MadeDocument, "change", (e.ManifestMade, e.Sending, e.Progress), file=True
)
PUBLISH = Operation(
    "publish", p.PublishParams, d.PublishedDocument, "root", (e.Publishing, e.Progress, e.Note), file=True
)
STATUS = Operation("status", p.NoParams, d.StatusDocument)
DOCTOR = Operation("doctor", p.NoParams, d.DoctorDocument, "change")
OUTDATED = Operation("outdated", p.OutdatedParams, d.OutdatedDocument)
ALIASES = Operation("aliases", p.NoParams, list[d.AliasDocument], announced_as="alias")
ALIAS = Operation("alias", p.AliasParams, d.AliasChange, "change")
UNALIAS = Operation("unalias", p.UnaliasParams, d.AliasDocument, "change", announced_as="alias")
EXPORT_SITE = Operation(
    "site.export", p.ExportSiteParams, d.SiteDocument, "root", (e.Progress, e.Note), file=True
)
MIRROR = Operation("mirror", p.MirrorParams, d.MirrorDocument, "change", (e.Progress, e.Note))

EVENTS = Operation("events", p.EventsParams, d.EventsDocument, events=(e.NumberedEvent,))

#: All of them by name.
OPERATIONS: dict[str, Operation[Any, Any]] = {
    each.name: each for each in [*globals().values()] if isinstance(each, Operation)
}

#: What `hello` announces beyond the first operations of version 1.
FEATURES: tuple[str, ...] = tuple(dict.fromkeys(each.feature for each in OPERATIONS.values() if each.feature))
