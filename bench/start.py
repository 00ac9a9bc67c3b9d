"""The daemon's time from its exec to its first answer, when there is a lot installed."""

from __future__ import annotations

import compileall
import importlib.util
import os
import statistics
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import imgctl
import imgproto

import imgstored
from bench.listing import NOWHERE
from bench.ours import Ours, source
from bench.progress import say
from bench.table import Row, seconds
from bench.timing import in_turn
from tests.support.many_images import stock

if TYPE_CHECKING:
    from bench.context import Bench

#: Seconds that the median may take, with the usual number of images and with many.
_MOST, _MOST_OF_MANY = 0.3, 0.8
#: Seconds after which a start has failed.
_TIMEOUT = 60


def start(bench: Bench) -> list[Row]:
    """With each kind of view: the daemon answers when its images can be seen."""
    rows = []
    # As an installed package has it: without, each start compiles nearly three hundred modules.
    for package in (imgstored, imgctl, imgproto):
        compileall.compile_dir(Path(package.__file__).parent, quiet=2)
    for images, most in ((bench.scale.images, _MOST), (bench.scale.many_images, _MOST_OF_MANY)):
        rows += _starts(bench, images, most)
    return rows


def _starts(bench: Bench, images: int, most: float) -> list[Row]:
    sides = {}
    for view in _views():
        # One folder for all would have each view put away what the one before it had shown.
        folder = bench.folder(f"stock-of-{images}-{view}")
        if not folder.exists():
            say(f"making {images:,} tiny images")
            stock(folder / "state", images)
        with Ours(folder, config=source(NOWHERE), keep=True, view=view, timeout=_TIMEOUT):
            pass  # the first start writes the files of the view
        sides[f"view {view}"] = partial(_started, folder, view)
    runs, timeout = bench.runs * bench.scale.starts, bench.scale.quiet_seconds
    taken = in_turn(f"start, {images:,} images", runs, sides, timeout=timeout)
    return [
        Row(
            f"start with {images:,} images ({name})",
            seconds(values),
            goal=f"≤ {1000 * most:.0f} ms",
            reached=statistics.median(values) <= most,
        )
        for name, values in taken.items()
    ]


def _views() -> list[str]:
    mounts = importlib.util.find_spec("pyfuse3") is not None and os.access("/dev/fuse", os.W_OK)
    return ["off", "files", *(["fuse"] if mounts else [])]


def _started(folder: Path, view: str) -> float:
    """Seconds until `hello` is answered."""
    ours = Ours(folder, config=source(NOWHERE), keep=True, view=view, timeout=_TIMEOUT)
    begun = time.perf_counter()
    with ours:
        return time.perf_counter() - begun
