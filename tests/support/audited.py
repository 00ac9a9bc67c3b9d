"""What `imgstored --check --deep` finds wrong beside a running daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgstored.audit.audit import audited

if TYPE_CHECKING:
    from tests.support.daemon import Daemon


def faults(daemon: Daemon) -> list[str]:
    """Everything that is not right, a sentence each."""
    found = audited([daemon.config_file], pause=0.5)["findings"]
    return [f"{each['check']}: {each['seen']}" for each in found if each["status"] != "ok"]
