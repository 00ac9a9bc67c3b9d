"""The decision whether to believe a site's pointer and index. No I/O.

pointer ── a trusted key's signature? ── not expired? ── not older than the last one? ── Trusted
index ── the hash that the pointer names? ── the signature is of it?
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from imgstored.errors import KeyFileError
from imgstored.site.layout import Index, Pointer, parse_index, parse_pointer
from imgstored.site.minisign import PublicKey, Signature, parse_public_key, parse_signatures

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class UntrustedError(Exception):
    """The reason why something is not believed; its text is for people."""


class Seen(Struct, frozen=True):
    """The newest pointer of a site that was believed."""

    version: int
    index: str  #: SHA-256


class Trusted(Struct, frozen=True):
    """A pointer that is believed, and who vouches for it."""

    pointer: Pointer
    signature: Signature
    key: PublicKey


#: Seconds by which the clocks of a host and of who signs may differ, against the host.
_SKEW: Final = 300.0


def keys_of(texts: Iterable[str]) -> tuple[PublicKey, ...]:
    """The public keys of a configuration. Raises `KeyFileError`."""
    return tuple(map(parse_public_key, texts))


def believed(data: bytes, keys: Sequence[PublicKey], *, now: float, seen: Mapping[str, Seen]) -> Trusted:
    """The pointer in a file of signatures. Raises `UntrustedError`.

    `seen` is by the text of the key: what a key signed that is not trusted any more does not count. `now` is
    in seconds since the epoch.
    """
    trusted = _signed(data, keys)
    pointer = trusted.pointer
    if pointer.until + _SKEW < now:
        raise UntrustedError(
            f"it is out of date: its signature held {_until(pointer)}, and nobody renewed it"
        )
    names = {key.text for key in keys}
    newest = max((each for name, each in seen.items() if name in names), key=_version, default=None)
    if newest is not None and pointer.version < newest.version:
        raise UntrustedError(
            f"it was rolled back: its version is {pointer.version}, and {newest.version} was seen before"
        )
    if newest is not None and pointer.version == newest.version and pointer.index.sha256 != newest.index:
        raise UntrustedError(f"there are two indexes of the version {pointer.version}")
    return trusted


def _version(seen: Seen) -> int:
    return seen.version


def _until(pointer: Pointer) -> str:
    return pointer.comment.partition(" until=")[2].partition(" ")[0].join(("until ", ""))


def _signed(data: bytes, keys: Sequence[PublicKey]) -> Trusted:
    """The newest pointer that one of the keys signed."""
    try:
        signatures = parse_signatures(data)
    except ValueError as error:
        raise UntrustedError(f"its signature cannot be read: {error}") from error
    found: list[Trusted] = []
    why = ""
    for signature in signatures:
        for key in keys:
            if not signature.comment_is_of(key):
                continue
            try:
                found.append(Trusted(parse_pointer(signature.comment), signature, key))
            except ValueError as error:
                why = str(error)
    if found:
        return max(found, key=lambda each: each.pointer.version)
    if why:
        raise UntrustedError(why)
    names = ", ".join(signature.name for signature in signatures)
    wrong = {key.id for key in keys} & {signature.key_id for signature in signatures}
    if wrong:
        raise UntrustedError(f"its signature by {names} is wrong")
    raise UntrustedError(f"the key that signed it ({names}) is not among the source's `keys`")


def checked_index(trusted: Trusted, data: bytes) -> Index:
    """The index that the pointer names. Raises `UntrustedError`."""
    if not trusted.pointer.index.is_of(data):
        raise UntrustedError("its index is not the one that the signature names")
    if not trusted.signature.is_of(trusted.key, data):
        raise UntrustedError("its index is not the one that was signed")
    try:
        return parse_index(data)
    except ValueError as error:
        raise UntrustedError(f"its index cannot be read: {error}") from error


class Provenance(Struct, frozen=True):
    """The signer of an image, as it is kept beside the image."""

    key: str  #: the public key's text
    signature: str  #: four lines, of a site's pointer or of an image in a registry
    manifest: str  #: SHA-256
    file: str | None  #: SHA-256, of the compressed file; None: of a registry, where each layer has its own


def signer(provenance: Provenance) -> PublicKey | None:
    """The key that vouched, if its signature is good; None where it is not."""
    try:
        key = parse_public_key(provenance.key)
        (signature,) = parse_signatures(provenance.signature.encode())
    except (KeyFileError, ValueError):
        return None
    return key if signature.comment_is_of(key) else None
