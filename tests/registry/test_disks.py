"""What in a registry is a disk of a virtual machine. Pure."""

from __future__ import annotations

import gzip

import pytest
import zstandard

from imgstored.registry.disks import HEAD, disk_uuid, has_disk, may_have_disk
from tests.support.layers import Member, file, folder, link, tar_of

DISK = tar_of(folder("disk"), file("disk/a.img", bytes(1 << 20)))


def test_the_uuid_is_that_of_the_blob_and_of_no_layer() -> None:
    """The first 128 bits of the SHA-256 of `disk DIGEST`: a change is another image on every host."""
    assert disk_uuid("sha256:" + "0" * 64) == "39ae1a07-ac41-c5ff-b542-12000d16cc30"


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_the_first_bytes_tell(pack) -> None:
    assert has_disk(pack(DISK)[:HEAD])


@pytest.mark.parametrize(
    "members",
    [
        [file("etc/passwd"), file("disk/a.img")],
        [file("disk")],
        [file("disk/a/b")],
        [link("disk/a", "b")],
        [file("../disk/a")],
        [],
    ],
)
def test_other_layers(members: list[Member]) -> None:
    assert not has_disk(tar_of(*members))


@pytest.mark.parametrize(
    "head",
    [b"", b"\x1f\x8b", b"\x1f\x8b" + b"x" * 99, b"\x28\xb5\x2f\xfd" + b"x" * 99, b"x" * 600, DISK[:100]],
)
def test_damaged_layers(head: bytes) -> None:
    assert not has_disk(head)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_bomb_is_not_unpacked(pack) -> None:
    """64 KiB that would become 60 MiB of headers, of which one MiB is looked at."""
    assert not has_disk(pack(tar_of(*[folder(f"d{n}") for n in range(60_000)]))[:HEAD])


@pytest.mark.parametrize("key", ["Cmd", "Entrypoint"])
def test_what_starts_a_program_is_not_looked_at(key: str) -> None:
    assert may_have_disk({"config": {"Env": ["A=1"]}}, [])
    assert may_have_disk({"config": None}, [])
    assert not may_have_disk({"config": {key: ["/bin/sh"]}}, [])
