"""A real sshd on loopback, with keys and settings of its own: the other host of imgctl's."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.nginx import free_port

if TYPE_CHECKING:
    from types import TracebackType

#: Seconds, however busy the machine is.
_TIMEOUT = 60.0


class Sshd:
    """Lets in whoever has `key`, as the user of the tests, whose imgctl there finds the given socket."""

    def __init__(self, folder: Path, socket: Path, *, path: str | None = None) -> None:
        """`path` is where programs are looked for there; the default has imgctl."""
        folder.mkdir()
        self.folder, self.port = folder, free_port()
        self.user = pwd.getpwuid(os.getuid()).pw_name
        for name in ("host", "client"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True, timeout=60)
        path = path or f"{Path(sys.prefix, 'bin')}:/usr/bin:/bin"
        settings = folder / "sshd_config"
        settings.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {folder}/client.pub\nStrictModes no\nPasswordAuthentication no\n"
            f"KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nAllowUsers {self.user}\n"
            f'SetEnv "PATH={path}" "IMGSTORED_SOCKET={socket}"\nLogLevel VERBOSE\n'
        )
        known, _ = (folder / "host.pub").read_text().rsplit(" ", 1)
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {known}\n")
        self._client = folder / "ssh_config"
        self._client.write_text(
            f"Host *\n  IdentityFile {folder}/client\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {folder}/known_hosts\n  StrictHostKeyChecking yes\n  BatchMode yes\n"
            f"  LogLevel ERROR\nHost other\n  HostName 127.0.0.1\n  Port {self.port}\n"
            f"  HostKeyAlias [127.0.0.1]:{self.port}\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                ["/usr/sbin/sshd", "-D", "-e", "-f", str(settings)], stderr=log, stdin=subprocess.DEVNULL
            )

    def __enter__(self) -> Sshd:
        deadline = time.monotonic() + _TIMEOUT
        while "Server listening" not in (log := (self.folder / "log").read_text()):
            assert time.monotonic() < deadline, log
            assert self._process.poll() is None, log
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(_TIMEOUT)

    @property
    def address(self) -> str:
        """As people name it."""
        return f"{self.user}@127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """With which imgctl's ssh gets in, and trusts nobody else."""
        return {"IMGCTL_SSH": f"ssh -F {self._client}"}
