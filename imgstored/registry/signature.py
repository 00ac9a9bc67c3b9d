"""Signatures of images in a registry: who vouches for the image manifest of an image there. Pure.

    image manifest ◄── subject ── signature: an artifact whose layer has minisign's lines

What is signed is the image manifest, byte for byte, which names all else by its digest. The trusted comment
names the image, the image's own manifest and the image manifest by their hashes: so nothing that the key
signed for another purpose counts, and an entry of the repository's list can be checked by itself.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from imgstored.manifest import decoded
from imgstored.registry.documents import EMPTY, EMPTY_JSON, Descriptor, ImageManifest, described
from imgstored.site.minisign import MAX_SIGNATURES, parse_signatures, signed
from imgstored.site.trust import UntrustedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from imgstored.site.minisign import PublicKey, SecretKey, Signature

#: The artifact's type, and that of its layer. A change that older daemons cannot read raises the number.
SIGNATURE: Final = "application/vnd.imgstore.signature.v1"
MINISIGN: Final = "application/vnd.imgstore.minisign.v1"
#: The signatures of a repository's list: a JSON object of minisign's lines by uuid.
OF_LIST: Final = "application/vnd.imgstore.signatures.v1+json"

#: Signatures of one image that are looked at: whoever may push can add some.
MAX_LOOKED_AT: Final = 32
#: Bytes of the signatures of a list.
MAX_OF_LIST: Final = 32 << 20

_COMMENT: Final = re.compile(
    r"imgstore image 1 uuid=([0-9a-f-]{36}) manifest=([0-9a-f]{64}) artifact=([0-9a-f]{64})", re.ASCII
)


class Signed(Struct, frozen=True):
    """The contents of a trusted comment. The hashes are SHA-256, in lower-case hexadecimal."""

    uuid: str
    manifest: str  #: of the image's own manifest
    artifact: str  #: of the image manifest in the registry

    @property
    def comment(self) -> str:
        """The trusted comment."""
        return f"imgstore image 1 uuid={self.uuid} manifest={self.manifest} artifact={self.artifact}"


class Voucher(Struct, frozen=True):
    """A signature that is believed, and whose it is."""

    signature: Signature
    key: PublicKey


def signatures(keys: Iterable[SecretKey], body: bytes, what: Signed) -> str:
    """Minisign's lines for an image manifest, of each key. The same keys sign the same in the same words."""
    return "".join(signed(key, body, what.comment).text() for key in keys)


def signature_layer(text: str) -> Descriptor:
    """The descriptor of the lines as a layer."""
    return described(text.encode(), MINISIGN)


def signature_manifest(subject: Descriptor, layer: Descriptor) -> ImageManifest:
    """The manifest of a signature. Its config is the empty one of the specification."""
    return ImageManifest(
        artifact_type=SIGNATURE,
        config=described(EMPTY_JSON, EMPTY),
        layers=[layer],
        subject=Descriptor(subject.media_type, subject.digest, subject.size),
    )


def layer_of(manifest: ImageManifest) -> Descriptor | None:
    """The layer with the lines, in the manifest of a signature; None where there is none that is sound."""
    layers = [each for each in manifest.layers if each.media_type == MINISIGN]
    return layers[0] if manifest.kind == SIGNATURE and layers and layers[0].size <= MAX_SIGNATURES else None


def vouched(texts: Sequence[bytes], keys: Sequence[PublicKey], body: bytes, what: Signed) -> Voucher:
    """The signature of this image manifest by one of the keys. Raises `UntrustedError`.

    `texts` are what the registry has as signatures of it, which may be anything.
    """
    if not texts:
        raise UntrustedError("it is not signed: the registry has no signature of it")
    why = ""
    others: dict[str, None] = {}
    for text in texts:
        try:
            found = parse_signatures(text)
        except ValueError as error:
            why = why or f"its signature cannot be read: {error}"
            continue
        for signature in found:
            by = [key for key in keys if key.id == signature.key_id]
            if not by:
                others[signature.name] = None
            for key in by:
                reason = _fault(signature, key, body, what)
                if reason is None:
                    return Voucher(signature, key)
                why = reason
    if why:
        raise UntrustedError(why)
    raise UntrustedError(f"the key that signed it ({', '.join(others)}) is not among the source's `keys`")


def _fault(signature: Signature, key: PublicKey, body: bytes, what: Signed) -> str | None:
    """Why the signature, which claims to be the key's, does not count."""
    if not signature.comment_is_of(key):
        return f"its signature by {signature.name} is wrong"
    read = _COMMENT.fullmatch(signature.comment)
    if read is None:
        return f"its signature by {signature.name} is not that of an image in a registry"
    if Signed(read[1], read[2], read[3]) != what or not signature.is_of(key, body):
        return f"its signature by {signature.name} is of another image, or of another state of it"
    return None


def read_signatures(body: bytes) -> dict[str, str]:
    """The signatures of a repository's list, by uuid; none where they cannot be read."""
    try:
        return decoded(body, dict[str, str])
    except msgspec.MsgspecError:
        return {}


def is_vouched(text: str | None, keys: Sequence[PublicKey], uuid: str, manifest: str) -> bool:
    """True if one of the keys signed an image with this manifest (its SHA-256), whatever its layers."""
    try:
        found = [] if text is None else parse_signatures(text.encode())
    except ValueError:
        return False
    for signature in found:
        read = _COMMENT.fullmatch(signature.comment)
        if read is None or (read[1], read[2]) != (uuid, manifest):
            continue
        if any(signature.comment_is_of(key) for key in keys):
            return True
    return False


def kept(before: Mapping[str, str], uuids: Iterable[str], uuid: str, text: str) -> dict[str, str]:
    """The signatures of a list that now has these images, one of them new, with `text` ("": unsigned)."""
    there = {each: before[each] for each in uuids if each != uuid and each in before}
    return {**there, uuid: text} if text else there
