"""Where the documents' commands are run: a folder, an image server and a daemon of their own, and one shell.

The names that the documents use stand for what is in the folder: they are put in place of each other in what
is run, and back in what it prints.
"""

from __future__ import annotations

import os
import re
import secrets
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tests.docs.pages import ROOT
from tests.support.daemon import Daemon
from tests.support.image_site import DATA, ImageSite
from tests.support.imgapi import WritableImgapi
from tests.support.nginx import Nginx
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

#: Seconds for one command; what it takes alone is a fraction of one.
_TIMEOUT = 60.0
_STAND_IN = ROOT / "tests" / "support" / "vmadm_stand_in.py"


class Sandbox:
    """A session. `with_source`: the daemon has the image server that the documents name (`images`)."""

    def __init__(self, folder: Path, *, with_source: bool, images: str = "http://images.example.com") -> None:
        self._images = images
        self.folder = folder
        self._with_source = with_source
        self._stack = ExitStack()
        self._names: dict[str, str] = {}

    def __enter__(self) -> Sandbox:
        with ExitStack() as stack:
            site = ImageSite(self.folder / "site")
            site.add_fixtures()
            nginx = stack.enter_context(Nginx(self.folder / "nginx", root=site.folder))
            imgapi = stack.enter_context(WritableImgapi())
            source = f'[[sources]]\nurl = "{nginx.url}"\ntype = "static"\n'
            self.daemon = Daemon(
                self.folder / "store",
                top="" if self._with_source else "sources = []",
                config=source if self._with_source else "",
                timeout=60,
            )
            stack.enter_context(self.daemon)
            self._lay_out()
            self._names = self._in_place_of(nginx.url, imgapi.url)
            self._start_shell(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def run(self, command: str) -> tuple[int, str]:
        """Runs a line in the session's shell; returns its exit status and all that it printed."""
        mark = secrets.token_hex(8)
        # What reads its input gets none: the shell's own are these lines.
        line = f"{{ {self._put_in(command)}\n}} </dev/null\nprintf '%s %s\\n' {mark} $?\n"
        assert self._shell.stdin is not None
        self._shell.stdin.write(line.encode())
        self._shell.stdin.flush()
        printed, status = self._read(mark, command)
        return status, self._put_back(printed).rstrip("\n")

    def _lay_out(self) -> None:
        """The files that the documents name without a path are in the shell's working folder."""
        for name in ("tmp", "work", "bin"):
            (self.folder / name).mkdir()
        work = self.folder / "work"
        for name in ("base.imgmanifest", "base.zfs.gz", "zvol.imgmanifest", "zvol.zfs.bz2"):
            shutil.copy(DATA / name, work)
        (work / "disk.raw").write_bytes(bytes(range(256)) * 4096)
        (self.folder / "bin" / "imgadm").symlink_to(Path(sys.prefix, "bin", "imgctl"))
        vmadm = self.folder / "bin" / "vmadm"
        vmadm.write_text(f'#!/bin/sh\nexec {sys.executable} -P {_STAND_IN} "$@"\n')
        vmadm.chmod(0o755)

    def _in_place_of(self, site: str, imgapi: str) -> dict[str, str]:
        store = self.daemon.folder
        return {
            self._images: site,
            "http://imgapi.example.com": imgapi,
            "http://down.example.com": "http://127.0.0.1:9",
            "/run/imgstored/imgstored.sock": str(self.daemon.socket),
            "/var/lib/imgstored": f"{store}/state",
            "/var/log/imgstored.log": str(self.daemon.log),
            "/etc/imgstored.toml": str(self.daemon.config_file),
            ".venv/bin": str(Path(sys.prefix, "bin")),
            "/images": str(self.daemon.images),
            "/tmp": f"{self.folder}/tmp",
        }

    @property
    def environment(self) -> dict[str, str]:
        """Of whatever is run."""
        return {
            "PATH": f"{self.folder}/bin:{Path(sys.prefix, 'bin')}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "TERM": "dumb",
            "COLUMNS": "120",
            "IMGSTORED_SOCKET": str(self.daemon.socket),
            "IMGCTL_VMADM": str(self.folder / "bin" / "vmadm"),
            "STAND_IN_RECORD": str(self.folder / "vmadm.json"),
            # Nothing is to be fetched from elsewhere.
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
            "no_proxy": "127.0.0.1,localhost",
        }

    def on_terminal(self, command: str, columns: int, environment: Mapping[str, str]) -> str:
        """Runs a line on a terminal of so many columns; returns all that it wrote there."""
        shell = [
            "/bin/bash",
            "--noprofile",
            "--norc",
            "-c",
            f"cd '{self.folder}/work'; {self._put_in(command)}",
        ]
        with Terminal(shell, {**self.environment, **environment}, size=(40, columns)) as terminal:
            terminal.end()
        return self._put_back(terminal.shown.decode("utf-8", "backslashreplace"))

    def _start_shell(self, stack: ExitStack) -> None:
        self._shell = subprocess.Popen(
            ["/bin/bash", "--noprofile", "--norc"],
            cwd=self.folder / "work",
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stack.callback(self._end_shell)
        self.run("exec 2>&1")

    def _end_shell(self) -> None:
        """Ends the shell and what it has started: its session."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._shell.pid, number)
            except ProcessLookupError:
                break
            time.sleep(0.2)
        self._shell.wait(timeout=10)
        for pipe in (self._shell.stdin, self._shell.stdout):
            assert pipe is not None
            pipe.close()

    def _read(self, mark: str, command: str) -> tuple[str, int]:
        assert self._shell.stdout is not None
        output = self._shell.stdout.fileno()
        read = b""
        deadline = time.monotonic() + _TIMEOUT
        while True:
            if end := re.search(rf"{mark} (\d+)\n".encode(), read):
                return read[: end.start()].decode(), int(end[1])
            ready, _, _ = select.select([output], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(output, 1 << 16) if ready else b""
            if not piece:
                raise AssertionError(f"`{command}` did not end; so far it printed:\n{read.decode()}")
            read += piece

    def _put_in(self, command: str) -> str:
        # A name is whole: /images is not in http://x/images, nor in /images-old.
        names = "|".join(map(re.escape, sorted(self._names, key=len, reverse=True)))
        return re.sub(rf"(?<![\w.:/@-])(?:{names})(?![\w-])", lambda found: self._names[found[0]], command)

    def _put_back(self, printed: str) -> str:
        for name, real in sorted(self._names.items(), key=lambda pair: -len(pair[1])):
            printed = printed.replace(real, name)
        return printed
