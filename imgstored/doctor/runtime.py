"""Checks of the Python, and of the limits of its process. All of them block briefly."""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING

from imgstored import specs
from imgstored.doctor.finding import Finding
from imgstored.errors import ConfigError
from imgstored.eventloop import trial
from imgstored.host import descriptors as files

if TYPE_CHECKING:
    from imgstored.doctor.subject import Subject


def python(_: Subject) -> list[Finding]:
    """Whether trio runs in it, and a thread can wake it. In a thread of its own."""
    try:
        waits_by = trial.waits_by()
    except ConfigError as error:
        return [Finding("python", "fail", error.message, error.hint)]
    seen = f"Python {platform.python_version()}, {sys.executable}; trio waits by {waits_by}"
    return [Finding("python", "ok", seen)]


def descriptors(subject: Subject) -> list[Finding]:
    """Whether this process may open as many files as the configured limits may need."""
    hard, needed = files.hard_limit(), specs.descriptors(subject.settings)
    if hard < needed:
        seen = f"{hard:,.0f} files may be open, and {needed:,} may be needed at the same time"
        return [Finding("descriptors", "warn", seen, files.HINT)]
    allowed = "any number of" if hard == float("inf") else f"{hard:,.0f}"
    return [Finding("descriptors", "ok", f"{allowed} files may be open; {needed:,} are the most at once")]
