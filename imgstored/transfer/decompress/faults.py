"""The errors of decompression, in imgadm's words where it has some."""

from __future__ import annotations

from imgstored.errors import UncompressionError

_HINT = "usually indicates a network error while downloading, try again"


def corrupt(name: str, cause: object) -> UncompressionError:
    """The file is not what a compressor of format `name` writes."""
    return UncompressionError(
        f"{name} uncompression error while importing: {cause} (corrupt compressed file)", hint=_HINT
    )


def cut_short(name: str, position: int) -> UncompressionError:
    """The file stops before its format says so. `position` is its length in bytes."""
    return UncompressionError(
        f"{name} uncompression error while importing: the file ends in the middle, after {position} bytes",
        hint=_HINT,
    )


def trailing(name: str, position: int, found: bytes) -> UncompressionError:
    """Something else follows the compressed data, at byte `position`."""
    return UncompressionError(
        f"{name} uncompression error while importing: garbage ({found.hex(' ')}) after the end of the "
        f"compressed data, at byte {position}",
        hint=_HINT,
    )
