"""The ways without imgstored, as shell pipelines. `cat > OUT`, on the same disk, receives."""

from __future__ import annotations

import shlex
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.timing import timed

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.inputs import Input

#: imgadm downloads by one connection to a file, with SHA-1 on the way; when that holds, it decompresses into
#: `zfs receive`.
_IMGADM = "{curl} {url} | tee {file} | sha1sum > {sum}; {decoder} {file} | cat > {out}"
_PIPE = "{curl} {url} | {decoder} > {out}"
_PIPE_SUM = "{curl} {url} | tee >(sha1sum > {sum}) | {decoder} > {out}"
# Without preallocation, and with eight connections also for small files: as fast as it can be.
_ARIA2 = (
    "{aria2} -q -x8 -s8 -k1M --file-allocation=none --no-conf -d {folder} -o file {url};"
    " {decoder} {file} > {out}"
)
_ARIA2_SUM = _ARIA2.replace(" -q ", " -q --checksum=sha-1={sha1} ")

#: By compression: the program that imgadm runs, and the fastest of those that decode it.
_PROGRAMS = {
    "gzip": ("gzip -dc", "igzip -dc"),
    "bzip2": ("bzip2 -dc", "lbzip2 -dc"),
    "xz": ("xz -dc", "xz -dc -T0"),
    "zstd": ("zstd -qdc", "zstd -qdc"),
}
#: Others, after a download by aria2c.
_OTHERS = {"gzip": ("gzip -dc", "pigz -dc", "rapidgzip -qdc -P0")}
RAPIDGZIP = "aria2c -x8, rapidgzip -qdc -P0"


class Peers:
    """The peers' pipelines in a folder of their own, for one URL and one image."""

    def __init__(self, folder: Path, url: str, image: Input, *, ca: Path | None = None) -> None:
        self._folder = folder
        trusted = "" if ca is None else shlex.quote(str(ca))
        self._texts = {
            "curl": f"curl -sSf --cacert {trusted}" if ca else "curl -sSf",
            "aria2": f"aria2c --ca-certificate={trusted}" if ca else "aria2c",
        }
        self._names = {
            "url": url,
            "sha1": image.sha1,
            "folder": str(folder),
            "file": str(folder / "file"),
            "sum": str(folder / "sum"),
            "out": str(folder / "out"),
        }
        self._first, self._fastest = _PROGRAMS[image.compression]
        self._others = _OTHERS.get(image.compression, ())

    def all(self) -> dict[str, Callable[[], float]]:
        """Each pipeline's seconds, by its name in the table; only of programs that are installed."""
        pipelines = [
            ("imgadm's way", _IMGADM, self._first),
            (f"curl \\| {self._first}", _PIPE, self._first),
            (f"curl \\| {self._fastest}", _PIPE, self._fastest),
            (f"curl \\| tee >(sha1sum) \\| {self._fastest}", _PIPE_SUM, self._fastest),
            (f"aria2c -x8, {self._fastest}", _ARIA2, self._fastest),
            (f"aria2c -x8 with SHA-1, {self._fastest}", _ARIA2_SUM, self._fastest),
            *((f"aria2c -x8, {other}", _ARIA2, other) for other in self._others),
        ]
        return {
            name: partial(self._timed, pipeline, decoder)
            for name, pipeline, decoder in pipelines
            if found(decoder) is not None
        }

    def _timed(self, pipeline: str, decoder: str) -> float:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        quoted = {name: shlex.quote(value) for name, value in self._names.items()}
        program, _, options = decoder.partition(" ")
        command = f"{shlex.quote(found(decoder) or program)} {options}"
        text = pipeline.format(decoder=command, **self._texts, **quoted)
        taken = timed(["bash", "-o", "errexit", "-o", "pipefail", "-c", text])
        shutil.rmtree(self._folder)
        return taken


def found(decoder: str) -> str | None:
    """The program's path, in PATH or beside this Python; None if it is not installed."""
    program = decoder.partition(" ")[0]
    return shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
