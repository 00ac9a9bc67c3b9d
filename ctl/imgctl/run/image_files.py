"""The output files of an image, under another name until they are complete."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from typing import TYPE_CHECKING, Any

from imgctl.errors import CommandError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

#: Where systems have it (Debian; pkgsrc in a SmartOS zone and in its global one). Never looked up in PATH.
_QEMU_IMG = ("/usr/bin/qemu-img", "/opt/local/bin/qemu-img", "/opt/tools/bin/qemu-img")


#: Bytes of a manifest that is indented: `install` reads no more.
_MAX_INDENTED = 1 << 20


class ImageFile:
    """A new file in a folder, which gets its name, and a manifest beside it, by `keep`, or is gone.

    `target` is a folder, or a path without extension; in a folder it is called as `name` says. Raises
    `OSError`.
    """

    def __init__(self, target: Path) -> None:
        is_folder = target.is_dir()
        self._folder = target if is_folder else target.parent
        self._given = None if is_folder else target.name
        self._temporary = self._folder / f".imgctl-{secrets.token_hex(8)}.partial"
        self._prefix, self._suffix = self._given or "image", ""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.descriptor = os.open(self._temporary, flags, 0o666)

    def __enter__(self) -> ImageFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)
        self._temporary.unlink(missing_ok=True)

    def name(self, prefix: str, suffix: str) -> None:
        """What it will be called, unless `target` said so. Raises `CommandError` for what is no name."""
        if "/" in prefix + suffix or "\0" in prefix + suffix or len(prefix) > 240:
            raise CommandError(
                "FileSystem", f'a file cannot have the name "{prefix}{suffix}"', "name it with -o"
            )
        self._prefix, self._suffix = self._given or prefix, suffix

    @property
    def path(self) -> str:
        """The image's file."""
        return str(self._folder / (self._prefix + self._suffix))

    @property
    def manifest_path(self) -> str:
        """The manifest's."""
        return str(self._folder / (self._prefix + ".imgmanifest"))

    @property
    def shown(self) -> str:
        """For the daemon's messages, as long as the name is not known."""
        return str(self._folder / self._prefix)

    def keep(self, manifest: dict[str, Any] | None) -> None:
        """The file is whole: gives it its name, and writes the manifest, if there is one, beside it."""
        self._temporary.replace(self.path)
        if manifest is None:
            return
        new = self._temporary.with_suffix(".manifest")
        try:
            new.write_bytes(written(manifest))
            new.replace(self.manifest_path)
        finally:
            new.unlink(missing_ok=True)

    def convert_to_qcow2(self) -> None:
        """Makes a qcow2 of the raw disk that was written. Raises `CommandError`."""
        program = next((path for path in _QEMU_IMG if os.access(path, os.X_OK)), None)
        if program is None:
            raise CommandError(
                "NotInstalled",
                "qemu-img, which makes a qcow2 of the disk, is not installed",
                hint="install it (Debian: qemu-utils; pkgsrc: qemu), or take --format raw",
            )
        target = self._temporary.with_suffix(".qcow2")
        # Both formats are said: nothing that is on the disk can make it another.
        formats = ["-f", "raw", "-O", "qcow2"]
        try:
            done = subprocess.run(  # noqa: S603 - a fixed program, and paths that begin with a slash
                [program, "convert", *formats, str(self._temporary.absolute()), str(target.absolute())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
            if done.returncode:
                why = done.stderr.decode("utf-8", "replace").strip()
                raise CommandError("InternalError", f"qemu-img failed: {why}")
            target.replace(self._temporary)
        finally:
            target.unlink(missing_ok=True)
        self._suffix = ".qcow2"


def written(manifest: dict[str, Any]) -> bytes:
    """As imgadm writes it, without a line end; a very large one is not indented, or `install` refuses it."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False).encode()
    if len(text) <= _MAX_INDENTED:
        return text
    return json.dumps(manifest, separators=(",", ":"), ensure_ascii=False).encode()
