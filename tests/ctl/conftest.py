"""A daemon that does what it is told, and the real command, run as people run it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.ctl.fake_daemon import FakeDaemon

if TYPE_CHECKING:
    from collections.abc import Iterator

START = "import sys; from imgctl.cli import main; sys.exit(main())"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, as sockets need."""
    made = Path(tempfile.mkdtemp(prefix="imgctl-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def daemon(folder: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(folder) as running:
        yield running


class Command:
    """Runs imgctl, or imgctl under the name of imgadm, against a daemon."""

    def __init__(self, socket: Path, folder: Path) -> None:
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            "IMGSTORED_SOCKET": str(socket),
            "PYTHONPATH": str(Path(__file__).parents[2] / "ctl"),
        }
        self._imgadm = folder / "imgadm"
        self._imgadm.write_text(START)

    def __call__(
        self, *arguments: str, imgadm: bool = False, **settings: Any
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.line(*arguments, imgadm=imgadm),
            **{
                "env": self.environment,
                "capture_output": True,
                "text": True,
                "timeout": 30,
                "stdin": subprocess.DEVNULL,
                **settings,
            },
        )

    def line(self, *arguments: str, imgadm: bool = False) -> list[str]:
        program = [str(self._imgadm)] if imgadm else ["-m", "imgctl"]
        return [sys.executable, *program, *arguments]

    def start(self, *arguments: str, **settings: Any) -> subprocess.Popen[str]:
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        return subprocess.Popen(
            self.line(*arguments), **{"env": self.environment, "text": True, **piped, **settings}
        )


@pytest.fixture
def imgctl(daemon: FakeDaemon, folder: Path) -> Command:
    return Command(daemon.path, folder)
