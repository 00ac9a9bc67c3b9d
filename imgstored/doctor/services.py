"""The two callers of the checks: the running daemon, and `imgstored --check --json` without one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

import trio

from imgstored import lanes
from imgstored.config import loading, specs
from imgstored.config.tables import Config
from imgstored.doctor.check import Subject
from imgstored.errors import ImgstoreError
from imgstored.host import signals
from imgstored.http.secrets import KNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from imgproto.documents import DoctorDocument

    from imgstored.doctor.doctor import Doctor
    from imgstored.pools.base import Pool


class OwnHost:
    """The running daemon's own host, with the configuration as the files have it now, if that is right."""

    def __init__(
        self,
        settings: Config,
        files: Sequence[Path],
        pools: Mapping[str, Pool],
        view: Callable[[], str],
        faults: Callable[[], list[ImgstoreError]] = list,
    ) -> None:
        """`faults` returns the files of its own that the daemon cannot use. It blocks briefly."""
        self._settings = settings
        self._files = tuple(files)
        self._pools = pools
        self._view = view
        self._faults = faults
        self._doctor: Doctor | None = None
        self._one_at_a_time = trio.Lock()

    async def examine(self) -> DoctorDocument:
        """The protocol's answer to `doctor`."""
        async with self._one_at_a_time:
            if self._doctor is None:
                self._doctor = _doctor()
            settings = await lanes.in_thread(_loaded, self._files, self._settings)
            faults = await lanes.in_thread(self._faults)
            subject = Subject(settings, self._files, self._pools, self._view(), tuple(faults))
            return await self._doctor.examine(subject)


def examined(files: Sequence[Path]) -> DoctorDocument:
    """Examines a host on which no daemon runs; changes nothing. Blocks for some seconds."""
    subject = _subject(tuple(files))
    KNOWN.configure(specs.secrets(subject.settings, os.environ))
    found: DoctorDocument = signals.run(_doctor().examine, subject)
    return cast("DoctorDocument", KNOWN.hidden_in(found))


def _doctor() -> Doctor:
    """Imported at the first request, so that the daemon's start does not wait for it."""
    from imgstored.doctor.doctor import Doctor

    return Doctor()


def _subject(files: tuple[Path, ...]) -> Subject:
    """A host on which a daemon would have these files, whether or not it could start with them."""
    try:
        return Subject(loading.load(*files), files)
    except ImgstoreError:
        return Subject(Config(), files, known=False)


def _loaded(files: tuple[Path, ...], otherwise: Config) -> Config:
    """The settings of the files; `otherwise` if the files are wrong, which is a finding of its own."""
    try:
        settings = loading.load(*files)
        specs.check(settings)
    except ImgstoreError:
        return otherwise
    return settings
