"""The limit of open files of the process (RLIMIT_NOFILE, setrlimit(2))."""

from __future__ import annotations

import resource
import socket
from typing import Final

import structlog

from imgstored.host.exhaustion import DESCRIPTORS_HINT as HINT
from imgstored.host.exhaustion import NO_DESCRIPTORS

logger = structlog.get_logger(__name__)

__all__ = ["HINT", "are_scarce", "hard_limit", "is_reserved", "raise_limit"]

#: Descriptors that are reserved for changes and for users who may change; at most one `_PART`th of the limit.
_RESERVE: Final = 128
_PART: Final = 4


def is_reserved(descriptor: int) -> bool:
    """True if a descriptor that was just opened is one of the last few.

    The system gives the lowest free number, so all numbers below it are in use.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft != resource.RLIM_INFINITY and descriptor >= soft - min(_RESERVE, soft // _PART)


def are_scarce() -> bool:
    """True if only reserved descriptors are left."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            return is_reserved(probe.fileno())
    except OSError as error:
        return error.errno in NO_DESCRIPTORS


def hard_limit() -> float:
    """The maximum of the soft limit; infinity if there is none."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return float("inf") if hard == resource.RLIM_INFINITY else hard


def raise_limit(needed: int) -> None:
    """Raises the soft limit to `needed`, at most to the hard limit. Never lowers it.

    Logs a warning if the hard limit is too low. Call it before `trio.run`, because `select.devpoll` reads the
    limit when it is created.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < possible:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
        except (OSError, ValueError) as error:
            logger.warning(
                "the limit of open files stays", limit=soft, needed=needed, error=str(error), hint=HINT
            )
            return
        logger.info("raised the limit of open files", before=soft, limit=possible)
    if possible < needed:
        logger.warning("fewer files may be open than may be needed", limit=hard, needed=needed, hint=HINT)
