"""Keys of documents that are the same in all of them: `zpool`, and times as text. Pure: no I/O.

The daemon's documents call a pool `pool` or `zpool`, and have times in seconds since the epoch, or as text.
Here each `pool` is `zpool`, too, and of each `started_at` in seconds there is `started`, as manifests write
times. The old keys stay for a release.
"""

from __future__ import annotations

from typing import Any

from imgctl.text import moment

_AT = "_at"


def with_new_keys(value: Any) -> Any:
    """The document, and all in it, with both. What a manifest says is its source's, and stays as it is."""
    if isinstance(value, list):
        return [with_new_keys(each) for each in value]
    if not isinstance(value, dict):
        return value
    told = {key: each if key == "manifest" else with_new_keys(each) for key, each in value.items()}
    if isinstance(told.get("pool"), str):
        told.setdefault("zpool", told["pool"])
    for key, each in value.items():
        if key.endswith(_AT) and (text := moment(each)) is not None:
            told.setdefault(key.removesuffix(_AT), text)
    return told
