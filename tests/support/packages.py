"""Builds the released packages from the tree, and makes a clean place to install them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

ROOT = Path(__file__).parents[2]

#: Of one pip: it may have to fetch and to compile, on a machine that does other things, too.
TIMEOUT = 240


def build(folder: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that is made of it."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    _run(command, cwd=folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def _run(command: list[str], *, cwd: Path) -> None:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=TIMEOUT, env=outside()
    )
    assert done.returncode == 0, done.stdout + done.stderr


def outside() -> dict[str, str]:
    """The environment, without what would lead a Python back to the tree."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@dataclass
class CleanPlace:
    """A venv with Debian's Python and nothing else, and a folder to work in."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        _run([sys.executable, "-m", "venv", "--without-pip", str(self.folder / "venv")], cwd=self.folder)

    @property
    def bin(self) -> Path:
        return self.folder / "venv" / "bin"

    def install(self, wheel: Path, extras: str = "") -> None:
        """By this venv's pip, which keeps what it fetched before; in the versions that are locked."""
        lock = self.folder / "versions"
        # Without hashes: with them, pip wants one of the wheel, too.
        lines = (ROOT / "tests" / "requirements.lock").read_text().splitlines()
        lock.write_text("".join(f"{line.rstrip(' ' + chr(92))}\n" for line in lines if line[:1].isalnum()))
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--quiet"]
        _run([*pip, "--constraint", str(lock), f"imgstore{extras} @ {wheel.as_uri()}"], cwd=self.folder)

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs one of its programs to its end, in its folder."""
        return subprocess.run(
            [str(self.bin / program), *arguments],
            cwd=self.folder,
            env={**outside(), "IMGSTORED_SOCKET": str(self.folder / "imgstored.sock")},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


class InstalledDaemon:
    """Its imgstored, with the given lines of configuration beside folder and socket; answers when entered."""

    def __init__(self, place: CleanPlace, config: str) -> None:
        self.place = place
        self.images = place.folder / "images"
        self.config_file = place.folder / "imgstored.toml"
        self.images.mkdir(exist_ok=True)
        self.config_file.write_text(
            f'state = "{place.folder}/state"\n[socket]\npath = "{place.folder}/imgstored.sock"\n{config}'
        )

    def __enter__(self) -> InstalledDaemon:
        self.log = (self.place.folder / "imgstored.log").open("w+")
        self.process = subprocess.Popen(
            [str(self.place.bin / "imgstored"), "--config", str(self.config_file)],
            cwd=self.place.folder,
            env=outside(),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        deadline = time.monotonic() + 60
        while self.place.run("imgctl", "list").returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise RuntimeError(f"imgstored did not start:\n{Path(self.log.name).read_text()}")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.status = self.process.wait(timeout=30)
        self.log.close()
