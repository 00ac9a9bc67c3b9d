"""A vmadm for tests: writes down how it was started, and asks for the images of its payload as vmadm does.

STAND_IN_RECORD names the file that it writes, as JSON, when it has read its payload. It then does what the
payload's `stand_in` says, one after the other: {"wait": PATH} until there is such a file, {"run": COMMAND}
(as a list), {"say": TEXT} on both streams, {"exit": STATUS}, {"signal": NUMBER}. A signal that it gets ends
it with status 40 and its number.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn


def payload() -> bytes:
    """As vmadm takes it: from `-f`, or else from standard input."""
    given = sys.argv[1:]
    path = given[given.index("-f") + 1] if "-f" in given else "/dev/stdin"
    return Path("/dev/stdin" if path == "-" else path).read_bytes()


def get(uuid: str, pool: str | None) -> dict[str, Any]:
    """What vmadm asks imgadm, and how that answers."""
    place = [] if pool is None else ["-P", pool]
    asked = [sys.executable, "-m", "imgctl", "get", *place, uuid]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return {
        "uuid": uuid,
        "status": done.returncode,
        "manifest": json.loads(done.stdout or "{}").get("manifest"),
    }


def record(**facts: Any) -> None:
    """Writes them down at once."""
    path = Path(os.environ["STAND_IN_RECORD"])
    new = path.with_suffix(".new")
    new.write_text(json.dumps(facts))
    new.replace(path)


def received(number: int, _frame: Any) -> NoReturn:
    """Ends as the test can see it."""
    os._exit(40 + number)


def act(steps: list[dict[str, Any]]) -> None:
    """Does what the payload says."""
    for step in steps:
        match step:
            case {"wait": str(path)}:
                while not Path(path).exists():
                    time.sleep(0.02)
            case {"run": [*command]}:
                subprocess.run(command, check=True)
            case {"say": str(text)}:
                print(text, flush=True)
                print(text, file=sys.stderr, flush=True)
            case {"exit": int(status)}:
                sys.exit(status)
            case {"signal": int(number)}:
                os.kill(os.getpid(), number)


def main() -> None:
    """Runs once."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, received)
    if sys.argv[1:2] == ["list"]:
        record(argv=sys.argv, stdin=None, images=[])
        return
    content = payload()
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        parsed = None
    document = parsed if isinstance(parsed, dict) else {}
    named = [document, *document.get("disks", []), *document.get("add_disks", [])]
    images = [
        get(each["image_uuid"], each.get("zpool", document.get("zpool")))
        for each in named
        if "image_uuid" in each
    ]
    record(argv=sys.argv, stdin=content.decode("latin-1"), images=images)
    if any(image["status"] for image in images):
        sys.exit("vmadm: an image is not there")
    act(document.get("stand_in", []))


if __name__ == "__main__":
    main()
