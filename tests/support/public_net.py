"""A network of its own, in which this host has public, private, link-local and loopback addresses.

Run as a program in such a network (`python -m tests.support.public_net SCRIPT`), by `in_public_net`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

#: Addresses that a host in that network has, of each nearness.
PUBLIC, PUBLIC6 = "8.8.8.8", "2001:4860::8888"
PRIVATE, PRIVATE6 = "10.1.2.3", "fd00::3"
LINK_LOCAL = "169.254.169.254"
LOOPBACK, LOOPBACK6 = "127.0.0.1", "::1"

_SETUP = "\n".join(
    [
        "set -e",
        "ip link set lo up",
        *(f"ip addr add {address}/32 dev lo" for address in (PUBLIC, PRIVATE, LINK_LOCAL)),
        *(f"ip addr add {address}/128 dev lo" for address in (PUBLIC6, PRIVATE6)),
        'exec "$@"',
    ]
)

#: A command that runs another one, its further arguments, in that network.
IN_PUBLIC_NET = ("/usr/bin/unshare", "--map-root-user", "--net", "/bin/sh", "-c", _SETUP, "sh")


def in_public_net(script: str, *, timeout: float = 120) -> Any:
    """What a Python program prints there, which is JSON. Raises if it fails."""
    done = subprocess.run(
        [*IN_PUBLIC_NET, sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
