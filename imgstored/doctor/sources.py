"""Checks of the image servers: reachability, trust, speed; and the host's clock against theirs."""

from __future__ import annotations

import math
import statistics
import time
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field

from imgstored.config.specs import registry_specs, source_specs
from imgstored.doctor.check import Finding
from imgstored.errors import ImgstoreError
from imgstored.http.documents import DocumentLimits, fetch_document
from imgstored.http.location import public
from imgstored.manifest import MAX_LIST, MAX_MANIFEST
from imgstored.registry.client import Registries
from imgstored.sources.client import open_source
from imgstored.sources.server import AskLimits
from imgstored.sources.source_set import SourceSet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgstored.doctor.check import Subject
    from imgstored.http.documents import Document
    from imgstored.http.location import Location

#: Seconds for one source's answer, and the seconds after which it counts as slow.
_LIMIT: Final = 10.0
_SLOW: Final = 3.0

#: Seconds that our clock may differ from a server's, because an answer has whole seconds and takes time; and
#: the difference at which new or renewed certificates may not be valid here.
_A_BIT: Final = 5.0
_FAR: Final = 300.0

_GONE: Final = " `imgctl sources -d URL` removes one that is gone for good"
_CLOCK: Final = "set the clock, and have it kept: chrony, systemd-timesyncd, or ntp"


class Answers(Struct):
    """The measurements by source URL: seconds of the request, and the lead of this host's clock."""

    seconds: dict[str, float] = field(default_factory=dict)
    leads: dict[str, float] = field(default_factory=dict)

    async def fetch(
        self, location: Location, *, limits: DocumentLimits, headers: Sequence[tuple[str, str]]
    ) -> Document:
        """`fetch_document`, watched."""
        began = time.monotonic()
        document = await fetch_document(location, limits=limits, headers=headers)
        taken = time.monotonic() - began
        url = public(location.source)
        self.seconds[url] = max(taken, self.seconds.get(url, 0.0))
        lead = lead_of(document.headers, time.time(), taken)
        if lead is not None:
            self.leads[url] = lead
        return document


def lead_of(headers: Mapping[str, str], now: float, taken: float) -> float | None:
    """Seconds that our clock is ahead of the server's; negative is behind. None if the answer has no time.

    The time that the answer took, and the rounding of its date to seconds, count as no difference.
    """
    try:
        date = parsedate_to_datetime(headers["date"]).timestamp() + float(headers.get("age", 0))
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    if not math.isfinite(date):
        return None
    early, late = date, date + 1.0 + taken
    return now - late if now > late else min(0.0, now - early)


async def sources(subject: Subject) -> list[Finding]:
    """Checks all sources at the same time, each with a time limit; and the clock."""
    answers = Answers()
    limits = AskLimits(
        ping=DocumentLimits(max_bytes=MAX_MANIFEST, total_seconds=_LIMIT, tries=1),
        listing=DocumentLimits(max_bytes=MAX_LIST, total_seconds=_LIMIT, tries=1),
    )
    try:
        source_set = SourceSet(
            source_specs(subject.settings),
            imgadm_conf=subject.settings.imgadm_folder / "imgadm.conf",
            lists=subject.state / "lists",
            open_source=partial(
                open_source,
                fetch=answers.fetch,
                limits=limits,
                registries=Registries(registry_specs(subject.settings), fetch=answers.fetch),
            ),
        )
        listed, checked = await source_set.listed(), await source_set.check()
    except ImgstoreError as error:
        return [Finding("sources", "fail", error.message, error.hint)]
    if not listed:
        hint = "`imgctl sources -a URL` adds an image server"
        return [Finding("sources", "warn", "there are none", hint)]
    findings = [_source(one, answer, answers) for one, answer in zip(listed, checked, strict=True)]
    findings += [_incomplete(answer["incomplete"]) for answer in checked if answer["incomplete"]]
    findings += [_insecure(one["url"]) for one in listed if one["insecure"]]
    return [*findings, *clock(list(answers.leads.values()))]


def _source(source: Mapping[str, Any], answer: Mapping[str, Any], answers: Answers) -> Finding:
    url = public(source["url"])
    error = answer["error"]
    if error is not None:
        message = str(error["message"])
        hint = error["hint"] or "is the server up?"
        if not error["hint"] or "errno" in error["data"]:
            hint += _GONE
        return Finding("sources", "fail", message, hint)
    taken = answers.seconds.get(url, 0.0)
    seen = f"{url} answers in {1000 * taken:.0f} ms"
    if taken > _SLOW:
        return Finding("sources", "warn", seen, "slow: check the network and the server")
    return Finding("sources", "ok", seen)


def _incomplete(reason: str) -> Finding:
    return Finding(
        "sources", "warn", reason, "tell the server's operator; a uuid finds also what a list lacks"
    )


def _insecure(url: str) -> Finding:
    seen = f"{public(url)} IS NOT VERIFIED: anyone on the network path can send other images"
    hint = "install the server's certificate authority, name it as `ca_file`, and leave out `insecure`"
    return Finding("sources", "warn", seen, hint)


def clock(leads: Sequence[float]) -> list[Finding]:
    """Checks our clock against those of the servers: one server may be wrong, but most are not."""
    if not leads:
        return [Finding("clock", "ok", "not checked: no source sent its time")]
    lead = statistics.median_low(leads) if len(leads) > 2 else min(leads, key=abs)
    if abs(lead) <= _A_BIT:
        servers = "clock of 1 image server" if len(leads) == 1 else f"clocks of {len(leads)} image servers"
        return [Finding("clock", "ok", f"right, by the {servers}")]
    way = "ahead of" if lead > 0 else "behind"
    seen = f"{abs(lead):.0f} s {way} the image servers' clocks"
    return [Finding("clock", "fail" if abs(lead) > _FAR else "warn", seen, _CLOCK)]
