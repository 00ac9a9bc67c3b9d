"""Detection of a file's compression by its first bytes. Pure.

Magic numbers: RFC 1952, 2.3.1 (gzip); bzip2's decompress.c; The .xz File Format 1.2.0, 2.1.1.1; RFC 8878,
3.1.1 (zstd); OpenZFS include/sys/zfs_ioctl.h (a BEGIN record has DMU_BACKUP_MAGIC at byte 8); POSIX, pax,
"ustar Header Block".
"""

from __future__ import annotations

from typing import Literal

from imgstored.errors import UncompressionError
from imgstored.zstream.records import MAGIC

Codec = Literal["none", "gzip", "bzip2", "xz", "zstd"]

#: What is in a file: a ZFS stream; or else a layer of a container image; or anything at all.
Contents = Literal["stream", "layer", "anything"]

#: How many bytes `codec_of` looks at: the header of a tar's first entry.
HEAD = 512

GZIP_MAGIC = b"\x1f\x8b\x08"
BZIP2_MAGIC = b"BZh"
XZ_MAGIC = b"\xfd7zXZ\x00"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
#: The first of 16 in a row.
SKIPPABLE_MAGIC = b"\x50\x2a\x4d\x18"

_BZIP2_LEVELS = frozenset(b"%d" % level for level in range(1, 10))
_BZIP2_BLOCK = b"\x31\x41\x59\x26\x53\x59"
BZIP2_END = b"\x17\x72\x45\x38\x50\x90"
_ZFS_MAGIC_AT = 8
_ZFS_MAGICS = (MAGIC.to_bytes(8, "little"), MAGIC.to_bytes(8, "big"))

_TAR_MAGIC_AT = 257
_TAR_MAGIC = b"ustar"

_LOOKS_LIKE = (
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML document"),
    (b"{", "a JSON document"),
    (b"[", "a JSON document"),
    (b"qfi\xfb", "a qcow2 disk image"),
    (b"pk\x03\x04", "a zip archive"),
)


def codec_of(head: bytes, *, contents: Contents = "stream") -> Codec:
    """The compression of the file that begins with `head`. Raises `UncompressionError` for other files.

    As a layer, it may be a tar, or empty, as a layer is that changes nothing.
    """
    if head.startswith(GZIP_MAGIC):
        return "gzip"
    if head.startswith(BZIP2_MAGIC) and head[3:4] in _BZIP2_LEVELS and _bzip2_goes_on(head[4:10]):
        return "bzip2"
    if head.startswith(XZ_MAGIC):
        return "xz"
    if begins_zstd_frame(head):
        return "zstd"
    if head[_ZFS_MAGIC_AT : _ZFS_MAGIC_AT + 8] in _ZFS_MAGICS:
        return "none"
    is_tar = head[_TAR_MAGIC_AT:].startswith(_TAR_MAGIC) or not any(head)
    if contents == "anything" or (contents == "layer" and is_tar):
        return "none"
    raise UncompressionError(
        f"the image file is {_description(head)}; expected a ZFS stream, plain or compressed with gzip, "
        "bzip2, xz or zstd",
        hint="the source, or a proxy on the way to it, does not send the image",
    )


def begins_zstd_frame(head: bytes) -> bool:
    """True if `head` begins a zstd frame, or a skippable one (RFC 8878, 3.1.2: 0x184D2A50 to 0x184D2A5F)."""
    return head[:4] == ZSTD_MAGIC or (head[1:4] == SKIPPABLE_MAGIC[1:] and head[0] & 0xF0 == 0x50)


def _bzip2_goes_on(after: bytes) -> bool:
    return _BZIP2_BLOCK.startswith(after) or BZIP2_END.startswith(after)


def _description(head: bytes) -> str:
    if not head:
        return "empty"
    text = head.lstrip().lower()
    for start, name in _LOOKS_LIKE:
        if text.startswith(start):
            return f"{name} (it begins with {head[:16].hex(' ')})"
    return f"of no known kind (it begins with {head[:16].hex(' ')})"
