"""Other hosts by ssh: imgctl there, and the daemon there through `imgctl __bridge`.

The user's own ssh does it, with its configuration, agent and known hosts; `IMGCTL_SSH` names another program.
What is a host is checked, so that it cannot be an option or a command.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess

from imgctl.errors import NotConnectedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: What the address of another host begins with.
SCHEME = "ssh://"
#: A name of DNS or of ~/.ssh/config, or an address of IPv4 or, in brackets, IPv6.
_HOST = r"(?P<host>[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\])"
_ADDRESS = re.compile(
    rf"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*)@)?{_HOST}(?::(?P<port>[0-9]{{1,5}}))?(?P<socket>/[^\0\n]*)?"
)
#: Seconds for ssh to end, once nobody needs it.
_END = 5.0


class Host:
    """A host, perhaps with a user, a port and the daemon's socket: `[ssh://][USER@]HOST[:PORT][/SOCKET]`."""

    def __init__(self, text: str) -> None:
        """Raises `UsageError` for what is none."""
        found = _ADDRESS.fullmatch(text.removeprefix(SCHEME))
        if found is None or not 0 < int(found["port"] or 22) < 65536:
            raise UsageError(
                f'"{text}" is no host for ssh', hint="a host is [USER@]HOST[:PORT], as root@web1 or web1:2222"
            )
        self.name = found["host"].strip("[]")
        self._user, self._port = found["user"], found["port"]
        socket = found["socket"]
        self._socket = socket if socket and socket != "/" else None
        self.url = SCHEME + text.removeprefix(SCHEME)

    def command(self, *words: str) -> list[str]:
        """The command line that runs imgctl there, with these words."""
        ssh = shlex.split(os.environ.get("IMGCTL_SSH", "")) or ["ssh"]
        given = [*(("-l", self._user) if self._user else ()), *(("-p", self._port) if self._port else ())]
        there = ["imgctl", *(("--socket", self._socket) if self._socket else ()), *words]
        return [*ssh, "-T", *given, "--", self.name, shlex.join(there)]


class Bridge:
    """A connection to the daemon of another host: `socket` is as one to its own socket, but for files."""

    def __init__(self, url: str) -> None:
        """Starts ssh, which asks at the terminal what it needs. Raises `UsageError`, `NotConnectedError`."""
        self._host = Host(url)
        self.socket, theirs = socket.socketpair()
        try:
            self._process = started(
                self._host.command("__bridge"), stdin=theirs.fileno(), stdout=theirs.fileno()
            )
        except BaseException:
            self.socket.close()
            raise
        finally:
            theirs.close()

    def ended(self) -> NotConnectedError:
        """Why the connection ended, after it has."""
        self.close()
        status = self._process.returncode
        return NotConnectedError(
            f"ssh to {self._host.name} ended with status {status}",
            hint="does `imgctl list` work there? ssh and imgctl say on standard error what is wrong",
        )

    def close(self) -> None:
        """Ends ssh, which sees the end of what it reads."""
        self.socket.close()
        try:
            self._process.wait(_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def started(command: Sequence[str], stdin: int, stdout: int) -> subprocess.Popen[bytes]:
    """Starts ssh. Raises `NotConnectedError` if it cannot be started."""
    try:
        return subprocess.Popen(command, stdin=stdin, stdout=stdout)  # noqa: S603 - see `Host`
    except OSError as error:
        raise NotConnectedError(
            f"{command[0]} cannot be run: {error.strerror or error}", hint="install ssh, or set IMGCTL_SSH"
        ) from error
