"""Installs images as Triton's new agent does, one step at a time: a test does other things in between.

The steps, their order and what is left where one fails are those of TritonDataCenter/monitor-reef,
services/tritonagent/src/images.rs and zfs.rs: it takes no lock, receives straight into POOL/UUID, and writes
a manifest of its own with a SHA-1 of zeros. It never deletes an image, but for one whose receive failed.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

NO_SHA1 = "0" * 40


def agents_manifest(uuid: str, size: int, *, description: str | None = None) -> dict[str, Any]:
    """What the agent says of an image, whatever that is."""
    return {
        "v": 2,
        "uuid": uuid,
        "owner": "00000000-0000-0000-0000-000000000000",
        "name": f"agents-{uuid[-2:]}",
        "version": "1.0.0",
        "state": "active",
        "disabled": False,
        "public": False,
        "published_at": "2026-11-28T00:00:00Z",
        "type": "zone-dataset",
        "os": "smartos",
        "files": [{"sha1": NO_SHA1, "size": size, "compression": "gzip"}],
        "description": description,
        "requirements": {},
    }


def record_text(manifest: dict[str, Any], pool: str) -> str:
    """The manifest's file, as imgadm is to find it."""
    return json.dumps({"manifest": manifest, "zpool": pool, "source": "tritond"}, indent=2)


@dataclass
class AgentsImport:
    """One image on its way. Call `fetch`, `begin`, `finish` or `fail`, `snapshot`, `write_part`, `write`."""

    pool: str
    uuid: str
    url: str
    sha256: str
    cache: Path  #: as /var/tmp/triton-images
    manifests: Path  #: as /var/imgadm/images
    size: int = 0
    final: bool = False  #: it has seen to it that there is @final
    _receive: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _rest: bytes = field(default=b"", repr=False)

    @property
    def dataset(self) -> str:
        return f"{self.pool}/{self.uuid}"

    @property
    def file(self) -> Path:
        """Where the image's file is until it is received."""
        return self.cache / f"{self.uuid}.gz"

    def fetch(self) -> None:
        """One GET, and the SHA-256 of what came."""
        self.cache.mkdir(exist_ok=True)
        with urllib.request.urlopen(self.url) as answer:
            content: bytes = answer.read()
        assert hashlib.sha256(content).hexdigest() == self.sha256
        self.size = len(content)
        self.file.write_bytes(content)

    def begin(self) -> bool:
        """`gzip -dc FILE | zfs receive POOL/UUID`, up to the middle. False if something has the name by now.

        It has failed then, and destroyed whatever has the name.
        """
        stream = gzip.decompress(self.file.read_bytes())
        in_the_way = self._is_there()
        self._receive = subprocess.Popen(
            ["zfs", "receive", self.dataset], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        half, self._rest = stream[: len(stream) // 2], stream[len(stream) // 2 :]
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._receive).write(half)
            _pipe(self._receive).flush()
        if in_the_way:
            assert self._receive.wait(60) != 0
            self._failed()
            return False
        # The stream has no end yet: the dataset that appears is half received.
        deadline = time.monotonic() + 60
        while not self._is_there():
            assert self._receive.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return True

    def _is_there(self) -> bool:
        return _zfs("list", "-H", "-o", "name", self.dataset) is not None

    def finish(self) -> None:
        """The rest of the stream; the file is removed."""
        assert self._receive is not None
        _pipe(self._receive).write(self._rest)
        _pipe(self._receive).close()
        assert self._receive.wait(60) == 0
        self._closed()
        self.file.unlink()

    def fail(self) -> None:
        """The stream ends in the middle, as where the file is cut short."""
        assert self._receive is not None
        _pipe(self._receive).close()
        assert self._receive.wait(60) != 0
        self._failed()

    def _failed(self) -> None:
        self._closed()
        self.file.unlink()
        _zfs("destroy", "-r", self.dataset)

    def _closed(self) -> None:
        assert self._receive is not None
        for pipe in (self._receive.stdin, self._receive.stderr):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._receive = None

    def has_final(self) -> bool:
        """Whether there is POOL/UUID@final, which is all that the agent looks at."""
        return _zfs("list", "-H", "-t", "snapshot", "-o", "name", f"{self.dataset}@final") is not None

    def snapshot(self) -> None:
        """Takes @final, where the stream had another name for it."""
        assert _zfs("snapshot", f"{self.dataset}@final") is not None

    @property
    def manifest(self) -> Path:
        """The manifest's file."""
        return self.manifests / f"{self.pool}-{self.uuid}.json"

    def write_part(self) -> None:
        """The manifest is written in place: somebody may read a part of it."""
        self.manifest.write_text(self._record()[:100])

    def write(self) -> None:
        """The manifest; the image is there for the agent."""
        self.manifest.write_text(self._record())

    def _record(self) -> str:
        return record_text(agents_manifest(self.uuid, self.size), self.pool)

    def kill(self) -> None:
        """Ends what still runs, for a test that has failed."""
        if self._receive is not None:
            self._receive.kill()
            self._receive.wait(60)
            self._closed()


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin


def _zfs(*arguments: str) -> str | None:
    """What `zfs` prints; None where it fails."""
    done = subprocess.run(["zfs", *arguments], capture_output=True, text=True, check=False)
    return None if done.returncode else done.stdout.strip()
