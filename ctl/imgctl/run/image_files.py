"""The files of images on the client's side: manifests to read, and image files to write."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from imgctl.errors import CommandError, UsageError, timestamp
from imgctl.session import standard_input
from imgctl.text import printable

if TYPE_CHECKING:
    from types import TracebackType

#: Where systems have it (Debian; pkgsrc in a SmartOS zone and in its global one). Never looked up in PATH.
_QEMU_IMG = ("/usr/bin/qemu-img", "/opt/local/bin/qemu-img", "/opt/tools/bin/qemu-img")


#: Bytes of a manifest that is indented: `install` reads no more.
_MAX_INDENTED = 1 << 20

_PIECE = 1 << 20

#: A folder need not be readable to be written to; not every system can open one then.
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


class ImageFile:
    """A new file in a folder, which gets its name, and a manifest beside it, by `keep`, or is gone.

    `target` is a folder, or a path without extension; in a folder it is called as `name` says. The folder may
    belong to somebody else, who may do what they like in there at any moment: it is opened once, every file
    is new, and no link in it is followed. Raises `OSError`, and `CommandError` if there is no folder.
    """

    def __init__(self, target: Path) -> None:
        is_folder = target.is_dir()
        self._folder = target if is_folder else target.parent
        self._given = None if is_folder else target.name
        self._prefix, self._suffix = self._given or "image", ""
        with ExitStack() as stack:
            try:
                self._in = os.open(self._folder, _FOLDER)
            except FileNotFoundError as error:
                raise CommandError(
                    "FileSystem", f"there is no folder {printable(str(self._folder))}", "make it first"
                ) from error
            stack.callback(os.close, self._in)
            self._file = stack.enter_context(_NewFile(self._in))
            self._open = stack.pop_all()

    def __enter__(self) -> ImageFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @property
    def descriptor(self) -> int:
        """The image's file, open for reading and writing."""
        return self._file.descriptor

    def name(self, prefix: str, suffix: str) -> None:
        """Sets the final name, unless `target` has it. Raises `CommandError` for an invalid one."""
        if "/" in prefix + suffix or "\0" in prefix + suffix or len(prefix) > 240:
            raise CommandError(
                "FileSystem", f'a file cannot have the name "{prefix}{suffix}"', "name it with -o"
            )
        self._prefix, self._suffix = self._given or prefix, suffix

    @property
    def path(self) -> str:
        """The image's file."""
        return str(self._folder / self._name)

    @property
    def manifest_path(self) -> str:
        """The manifest's."""
        return str(self._folder / self._manifest_name)

    @property
    def shown(self) -> str:
        """For the daemon's messages, as long as the name is not known."""
        return str(self._folder / self._prefix)

    @property
    def index_path(self) -> str:
        """The index's."""
        return str(self._folder / self._index_name)

    def take_index(self, manifest: dict[str, Any], *, keep: bool = True) -> dict[str, Any]:
        """Makes a file of its own of the index that is behind the image's file, if the manifest names one.

        Returns the manifest, without the index if that is not to be kept.
        """
        (described,) = manifest.get("files") or [{}]
        if "index" not in described:
            return manifest
        size, left = described["size"], described["index"]["size"]
        if keep:
            with _NewFile(self._in) as new:
                while left and (piece := os.pread(self._file.descriptor, min(_PIECE, left), size)):
                    with os.fdopen(os.dup(new.descriptor), "wb", buffering=0) as file:
                        file.write(piece)
                    size, left = size + len(piece), left - len(piece)
                new.rename(self._index_name, self.index_path)
        os.ftruncate(self._file.descriptor, described["size"])
        if keep:
            return manifest
        return {**manifest, "files": [{key: value for key, value in described.items() if key != "index"}]}

    def keep(self, manifest: dict[str, Any] | None) -> None:
        """The file is whole: gives it its name, and writes the manifest, if there is one, beside it.

        Raises `CommandError` if somebody else has put another file in the place of one of them.
        """
        self._file.rename(self._name, self.path)
        if manifest is None:
            return
        with _NewFile(self._in) as new:
            with os.fdopen(os.dup(new.descriptor), "wb") as file:
                file.write(written(manifest))
            new.rename(self._manifest_name, self.manifest_path)

    def convert_to_qcow2(self) -> None:
        """Makes a qcow2 of the raw disk that was written. Raises `CommandError`."""
        program = next((path for path in _QEMU_IMG if os.access(path, os.X_OK)), None)
        if program is None:
            raise CommandError(
                "NotInstalled",
                "qemu-img, which makes a qcow2 of the disk, is not installed",
                hint="install it (Debian: qemu-utils; pkgsrc: qemu), or take --format raw",
            )
        raw, target = self._file, self._open.enter_context(_NewFile(self._in))
        # Both formats are said: nothing that is on the disk can make it another. Both files are those that
        # are open: their names may mean other files by now.
        done = subprocess.run(  # noqa: S603 - a fixed program, and descriptors
            [
                program,
                "convert",
                "-f",
                "raw",
                "-O",
                "qcow2",
                *(f"/dev/fd/{each.descriptor}" for each in (raw, target)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(raw.descriptor, target.descriptor),
            cwd="/",
            check=False,
        )
        if done.returncode:
            why = done.stderr.decode("utf-8", "replace").strip()
            raise CommandError("InternalError", f"qemu-img failed: {why}")
        self._file, self._suffix = target, ".qcow2"

    @property
    def _name(self) -> str:
        return self._prefix + self._suffix

    @property
    def _index_name(self) -> str:
        return self._name.removesuffix(".zst") + ".index"

    @property
    def _manifest_name(self) -> str:
        return self._prefix + ".imgmanifest"


class _NewFile:
    """A file that was not there before, under a name that nobody can guess; gone at the end, or renamed.

    `folder` is an open folder. Raises `OSError`.
    """

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._name: str | None = f".imgctl-{secrets.token_hex(16)}.partial"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.descriptor = os.open(self._name, flags, 0o666, dir_fd=folder)

    def __enter__(self) -> _NewFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._name is not None and self._is_at(self._name):
                os.unlink(self._name, dir_fd=self._folder)
        finally:
            os.close(self.descriptor)

    def rename(self, name: str, shown: str) -> None:
        """Gives it the name, in the place of what has it. Raises `CommandError` if its own is taken."""
        if self._name is None or not self._is_at(self._name):
            raise self._replaced(shown)
        os.rename(self._name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._name = None
        # Between the look and the renaming there was a moment.
        if not self._is_at(name):
            raise self._replaced(shown)

    def _is_at(self, name: str) -> bool:
        try:
            there = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self.descriptor))

    @staticmethod
    def _replaced(shown: str) -> CommandError:
        return CommandError(
            "FileSystem",
            f"somebody else has put another file in the place of {shown}",
            hint="write it into a folder that only you can write to",
        )


def written(manifest: dict[str, Any]) -> bytes:
    """As imgadm writes it, without a line end; a very large one is not indented, or `install` refuses it."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False).encode()
    if len(text) <= _MAX_INDENTED:
        return text
    return json.dumps(manifest, separators=(",", ":"), ensure_ascii=False).encode()


def check_exists(what: str, path: str) -> None:
    """Raises imgadm's `UsageError` when there is nothing at the path."""
    if not Path(path).exists():
        raise UsageError(f'{what} path does not exist: "{path}"')


def read_manifest(path: str, limit: int, *, dated: bool = True) -> dict[str, Any]:
    """The manifest in a file of at most `limit` bytes; `dated`: with `published_at`, now if it has none.

    The path "-" is standard input. Raises `CommandError` (InvalidManifest) for what is no JSON object, and
    `OSError`.
    """
    with nullcontext(standard_input()) if path == "-" else Path(path).open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise _invalid(f"it has more than {limit} bytes")
    return parse_manifest(data, dated=dated)


def parse_manifest(data: bytes, *, dated: bool = True) -> dict[str, Any]:
    """The manifest in these bytes; as `read_manifest`."""
    try:
        manifest = json.loads(data, parse_constant=_no_number)
    except RecursionError:
        raise _invalid("it is nested too deeply") from None
    except ValueError as error:
        raise _invalid(str(error)) from error
    if not isinstance(manifest, dict):
        raise _invalid("it is not a JSON object")
    if dated and manifest.get("published_at") is None:
        manifest["published_at"] = timestamp()
    return manifest


def _invalid(why: str) -> CommandError:
    return CommandError("InvalidManifest", f"manifest is invalid: {why}")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
