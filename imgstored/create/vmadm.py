"""vmadm(8), SmartOS's program for machines, and sysinfo(8). Blocks; called from threads.

What is said of a machine may be the machine's own words: metadata is only looked at for what it should be.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from imgstored.errors import InternalError, NotSupportedError, VmNotFoundError
from imgstored.foreign_text import one_line
from imgstored.host import shortage, signals
from imgstored.manifest import check_uuid
from imgstored.manifest.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

VMADM: Final = "/usr/sbin/vmadm"
SYSINFO: Final = "/usr/bin/sysinfo"

#: How it says that there is no such machine: of `zoneadm`, and of its own lookup.
_NO_MACHINE: Final = ("No such zone", "found 0 results")

#: Bytes that are read of what it says, and of why it failed.
_ANSWER: Final = 16 << 20
_WORDS: Final = 2000
#: Seconds that it may take; to stop a machine takes it a minute and more.
_TIMEOUT: Final = 300.0


class Machine(Struct, frozen=True):
    """A machine as `vmadm get` describes it."""

    uuid: str
    state: str
    brand: str
    root: str | None  #: its zone's dataset
    disks: tuple[str, ...]  #: volumes, the one that it boots from first
    bootrom: str | None
    metadata: Mapping[str, Any]  #: customer_metadata

    @property
    def image_dataset(self) -> str | None:
        """The dataset for an image of the machine: the first disk of a hardware VM, else its zone."""
        if self.brand in ("kvm", "bhyve"):
            return self.disks[0] if self.disks else None
        return self.root


class Vmadm:
    """The program at a fixed path, which may not be there."""

    def __init__(self, program: str = VMADM, sysinfo: str = SYSINFO) -> None:
        self._program = program
        self._sysinfo = sysinfo

    @property
    def there(self) -> bool:
        """True if this host has it."""
        return os.access(self._program, os.X_OK)

    def machine(self, uuid: str) -> Machine:
        """The machine. Raises `VmNotFoundError`, `NotSupportedError`, `InternalError`."""
        code, said, why = self._run(["get", check_uuid(uuid)])
        if code:
            if any(words in why for words in _NO_MACHINE):
                raise VmNotFoundError(uuid)
            raise _failed("get", why)
        try:
            return _machine(uuid, json.loads(said))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InternalError(f"what vmadm says of vm {uuid} is not valid") from error

    def start(self, uuid: str) -> None:
        """Starts it."""
        self._do(["start", check_uuid(uuid)])

    def stop(self, uuid: str, *, force: bool = False) -> None:
        """Stops it, and returns when it is stopped. `force`: as by pulling the plug."""
        self._do(["stop", check_uuid(uuid), *(["-F"] if force else [])])

    def update(self, uuid: str, change: Mapping[str, Any]) -> None:
        """Changes what it is."""
        self._do(["update", check_uuid(uuid)], json.dumps(change))

    def platform(self) -> Platform | None:
        """The platform of the host; None if unknown."""
        if not os.access(self._sysinfo, os.X_OK):
            return None
        code, said, _ = _called([self._sysinfo], "")
        try:
            answer = json.loads(said) if not code else {}
            return Platform(str(answer.get("SDC Version", "6.5")), str(answer["Live Image"]))
        except (ValueError, KeyError, AttributeError):
            return None

    def _do(self, arguments: list[str], given: str = "") -> None:
        code, _, why = self._run(arguments, given)
        if code:
            raise _failed(arguments[0], why)

    def _run(self, arguments: list[str], given: str = "") -> tuple[int, str, str]:
        if not self.there:
            raise NotSupportedError(
                f"this host has no machines: there is no {self._program}",
                hint="name a dataset instead, as in `imgctl create zones/web …`",
            )
        return _called([self._program, *arguments], given)


def _called(command: list[str], given: str) -> tuple[int, str, str]:
    """A program's exit status, what it says, and its complaints. `given` is its input."""
    try:
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as words:
            with signals.for_child():
                done = subprocess.run(  # noqa: S603  a path from the configuration, and uuids
                    command,
                    input=given.encode(),
                    stdout=said,
                    stderr=words,
                    timeout=_TIMEOUT,
                    env={"PATH": "/usr/bin:/usr/sbin:/sbin:/bin", "LC_ALL": "C"},
                    cwd="/",
                    check=False,
                )
            said.seek(0)
            words.seek(0)
            answer = said.read(_ANSWER).decode("utf-8", "replace")
            return done.returncode, answer, words.read(_WORDS).decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        raise InternalError(
            f"{command[0]} took longer than {_TIMEOUT:.0f} seconds",
            hint="look after the machine by hand",
        ) from None
    except OSError as error:
        raise InternalError(f"{command[0]} cannot be run: {shortage.why(error)}") from error


def _failed(command: str, why: str) -> InternalError:
    return InternalError(f"vmadm {command} failed: {one_line(why) or 'no message'}")


def _machine(uuid: str, answer: dict[str, Any]) -> Machine:
    disks = [disk for disk in answer.get("disks", []) if isinstance(disk, dict)]
    disks.sort(key=lambda disk: not disk.get("boot"))
    metadata = answer.get("customer_metadata", {})
    return Machine(
        uuid=uuid,
        state=str(answer["state"]),
        brand=str(answer["brand"]),
        root=_text(answer.get("zfs_filesystem")),
        disks=tuple(name for disk in disks if (name := _text(disk.get("zfs_filesystem")))),
        bootrom=_text(answer.get("bootrom")),
        metadata=metadata if isinstance(metadata, dict) else {},
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
