"""Our side: the real daemon and the real client."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from imgctl import Client

from bench.progress import say
from bench.timing import timed
from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from types import TracebackType

    from bench.inputs import Input


#: The installed command, as people run it.
IMGCTL = str(Path(sys.executable).parent / "imgctl")


def source(url: str, *, ca: Path | None = None) -> str:
    """The configuration's part about the one image server."""
    trusted = "" if ca is None else f'ca_file = "{ca}"\n'
    return f'[[sources]]\nurl = "{url}"\ntype = "static"\n{trusted}'


class Ours(Daemon):
    """imgstored with its default limits, and unless `config` says otherwise an embedded pool."""

    #: Without the watch for file calls that the daemons of tests have: it takes time at each of them.
    program = "imgstored.__main__"

    def __init__(
        self, folder: Path, *, config: str = "", keep: bool = False, timeout: float = 60, view: str = "off"
    ) -> None:
        """What an earlier daemon left in the folder is removed first, unless it is to `keep`."""
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        self._keep = keep
        super().__init__(folder, config=config, view=view, timeout=timeout)

    def __enter__(self) -> Ours:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            say(f"the end of {self.log}:\n" + "\n".join(self.log.read_text().splitlines()[-20:]))
        super().__exit__(kind, error, trace)
        if not self._keep and error is None:
            shutil.rmtree(self.folder)

    def client(self) -> Client:
        """A client without the checks that those of tests have: they take time."""
        return Client(str(self.socket))

    def timed_import(self, image: Input) -> float:
        """Seconds of the whole `imgctl import`; the image is deleted again."""
        taken = self.timed_imgctl("import", image.uuid)
        self.timed_imgctl("delete", image.uuid)
        return taken

    def timed_imgctl(self, *arguments: str) -> float:
        """Seconds of one imgctl command. Raises `RuntimeError` if it fails."""
        return timed([IMGCTL, *arguments], env={**os.environ, "IMGSTORED_SOCKET": str(self.socket)})

    def processor_seconds(self) -> float:
        """Seconds of processor time that the daemon has had."""
        # The name of the program, which may have spaces, is between parentheses.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_memory(self) -> float:
        """MiB that the daemon had resident at most so far (VmHWM of proc(5))."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "VmHWM":
                return int(value.split()[0]) / 1024
        raise RuntimeError("this system does not say how much memory a process had")
