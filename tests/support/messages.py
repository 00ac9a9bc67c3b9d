"""Messages as a client sends them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack

if TYPE_CHECKING:
    from collections.abc import Mapping


def encode_request(id_: int, method: str, params: Mapping[str, Any]) -> bytes:
    """A request. Like imgctl's, it says integers of more than 64 bits as floating-point numbers."""
    packed: bytes = msgpack.packb([0, id_, method, [dict(params)]], unicode_errors="replace", default=float)
    return packed
