"""Runs all checks in parallel, each with a time limit, so that a hanging check hides nothing."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog
import trio

from imgstored import __version__
from imgstored.doctor import folders, host, pools, secrets, sources, view
from imgstored.doctor.check import Finding
from imgstored.errors import ConfigError
from imgstored.view.mountpoint import UNMOUNT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgproto.documents import DoctorDocument

    from imgstored.doctor.check import Subject

log = structlog.get_logger(__name__)

#: Seconds that one check may take. Sources have less for their answers.
LIMIT: Final = 15.0

#: Threads of checks that block; those that hang for ever keep theirs.
_THREADS: Final = 24


class Check(NamedTuple):
    """One row of the table. `hint` says what to do if the check never ends."""

    name: str
    run: Callable[[Subject], Awaitable[list[Finding]]]
    hint: str = "try again; if that does not help, look at the host's disks and network"


class Doctor:
    """Examines a host. For trio's thread; a process has one object, which bounds the hanging threads."""

    def __init__(self, *, limit: float = LIMIT) -> None:
        self._limit = limit
        self._threads = trio.CapacityLimiter(_THREADS)

    async def examine(self, subject: Subject) -> DoctorDocument:
        """`{version, running, findings}` of the protocol, in the order of the table."""
        checks = self._checks(subject)
        found: dict[int, list[Finding]] = {}

        async def run(place: int, check: Check) -> None:
            found[place] = await self._limited(check, subject)

        async with trio.open_nursery() as nursery:
            for place, check in enumerate(checks):
                nursery.start_soon(run, place, check)
        findings = [finding.as_wire() for place in range(len(checks)) for finding in found[place]]
        return {"version": __version__, "running": subject.runs, "findings": findings}

    def _checks(self, subject: Subject) -> list[Check]:
        """The table. What blocks runs in a thread."""
        blocking = self._in_thread
        if not subject.known:  # what the defaults name is not what the daemon would use
            return [
                Check("configuration", blocking(host.configuration)),
                Check("python", blocking(host.python)),
                Check("extras", blocking(host.extras)),
            ]
        return [
            Check("configuration", blocking(host.configuration)),
            Check("start", blocking(host.start)),
            Check("python", blocking(host.python)),
            Check("privileges", blocking(host.privileges)),
            Check("descriptors", blocking(host.descriptors)),
            Check("state", blocking(folders.state)),
            Check("space", blocking(folders.space)),
            *(
                Check(
                    f"pool {table.name}",
                    blocking(partial(pools.pool, table.name)),
                    f"is it suspended? See `zpool status {table.name}`, and the disks",
                )
                for table in subject.settings.pools
            ),
            Check("sources", sources.sources),
            Check("fuse", blocking(view.fuse)),
            Check("view", blocking(view.view), f"as root: `{UNMOUNT} {subject.settings.view.path}`"),
            Check("imgadm.conf", blocking(folders.imgadm_conf)),
            Check("secrets", blocking(secrets.readers)),
            Check("manifests", blocking(folders.manifests)),
            Check("locks", blocking(folders.locks)),
            Check("partials", blocking(folders.partials)),
            Check("extras", blocking(host.extras)),
        ]

    def _in_thread(
        self, run: Callable[[Subject], list[Finding]]
    ) -> Callable[[Subject], Awaitable[list[Finding]]]:
        return lambda subject: trio.to_thread.run_sync(
            run, subject, abandon_on_cancel=True, limiter=self._threads
        )

    async def _limited(self, check: Check, subject: Subject) -> list[Finding]:
        with trio.move_on_after(self._limit):
            try:
                return await check.run(subject)
            except ConfigError:
                return []  # `configuration` names it
            except OSError as error:
                why = f"{error.filename or check.name}: {error.strerror or error}"
                return [Finding(check.name, "fail", why, "look at the named file or folder")]
            except Exception:
                # A mistake in one check must not hide what the others see.
                log.exception("a check failed", check=check.name)
                return [
                    Finding(
                        check.name, "warn", "the check failed because of a fault in imgstored", "report it"
                    )
                ]
        return [Finding(check.name, "fail", f"no answer within {self._limit:g} s", check.hint)]
