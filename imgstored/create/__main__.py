"""`python -m imgstored.create`: creates an image from a raw disk, a qcow2 or a vmdk; no daemon, no ZFS.

`imgctl create --raw` runs it with the rights of its user: a disk's file may come from anybody, and root must
not open it. The image's stream goes into the file that is open as descriptor FD. Standard input has
{manifest, fields}; what happens, and how it ends, are lines of JSON on standard output: the events of the
socket's `create`, then {result} or {error}.

Exit status: 0; 1 after {error}; 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
import uuid as uuids
from typing import TYPE_CHECKING, Any, Final

from imgproto.events import ManifestMade, Note, Progress, Sending

from imgstored.create.manifest import (
    Source,
    check_compression,
    file_prefix,
    file_suffix,
    given_fields,
    new_manifest,
)
from imgstored.create.output import Output, write_compressed
from imgstored.errors import FileSystemError, ImgstoreError
from imgstored.host import shortage
from imgstored.manifest import parse
from imgstored.zstream.disk import open_disk
from imgstored.zstream.write import DEFAULT_BLOCK_SIZE, NewVolume, check_block_size, padded, volume_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from imgstored.zstream.disk import Disk

#: What a machine's disk and network have unless it is said: every current system has drivers for these.
_DRIVER: Final = "virtio"
#: Bytes of standard input.
_GIVEN: Final = 4 << 20
_PROGRESS_INTERVAL: Final = 0.2


def main(argv: Sequence[str] | None = None) -> int:
    """Makes one image; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        result = _make(arguments)
    except ImgstoreError as error:
        _say({"error": error.as_wire()})
        return 1
    except (BrokenPipeError, KeyboardInterrupt):
        return 1
    except OSError as error:
        wrong = FileSystemError(f"{error.filename or arguments.disk}: {shortage.why(error)}")
        _say({"error": wrong.as_wire()})
        return 1
    _say({"result": result})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m imgstored.create", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=int, required=True, metavar="FD", help="the image's file, empty")
    parser.add_argument("--path", default="the file", help="what that is called, for messages")
    parser.add_argument("--compression", default="none")
    parser.add_argument("--index", action="store_true", help="write its index behind the file")
    parser.add_argument("--block-size", type=int, default=DEFAULT_BLOCK_SIZE, metavar="BYTES")
    parser.add_argument("--as-raw", action="store_true", help="take DISK as it is, whatever it looks like")
    parser.add_argument("disk", metavar="DISK")
    return parser


def _make(arguments: argparse.Namespace) -> dict[str, Any]:
    given = parse(sys.stdin.buffer.read(_GIVEN + 1), limit=_GIVEN)
    compression = check_compression(arguments.compression, index=arguments.index)
    check_block_size(arguments.block_size)
    fields = given_fields(given["manifest"], given["fields"])
    with (
        Output(arguments.output, arguments.path) as output,
        open_disk(arguments.disk, raw=arguments.as_raw) as disk,
    ):
        size = padded(disk.size, arguments.block_size)
        for field in ("disk_driver", "nic_driver"):
            if fields.get(field) is None:
                fields[field] = _DRIVER
                _note(f'{field} is not given: taken to be "{_DRIVER}"')
        if size != disk.size:
            _note(f"the disk has {disk.size} bytes, the volume {size}: the last of them are zeros")
        manifest = new_manifest(fields, Source(volume=True, size=size), uuid=str(uuids.uuid4()))
        prefix, suffix = file_prefix(manifest), file_suffix(manifest, compression)
        _say(ManifestMade(event="manifest", manifest=manifest, prefix=prefix, suffix=suffix))
        _say(Sending(event="sending"))
        volume = NewVolume(
            name=f"zones/{manifest['uuid']}@final",
            size=size,
            guid=secrets.randbits(64) | 1,
            created=int(time.time()),
            block_size=arguments.block_size,
        )
        stream = volume_stream(volume, _watched(disk, arguments.block_size))
        write_compressed(stream, compression, output, lambda: None, index=arguments.index)
    file = {**output.described(compression), "dataset_guid": str(volume.guid)}
    return {"manifest": {**manifest, "files": [file]}}


def _watched(disk: Disk, block_size: int) -> Iterator[tuple[int, bytes]]:
    """The contents of the disk; tells how far the reading is."""
    reported_at = 0.0
    for offset, data in disk.extents(block_size):
        yield offset, data
        now = time.monotonic()
        if now - reported_at >= _PROGRESS_INTERVAL:
            reported_at = now
            done = offset + len(data)
            _say(Progress(event="progress", done=done, total=disk.size, rate=0.0, images=[]))


def _note(text: str) -> None:
    _say(Note(event="note", text=text))


def _say(document: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
