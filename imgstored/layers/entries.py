"""The entries of a layer: a tar of what the layer adds to those below it, and whiteouts for what it removes.

The form is that of the OCI's image specification (layer.md). A layer is hostile: names are split into
components here, and `..` is refused, so that nothing above this module meets a path. Reads from the layer
only; what an entry does to a tree is decided in `tree`.
"""

from __future__ import annotations

import enum
import io
import math
import tarfile
from contextlib import contextmanager
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, cast

from msgspec import Struct

from imgstored.errors import DamagedLayerError, LayerError
from imgstored.foreign_text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from tarfile import TarFile
    from typing import Self

#: Entries of one layer; a distribution with all its packages has some 500,000.
MAX_ENTRIES: Final = 1 << 20
#: Bytes of all that describes one entry, as the reference implementations limit it (Go's archive/tar).
MAX_HEADER: Final = 1 << 20
#: Headers that belong to one entry: a long name, a long link, attributes, and some of each kind of tar.
MAX_CHAIN: Final = 8
#: Bytes of a name and of a path; Linux and illumos have these limits.
MAX_NAME: Final = 255
MAX_PATH: Final = 4095
#: Folders within each other.
MAX_DEPTH: Final = 128
#: Bytes of all the holes in sparse files of one layer, which no limit on what is downloaded or decompressed
#: bounds: a header alone may claim 8 EiB.
MAX_HOLES: Final = 64 << 30
#: Bytes of the value of an extended attribute; Linux's limit.
MAX_ATTRIBUTE: Final = 64 << 10

_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
#: Other names that begin so are notes of AUFS to itself.
_AUFS: Final = b".wh..wh."
#: Where a tar of PAX has extended attributes, as Go, GNU tar and bsdtar write them.
_ATTRIBUTE: Final = "SCHILY.xattr."
#: The keys of PAX that make a file sparse, in the three forms that GNU tar has had.
_SPARSE: Final = frozenset(("GNU.sparse.size", "GNU.sparse.map", "GNU.sparse.major"))
#: chown(2) takes this as "leave it".
_NO_ID: Final = (1 << 32) - 1
#: The largest number of a device: what os.makedev takes, and more than Linux has. illumos has 32 bits for
#: each of two (sys/mkdev.h), of which it uses fewer.
_MAX_DEVICE: Final = (1 << 31) - 1
#: How often tarfile meets the end of a layer that is whole: in its last header, and behind it. Where a size
#: leads beyond the end, it would ask again for each 10 KiB, of 8 EiB even.
_MAX_ENDS: Final = 4
#: Seconds: times after the year 2486 are taken for damage, and are 0 as those before 1970 are.
_MAX_TIME: Final = 1 << 34

_DAMAGED: Final = "import it again; if that fails too, whoever published the image has to mend it"
_BEYOND: Final = "imgstored takes no such layers: whoever published the image has to make smaller ones"


class Kind(enum.Enum):
    """The kind of an entry."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symbolic link"
    HARD_LINK = "hard link"
    FIFO = "FIFO"
    CHARACTER = "character device"
    BLOCK = "block device"
    WHITEOUT = "whiteout"  #: removes `path` as the layers below have it
    OPAQUE = "opaque"  #: removes all that the layers below have in the folder `path`


Path = tuple[bytes, ...]


class Entry(Struct, frozen=True):
    """One entry of a layer."""

    path: Path  #: the components of its path from the layer's root; () is the root
    kind: Kind
    mode: int = 0o755  #: permissions, with setuid, setgid and sticky
    uid: int = 0
    gid: int = 0
    mtime: int = 0  #: nanoseconds since the epoch
    size: int = 0  #: bytes of a file
    target: bytes = b""  #: of a symbolic link, as it is written
    linked: Path = ()  #: the path that a hard link is another name of
    device: tuple[int, int] = (0, 0)  #: major and minor number
    attributes: Mapping[str, bytes] = {}  #: extended attributes


class Readable(Protocol):
    """An uncompressed layer, from front to back."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...


class PieceReader:
    """The pieces of a layer as a file that is read from front to back."""

    def __init__(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end. Raises what the pieces raise."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = memoryview(piece).cast("B")
        found, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return found

    def drain(self) -> None:
        """Takes what follows the end of the archive, so that all of the file is hashed."""
        self._rest = memoryview(b"")
        for _ in self._pieces:
            pass


def entries(layer: Readable) -> Iterator[tuple[Entry, Readable | None]]:
    """Yields the entries in order; the contents of a file can be read until the next entry is asked for.

    An empty layer has no entries. Raises `LayerError` for a layer that is damaged, cut short, or beyond a
    limit; the contents raise it, too.
    """
    reader = _Reader(layer)
    try:
        with tarfile.open(
            None, "r|", reader, tarinfo=reader.info, encoding="utf-8", errors="surrogateescape"
        ) as tar:
            for number, member in enumerate(tar):
                if number >= MAX_ENTRIES:
                    raise _beyond(f"it has more than {MAX_ENTRIES} entries")
                reader.expand(member)
                entry = _entry(member)
                if entry is not None:
                    yield entry, _contents(tar, member) if entry.kind is Kind.FILE else None
                # tarfile keeps what it has read, to find it again.
                cast("Any", tar).members.clear()
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, EOFError) as error:
        if reader.size:
            raise _damaged(str(error)) from error


def components(path: bytes) -> Path:
    """The components of a path in a layer, from the layer's root. Raises `LayerError`.

    A leading slash means the root, too, as in what `tar -P` writes.
    """
    parts = tuple(part for part in path.split(b"/") if part not in (b"", b"."))
    if len(path) > MAX_PATH or len(parts) > MAX_DEPTH or any(len(part) > MAX_NAME for part in parts):
        raise _beyond(f"the path {shown(path)} is too long")
    if b".." in parts or b"\0" in path:
        raise _damaged(f"the path {shown(path)} leads out of the image")
    return parts


_NO_HEADER: Final = tarfile.HeaderError
#: What tarfile raises at the end of the file, and at a block of zeros.
_EMPTY: Final = cast("Any", tarfile).EmptyHeaderError
_ZEROS: Final = cast("Any", tarfile).EOFHeaderError


class _Reader(io.RawIOBase):
    """Bounds what tarfile reads for one entry's headers, which it keeps in memory."""

    def __init__(self, layer: Readable) -> None:
        self._layer = layer
        self._headers = 0
        self._chain = 0
        self._holes = 0
        self._ends = 0
        self.size = 0
        reader = self

        class Info(tarfile.TarInfo):
            """An entry whose headers are bounded."""

            @classmethod
            def fromtarfile(cls, tarfile: TarFile) -> Self:
                # What global headers say of later entries means nothing in a layer, as for containerd, and
                # tarfile would keep it all.
                tarfile.pax_headers = {}
                with reader.headers():
                    try:
                        return super().fromtarfile(tarfile)
                    except _NO_HEADER as error:
                        # tarfile ends without a word at the first header that is none.
                        reader.check_end(tarfile, error)
                        raise

        self.info = Info

    def read(self, size: int = -1) -> bytes:
        """The next bytes for tarfile, which asks for 10 KiB at a time."""
        data = self._layer.read(size)
        self.size += len(data)
        if not data:
            self._ends += 1
            if self._ends > _MAX_ENDS:
                raise _damaged("it is cut short")
        if self._chain:
            self._headers += len(data)
            if self._headers > MAX_HEADER:
                raise _beyond(f"an entry has more than {MAX_HEADER >> 20} MiB of headers")
        return data

    def check_end(self, tar: TarFile, error: tarfile.HeaderError) -> None:
        """Raises `LayerError` if there is no header, but no end either, as Go's archive/tar sees it."""
        if self._chain > 1 or isinstance(error, _EMPTY):
            return
        if isinstance(error, _ZEROS):
            following = cast("Any", tar).fileobj.read(tarfile.BLOCKSIZE)
            if not any(following):
                return
        raise _damaged(f"there is no header where one has to be: {error}")

    def expand(self, member: tarfile.TarInfo) -> None:
        """The entry's holes will be read. Raises `LayerError` where they are too many, or not the entry's."""
        if member.sparse is not None:
            if member.type != tarfile.GNUTYPE_SPARSE and _SPARSE.isdisjoint(member.pax_headers):
                raise _damaged("a global header makes a file sparse")
            reached = 0
            for offset, size in [*member.sparse, (member.size, 0)]:
                self._holes += max(0, offset - reached)
                reached = max(reached, offset + size)
            if self._holes > MAX_HOLES:
                raise _beyond(f"it has sparse files with more than {MAX_HOLES >> 30} GiB of holes")

    @contextmanager
    def headers(self) -> Iterator[None]:
        """One entry's headers are being read; those that describe another header are within it."""
        if not self._chain:
            self._headers = 0
        self._chain += 1
        try:
            if self._chain > MAX_CHAIN:
                raise _beyond(f"an entry has more than {MAX_CHAIN} headers")
            yield
        finally:
            self._chain -= 1


def _entry(member: tarfile.TarInfo) -> Entry | None:
    """The entry; None for what concerns no file. Raises `LayerError`."""
    path = components(_bytes(member.name))
    if any(part.startswith(_AUFS) and part != _OPAQUE for part in path):
        return None
    if path and path[-1].startswith(_WHITEOUT):
        return _whiteout(path)
    kind = _KINDS.get(member.type)
    if kind is None or (not path and kind is not Kind.FOLDER):
        raise _damaged(f"it has an entry of the unknown type {member.type!r}, {shown(_bytes(member.name))}")
    target = _bytes(member.linkname)
    if kind is Kind.SYMLINK and not (0 < len(target) <= MAX_PATH and b"\0" not in target):
        raise _damaged(f"the symbolic link {shown(_bytes(member.name))} has no target")
    linked = components(target) if kind is Kind.HARD_LINK else ()
    if kind is Kind.HARD_LINK and not linked:
        raise _damaged(f"the hard link {shown(_bytes(member.name))} has no target")
    if not (0 <= member.uid < _NO_ID and 0 <= member.gid < _NO_ID and member.size >= 0):
        raise _damaged(f"{shown(_bytes(member.name))} has an impossible owner or size")
    # Of all others a header may have anything there.
    device = (member.devmajor, member.devminor) if kind in (Kind.CHARACTER, Kind.BLOCK) else (0, 0)
    if not all(0 <= number <= _MAX_DEVICE for number in device):
        raise _damaged(f"the {kind.value} {shown(_bytes(member.name))} has an impossible number")
    return Entry(
        path=path,
        kind=kind,
        mode=member.mode & 0o7777,
        uid=member.uid,
        gid=member.gid,
        mtime=_nanoseconds(member),
        size=member.size if kind is Kind.FILE else 0,
        target=target if kind is Kind.SYMLINK else b"",
        linked=linked,
        device=device,
        attributes=_attributes(member.pax_headers),
    )


_KINDS: Final = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.AREGTYPE: Kind.FILE,
    tarfile.CONTTYPE: Kind.FILE,
    tarfile.GNUTYPE_SPARSE: Kind.FILE,
    tarfile.DIRTYPE: Kind.FOLDER,
    tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.LNKTYPE: Kind.HARD_LINK,
    tarfile.FIFOTYPE: Kind.FIFO,
    tarfile.CHRTYPE: Kind.CHARACTER,
    tarfile.BLKTYPE: Kind.BLOCK,
}


def _whiteout(path: Path) -> Entry:
    name = path[-1]
    if name == _OPAQUE:
        return Entry(path[:-1], Kind.OPAQUE)
    hidden = name.removeprefix(_WHITEOUT)
    if hidden in (b"", b".", b".."):
        raise _damaged(f"the whiteout {shown(b'/'.join(path))} names no file")
    return Entry((*path[:-1], hidden), Kind.WHITEOUT)


def _nanoseconds(member: tarfile.TarInfo) -> int:
    if not math.isfinite(member.mtime) or not 0 <= member.mtime < _MAX_TIME:
        return 0
    # tarfile makes a floating-point number of it, which has no nanoseconds; and 0 of what is no number.
    try:
        return int(Decimal(member.pax_headers.get("mtime", member.mtime)) * 1_000_000_000)
    except (ArithmeticError, ValueError):
        return 0


def _attributes(headers: Mapping[str, str]) -> dict[str, bytes]:
    found = {}
    for key, value in headers.items():
        if key.startswith(_ATTRIBUTE):
            data = _bytes(value)
            if len(data) > MAX_ATTRIBUTE or "\0" in key:
                raise _beyond("an extended attribute is too long")
            found[key.removeprefix(_ATTRIBUTE)] = data
    return found


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class _Contents:
    """The contents of one file: what tarfile raises becomes `LayerError`."""

    def __init__(self, contents: IO[bytes]) -> None:
        self._contents = contents

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end. Raises `LayerError`."""
        try:
            return self._contents.read(size)
        except (tarfile.TarError, ValueError, ArithmeticError, LookupError, EOFError) as error:
            raise _damaged(str(error)) from error


def _contents(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Readable:
    contents = tar.extractfile(member)
    assert contents is not None, "it is a file"
    return _Contents(contents)


def shown(path: bytes) -> str:
    """A path of a layer in quotes, fit for a message."""
    text = path[:200].decode("utf-8", "backslashreplace")
    return f'"{printable(text)}"'


def _damaged(reason: str) -> LayerError:
    return DamagedLayerError(f"the layer cannot be unpacked: {reason}", hint=_DAMAGED)


def _beyond(reason: str) -> LayerError:
    """The error for what no other download of the layer would change."""
    return LayerError(f"the layer cannot be unpacked: {reason}", hint=_BEYOND)
