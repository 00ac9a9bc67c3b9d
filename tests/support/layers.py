"""Layers of container images, made by hand."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: An entry of a layer, and its contents.
Member = tuple[tarfile.TarInfo, bytes]


def tar_of(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def folder(name: str, **fields: object) -> Member:
    return member(name, tarfile.DIRTYPE, mode=0o755, **fields), b""


def file(name: str, data: bytes = b"x", **fields: object) -> Member:
    return member(name, **fields), data


def link(name: str, to: str) -> Member:
    return member(name, tarfile.SYMTYPE, linkname=to), b""


def hard(name: str, to: str) -> Member:
    return member(name, tarfile.LNKTYPE, linkname=to), b""


def listing(root: Path) -> dict[str, str | bytes | None]:
    """What is below a folder: contents of files, `-> TARGET` of links, None of folders."""
    found: dict[str, str | bytes | None] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[name] = None
        else:
            found[name] = path.read_bytes()
    return found
