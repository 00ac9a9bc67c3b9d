"""The ways without imgstored, as shell pipelines. `cat > OUT`, on the same disk, receives."""

from __future__ import annotations

import shlex
import shutil
from typing import TYPE_CHECKING

from bench.timing import timed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: imgadm downloads by one connection to a file, with SHA-1 on the way; when that holds, it decompresses into
#: `zfs receive`.
_IMGADM = "curl -sSf {url} | tee {file} | sha1sum > {sum}; {program} -cd {file} | cat > {out}"
_PIPE = "curl -sSf {url} | {program} -dc > {out}"
# Without preallocation, and with eight connections also for small files: as fast as it can be.
_ARIA2 = (
    "aria2c -q -x8 -s8 -k1M --file-allocation=none --no-conf -d {folder} -o file {url};"
    " {program} -dc {file} > {out}"
)
_TLS = "curl -sSf --cacert {ca} -o {file} {url}; {program} -cd {file} | cat > {out}"


class Peers:
    """The peers' pipelines in a folder of their own, for one URL and one decompressor."""

    def __init__(self, folder: Path, url: str, program: str, *, ca: Path | None = None) -> None:
        self._folder = folder
        self._names = {
            "url": url,
            "program": program,
            "ca": str(ca),
            "folder": str(folder),
            "file": str(folder / "file"),
            "sum": str(folder / "sum"),
            "out": str(folder / "out"),
        }

    def imgadm(self) -> float:
        """Seconds that imgadm's own sequence takes."""
        return self._timed(_IMGADM)

    def pipe(self) -> float:
        """`curl | gzip -dc > OUT`."""
        return self._timed(_PIPE)

    def aria2(self) -> float:
        """Eight connections to a file, and then `gzip -dc`."""
        return self._timed(_ARIA2)

    def tls(self) -> float:
        """`curl` with TLS to a file, and then `gzip -cd`."""
        return self._timed(_TLS)

    def all(self) -> dict[str, Callable[[], float]]:
        """Those over plain HTTP, by the name that the table has for them."""
        program = self._names["program"]
        return {
            "imgadm's way": self.imgadm,
            f"curl \\| {program} -dc": self.pipe,
            f"aria2c -x8, {program} -dc": self.aria2,
        }

    def _timed(self, pipeline: str) -> float:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        quoted = {name: shlex.quote(value) for name, value in self._names.items()}
        taken = timed(["bash", "-o", "errexit", "-o", "pipefail", "-c", pipeline.format(**quoted)])
        shutil.rmtree(self._folder)
        return taken
