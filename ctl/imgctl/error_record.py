"""The record of an error for programs: what `imgadm -E` prints, in bunyan's form."""

from __future__ import annotations

import os
import socket
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imgctl.errors import CommandError

#: bunyan's level "error".
_ERROR = 50


def error_record(program: str, error: CommandError) -> dict[str, Any]:
    """The record; `err.code`, `err.message` are imgadm's, `err.hint` and `err.data` are added."""
    described = {
        "message": error.message,
        "name": error.record_name,
        "stack": error.message,
        "code": error.code,
        "hint": error.hint,
        "exit_status": error.exit_status,
        "data": error.data,
    }
    return {
        "name": program,
        "req_id": os.environ.get("REQ_ID") or str(uuid.uuid4()),
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "level": _ERROR,
        "err": {key: value for key, value in described.items() if value not in ("", {})},
        "msg": error.message,
        "time": timestamp(),
        "v": 0,
    }


def timestamp() -> str:
    """Now, as JavaScript writes it: UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
