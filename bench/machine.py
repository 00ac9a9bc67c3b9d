"""The machine on which the figures were measured."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

_PROGRAMS = {
    "curl": ["curl", "--version"],
    "aria2": ["aria2c", "--version"],
    "gzip": ["gzip", "--version"],
    "igzip": ["igzip", "--version"],
    "pigz": ["pigz", "--version"],
    "rapidgzip": [str(Path(sys.executable).parent / "rapidgzip"), "--version"],
    "zstd": ["zstd", "--version"],
    "bzip2": ["bzip2", "--help"],
    "lbzip2": ["lbzip2", "--version"],
    "xz": ["xz", "--version"],
    "nginx": ["/usr/sbin/nginx", "-v"],
}
_PACKAGES = ("isal", "numpy", "zstandard", "blake3", "msgpack", "trio")


def described(work: Path, load: float) -> str:
    """Lines of Markdown. `load` is the load average before the first run."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return "\n".join(
        (
            f"- {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; load average {load:.2f} before the first run",
            f"- {os.cpu_count()} cores, {_processor()}, {memory:.0f} GiB; Linux {platform.release()};"
            f" {_file_system(work)}",
            f"- Python {platform.python_version()}; "
            + ", ".join(f"{name} {_package(name)}" for name in _PACKAGES),
            "- " + ", ".join(f"{name} {_version(command)}" for name, command in _PROGRAMS.items()),
        )
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    command = ["df", "--output=fstype", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.split() or ["unknown file system"])[-1]


def _package(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _version(command: list[str]) -> str:
    """The first version in what a program says."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    except FileNotFoundError:
        return "not installed"
    words = (done.stdout + done.stderr).replace("/", " ").replace(",", " ").split()
    return next((word.lstrip("v") for word in words if word.lstrip("v")[:1].isdigit()), "?")
