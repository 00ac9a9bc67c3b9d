"""The context of a case: sizes, runs, and a folder to work in."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.inputs import Inputs, Kind

if TYPE_CHECKING:
    from pathlib import Path

_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Scale:
    """The sizes and numbers of a run."""

    stream: int  #: bytes of the stream of the speed cases
    large: int  #: bytes of the stream for the memory case
    windows: int  #: bytes of the streams that are compressed with large windows
    xz_block: int  #: bytes of an xz block; 24 MiB is what `xz -T2 -6` makes of itself
    rate: int  #: bytes a second of a connection, in the case with a limit
    slow_rate: int  #: the same where the link is to be what takes long, and not the processors
    restart_rate: int  #: the same while the daemon is killed
    images: int  #: installed, for `imgctl list` and a start
    many_images: int  #: installed, for a start
    clients: int
    starts: int  #: runs of `imgctl list`, for each run that is asked for
    wakes: int  #: of a task that waits, for a median
    quiet_seconds: float  #: seconds that a run waits at most for the machine to be quiet


FULL = Scale(
    stream=600 * _MB,
    large=4000 * _MB,
    windows=100 * _MB,
    xz_block=24 << 20,
    rate=20 * _MB,
    slow_rate=2 * _MB,
    restart_rate=5 * _MB,
    images=1000,
    many_images=10_000,
    clients=200,
    starts=5,
    wakes=2000,
    quiet_seconds=60,
)
#: To see that everything works; its figures mean little.
QUICK = Scale(
    stream=8 * _MB,
    large=24 * _MB,
    windows=8 * _MB,
    xz_block=1 << 20,
    rate=20 * _MB,
    slow_rate=10 * _MB,
    restart_rate=1 * _MB,
    images=20,
    many_images=40,
    clients=20,
    starts=1,
    wakes=20,
    quiet_seconds=0,
)


class Bench:
    """One run of the table."""

    def __init__(self, work: Path, *, runs: int, scale: Scale) -> None:
        self.work = work
        self.runs = runs
        self.scale = scale
        self.inputs = Inputs(work / "site")

    def folder(self, name: str) -> Path:
        """Where a case may write; whoever uses it empties it."""
        return self.work / name

    @property
    def gzip(self) -> Kind:
        """As `gzip` makes it."""
        return Kind("gzip", "gzip", ("gzip", "-6", "-n"), self.scale.stream)

    @property
    def bzip2(self) -> Kind:
        """As `bzip2` makes it."""
        return Kind("bzip2", "bzip2", ("bzip2", "-9"), self.scale.stream)

    @property
    def xz(self) -> Kind:
        """Of several blocks, as `xz -T2` makes it."""
        return Kind("xz", "xz", ("xz", "-6", "-T2", f"--block-size={self.scale.xz_block}"), self.scale.stream)

    @property
    def zstd(self) -> Kind:
        """As `zstd` makes it."""
        return Kind("zstd", "zstd", ("zstd", "-q", "-3"), self.scale.stream)

    @property
    def large(self) -> Kind:
        """Made in a hurry, because it is large."""
        has_isal = importlib.util.find_spec("isal") is not None
        hurried = (sys.executable, "-m", "isal.igzip", "-1", "-c") if has_isal else ("gzip", "-1", "-n")
        return Kind("large", "gzip", hurried, self.scale.large)

    @property
    def xz_window(self) -> Kind:
        """With the largest dictionary that `xz -9` has: 64 MiB."""
        return Kind("xz-9", "xz", ("xz", "-9", "-T1"), self.scale.windows)

    @property
    def zstd_window(self) -> Kind:
        """With the largest window of zstd that is allowed by default: 64 MiB."""
        return Kind("zstd-long", "zstd", ("zstd", "-q", "--long=26"), self.scale.windows)
