from __future__ import annotations

import contextlib
import errno
import grp
import io
import os
import pwd
import random
import struct
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import CancelledError, NoSpaceError, UsageError
from imgstored.zstream import disk as disk_module
from imgstored.zstream import ova, qemu
from imgstored.zstream.__main__ import main
from imgstored.zstream.disk import fetched_disk, format_of, open_disk
from imgstored.zstream.reader import StreamReader
from imgstored.zstream.write import NewVolume, padded, volume_stream
from tests.support.streams import real_stream

if TYPE_CHECKING:
    from collections.abc import Callable

CHANCE = random.Random(5)
MIB = 1 << 20
DATA = CHANCE.randbytes(1_500_000)
#: The disk that all formats have inside.
AT = 8 * MIB
INSIDE = DATA.ljust(AT, b"\0") + DATA[:4608]
QEMU_IMG = qemu.PROGRAMS[0]


class Done(NamedTuple):
    """How the command ended."""

    status: int
    stream: bytes
    said: str


def written(path: Path | str, *options: str) -> Done:
    """What the command makes of this disk."""
    stream, words = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(words):
        status = main(["write", "--name", "zones/disk@final", *options, str(path)])
    assert isinstance(stream.buffer, io.BytesIO)
    return Done(status, stream.buffer.getvalue(), words.getvalue())


def expected(disk: bytes, block_size: int = 8192, guid: int = 5, created: int = 7) -> bytes:
    volume = NewVolume("zones/disk@final", padded(len(disk), block_size), guid, created, block_size)
    return b"".join(volume_stream(volume, [(0, disk)]))


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run([QEMU_IMG, *arguments], check=True, capture_output=True)


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.write(DATA)
        file.seek(AT)
        file.write(INSIDE[AT:])
    assert path.read_bytes() == INSIDE
    return path


@pytest.fixture
def converted(sparse: Path) -> Callable[..., Path]:
    """Makes a disk of another format, by qemu-img's own names."""

    def convert(format_: str, *options: str) -> Path:
        path = sparse.with_name("converted")
        qemu_img("convert", "-O", format_, *options, sparse, path)
        return path

    return convert


# -- what is read of a raw disk ------------------------------------------------------------------------------


def extents(path: Path, block_size: int = 8192) -> list[tuple[int, bytes]]:
    with open_disk(path) as disk:
        return list(disk.extents(block_size))


@pytest.mark.parametrize("block_size", [4096, 131072])
def test_holes_are_not_read(tmp_path: Path, block_size: int) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        for offset in (5 * MIB + 4096, 1 << 40):
            file.seek(offset)
            file.write(b"data")
        file.truncate((1 << 40) + 5000)
    found = extents(path, block_size)
    assert all(offset % block_size == 0 for offset, _ in found)
    assert sum(len(data) for _, data in found) <= 4 * 131072
    assert b"".join(data.rstrip(b"\0") for _, data in found).replace(b"\0", b"") == b"datadata"
    assert found[-1][0] + len(found[-1][1]) == (1 << 40) + 5000 or block_size == 4096


def test_read_in_pieces(sparse: Path) -> None:
    sizes = [len(data) for _, data in extents(sparse)]
    assert max(sizes) == MIB


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20_000)), max_size=6), st.integers(0, 9000))
def test_any_sparse_file(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int]], more: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "disk"
    with path.open("wb") as file:
        for gap, size in parts:
            file.seek(gap * 4096, os.SEEK_CUR)
            file.write(b"\xff" * size)
        file.truncate(file.tell() + more + 1)
    for block_size in (4096, 65536):
        disk = bytearray(path.stat().st_size)
        for offset, data in extents(path, block_size):
            assert offset % block_size == 0
            assert len(data) % block_size == 0 or offset + len(data) == len(disk)
            disk[offset : offset + len(data)] = data
        assert disk == path.read_bytes()


def test_where_holes_are_not_told(sparse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of block devices: all is read, and blocks of zeros are found all the same."""
    seek = os.lseek

    def lseek(fd: int, offset: int, whence: int) -> int:
        if whence == os.SEEK_DATA:
            raise OSError(errno.EINVAL, "Invalid argument")
        return seek(fd, offset, whence)

    monkeypatch.setattr(os, "lseek", lseek)
    found = extents(sparse)
    assert b"".join(data for _, data in found) == INSIDE
    volume = NewVolume("zones/disk@final", padded(len(INSIDE), 8192), 5, 7)
    assert b"".join(volume_stream(volume, found)) == expected(INSIDE)


def test_a_disk_that_becomes_shorter(sparse: Path) -> None:
    with open_disk(sparse) as disk:
        reading = disk.extents(8192)
        next(reading)
        os.truncate(sparse, MIB + 100)
        with pytest.raises(UsageError, match="became shorter") as caught:
            list(reading)
        assert caught.value.hint


# -- the command ---------------------------------------------------------------------------------------------


def test_a_raw_disk(sparse: Path) -> None:
    command = [sys.executable, "-m", "imgstored.zstream", "write", "--name", "zones/disk@final"]
    done = subprocess.run(
        [*command, "--guid", "5", "--created", "7", str(sparse)], capture_output=True, check=True
    )
    assert done.stdout == expected(INSIDE)
    assert done.stderr == (
        b"zstream: the disk has 8393216 bytes, which are no whole blocks of 8192: "
        b"the volume has 8396800, the last of them zeros\n"
    )


def test_each_time_another_guid(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(DATA[:8192])
    guids = set()
    for _ in range(2):
        reader = StreamReader()
        reader.check(written(path).stream)
        reader.finish()
        assert reader.begin is not None
        guids.add(reader.begin.toguid)
    assert len(guids) == 2


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("qcow2", []),
        ("qcow2", ["-c"]),
        ("qcow2", ["-o", "compat=0.10"]),
        ("qcow2", ["-o", "cluster_size=4096,compression_type=zstd"]),
        ("vmdk", []),
        ("vmdk", ["-o", "subformat=streamOptimized"]),
    ],
)
def test_other_formats_have_the_same_inside(
    converted: Callable[..., Path], format_: str, options: list[str], tmp_path: Path
) -> None:
    path = converted(format_, *options)
    # A name says nothing, however it looks.
    odd = path.rename(tmp_path / "nbd:disk,raw.vdi")
    done = written(odd, "--guid", "5", "--created", "7", "--block-size", "16384")
    assert done.status == 0, done.said
    assert done.stream == expected(INSIDE, 16384)


def test_holes_stay_holes(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", path, "100G")
    with open_disk(path, folder=str(tmp_path)) as disk:
        assert disk.size == 100 << 30
        assert list(disk.extents(8192)) == []
    assert list(tmp_path.iterdir()) == [path]


def test_taken_as_raw_if_one_says_so(converted: Callable[..., Path]) -> None:
    path = converted("qcow2")
    done = written(path, "--raw", "--guid", "5", "--created", "7")
    assert done.status == 0
    assert done.stream == expected(path.read_bytes())


# -- what is not taken ---------------------------------------------------------------------------------------


def said(path: Path | str, *options: str) -> str:
    done = written(path, *options)
    assert (done.status, done.stream) == (1, b"")
    return done.said


def test_a_backing_file(sparse: Path, tmp_path: Path) -> None:
    path = tmp_path / "thin.qcow2"
    qemu_img("create", "-f", "qcow2", "-b", sparse, "-F", "raw", path)
    assert "has a backing file, which is not supported" in said(path)
    assert "hint: " in said(path)


def test_a_data_file(tmp_path: Path) -> None:
    path = tmp_path / "thin.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", path, "1M")
    assert "has an external data file, which is not supported" in said(path)


def test_a_parent_of_a_vmdk(converted: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "thin.vmdk"
    qemu_img("create", "-f", "vmdk", "-b", converted("vmdk"), "-F", "vmdk", path)
    assert "in other files, which imgstored does not read" in said(path)


def test_a_vmdk_that_lists_other_files(tmp_path: Path) -> None:
    """As qemu-img makes it; and in a file that looks like one with data."""
    path = tmp_path / "flat.vmdk"
    qemu_img("create", "-f", "vmdk", "-o", "subformat=monolithicFlat", path, "1M")
    assert "a vmdk whose data are in other files" in said(path)
    description = path.read_bytes().replace(b"flat-flat.vmdk", b"/etc/hostname")
    head = struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, 0, 128, 1, 20).ljust(512, b"\0")
    path.write_bytes((head + description).ljust(65536, b"\0"))
    assert "the vmdk's data is in other files, which imgstored does not read" in said(path)


def test_an_encrypted_disk(tmp_path: Path) -> None:
    path = tmp_path / "secret.qcow2"
    qemu_img("create", "-f", "qcow2", path, "1M")
    with path.open("r+b") as file:
        file.seek(32)
        file.write(struct.pack(">I", 2))
    assert "is encrypted" in said(path)


def test_a_disk_larger_than_a_volume(tmp_path: Path) -> None:
    path = tmp_path / "huge.qcow2"
    qemu_img("create", "-f", "qcow2", path, "17T")
    assert "the disk has a size of 18691697672192 bytes" in said(path)


def test_more_inside_than_there_is_room(
    converted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    status = os.fstatvfs(0)

    class Full:
        f_bavail, f_frsize = 100, status.f_frsize

    monkeypatch.setattr(os, "fstatvfs", lambda fd: Full)
    with pytest.raises(NoSpaceError, match="are free for temporary files"), open_disk(converted("qcow2")):
        pass


@pytest.mark.parametrize("at", [20, 36, 40, 48, 56, 100, 65536, 196608])
def test_damaged(converted: Callable[..., Path], at: int) -> None:
    """It is unpacked or refused; whichever, at once, and with a reason."""
    path = converted("qcow2")
    with path.open("r+b") as file:
        file.seek(at)
        file.write(random.Random(at).randbytes(8))
    done = written(path)
    if done.status:
        error, hint = done.said.splitlines()
        assert error.startswith("zstream: error: the ")
        assert hint.startswith("hint: ")


def test_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"QFI\xfb\0\0\0\3")
    assert "the qcow2 is cut short" in said(path)


def test_no_qemu_img(converted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = converted("vmdk")
    monkeypatch.setattr(qemu, "PROGRAMS", ("/usr/bin/no-such-program",))
    shown = said(path)
    assert "the disk is a vmdk, and there is no qemu-img to make a raw one of it" in shown
    assert "qemu-utils" in shown


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script in qemu-img's place."""

    def put(script: str) -> None:
        path = tmp_path / "qemu-img"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(qemu, "PROGRAMS", (str(path),))

    return put


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("printf 'a\\n\\033[31mred\\n' >&2; exit 3", r"cannot be unpacked: a \?\[31mred$"),
        ("exit 3", "status 3"),
        ('echo \'{"virtual-size": "x"}\'', "does not say"),
        ("echo '[1]'", "in an unknown form"),
        ("echo no", "in an unknown form"),
        ("echo '{\"virtual-size\": 0}'", "has a size of 0 bytes"),
        ("yes", "cannot be unpacked"),  # a report without an end
        ("exec sleep 60", "took longer than 1 seconds"),
    ],
)
def test_what_qemu_img_may_do(
    converted: Callable[..., Path],
    program: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    message: str,
) -> None:
    path = converted("qcow2")
    program(script)
    if "sleep" in script:
        monkeypatch.setattr(qemu, "_TIMEOUT", 1)
    with pytest.raises(UsageError, match=message) as caught, open_disk(path):
        pass
    assert caught.value.hint


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"\x1f\x8b\x08", "compressed by gzip"),
        (b"\xfd7zXZ\0", "compressed by xz"),
        (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
        (b"BZh9", "compressed by bzip2"),
        (b"vhdxfile", "a vhdx"),
        (b"conectix", "a vhd"),
        (b"<<< QEMU VM Virtual Disk Image >>>\n", "a vdi"),
        (b"COWD", "a vmdk of ESX"),
        (b"QFI\xfb\0\0\0\1", "a qcow2 of version 1"),
        (b"PK\3\4", "a zip archive"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive"),
        (b"070701", "a cpio archive"),
        (b"070702", "a cpio archive"),
        (b"070707", "a cpio archive"),
        (b"Rar!\x1a\x07\1\0", "a rar archive"),
        (b"!<arch>\ndebian-binary", "an ar archive"),
        (b"xar!", "a xar archive"),
        (b"MSWIM\0\0\0", "a wim archive"),
        (b"PK\5\6", "an empty zip archive"),
        (b"PK\7\x08PK\3\4", "a zip archive in parts"),
        (b"WithoutFreeSpace", "a disk of Parallels"),
        (b"WithouFreSpacExt", "a disk of Parallels"),
        (b"Bochs Virtual HD Image", "a disk of Bochs"),
        (b"EVF\x09\x0d\x0a\xff\0\1", "an EnCase image"),
        (b"\x04\x22\x4d\x18", "compressed by lz4"),
        (b"\x89LZO\0\r\n\x1a\n", "compressed by lzop"),
        (b"LZIP\1", "compressed by lzip"),
        (b"\x1f\x9d\x90", "compressed by compress"),
        (b'<?xml version="1.0"?><Envelope', "XML, such as an OVF"),
        (b"<!DOCTYPE html><title>Not found", "a page for browsers"),
        (real_stream("base")[:4096], "a ZFS send stream"),
    ],
)
def test_other_first_bytes(tmp_path: Path, head: bytes, message: str) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(head.ljust(8192, b"\0"))
    assert message in said(path)
    assert "hint: " in said(path)
    assert written(path, "--raw").status == 0


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (["/usr/bin/python3", "-m", "zipfile", "-c", "OUT", "IN"], "a zip archive"),
        (["/bin/sh", "-c", "gzip -c IN > OUT"], "compressed by gzip"),
        ([QEMU_IMG, "convert", "-O", "parallels", "IN", "OUT"], "a disk of Parallels"),
        (
            [QEMU_IMG, "convert", "-O", "vpc", "-o", "subformat=fixed,force_size=on", "IN", "OUT"],
            "a vhd of fixed size",
        ),
        ([QEMU_IMG, "convert", "-O", "vpc", "IN", "OUT"], "a vhd"),
        ([QEMU_IMG, "convert", "-O", "vdi", "IN", "OUT"], "a vdi"),
        ([QEMU_IMG, "convert", "-O", "qed", "IN", "OUT"], "a qed"),
        ([QEMU_IMG, "convert", "-O", "vhdx", "IN", "OUT"], "a vhdx"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_other_programs_make_of_a_disk(
    sparse: Path, tmp_path: Path, program: list[str], message: str
) -> None:
    """It is named, and never becomes the image of an archive."""
    made = tmp_path / "made"
    command = [word.replace("OUT", str(made)).replace("IN", str(sparse)) for word in program]
    subprocess.run(command, check=True, capture_output=True)
    assert f"the disk is {message}" in said(made)
    assert "hint: " in said(made)


def test_the_end_of_a_dmg(tmp_path: Path) -> None:
    path = tmp_path / "disk.dmg"
    path.write_bytes(bytes(8192) + b"koly".ljust(512, b"\0"))
    assert "the disk is a dmg" in said(path)
    assert written(path, "--raw").status == 0


# -- the disk in an OVA --------------------------------------------------------------------------------------


def archived(path: Path, *members: tuple[str, bytes], format_: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format_) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    ("kind", "options"), [("vmdk", ["-o", "subformat=streamOptimized"]), ("vmdk", []), ("qcow2", [])]
)
def test_an_ova_is_the_disk_in_it(
    converted: Callable[..., Path], tmp_path: Path, format_: int, kind: str, options: list[str]
) -> None:
    """Wherever its names would lead to, and whatever they say."""
    disk = converted(kind, *options).read_bytes()
    members = (
        ("machine.ovf", b"<?xml"),
        ("/etc/../" + "x" * 90, disk),
        ("machine.mf", b"SHA1"),
        ("b.iso", bytes(5000)),
    )
    path = archived(tmp_path / "machine.ova", *members, format_=format_)
    before = sorted(tmp_path.rglob("*"))
    done = written(path, "--guid", "5", "--created", "7")
    assert done.status == 0, done.said
    assert done.stream == expected(INSIDE)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_vmdk_in_an_ova_is_no_less_hostile(tmp_path: Path) -> None:
    """Its header is looked at before qemu-img sees it."""
    head = struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, 0, 128, 1, 20).ljust(512, b"\0")
    flat = archived(tmp_path / "flat.ova", ("disk.vmdk", head + b"# Disk DescriptorFile" + bytes(4096)))
    assert "data is in other files, which imgstored does not read" in said(flat)
    short = archived(tmp_path / "short.ova", ("disk.vmdk", b"KDMV" + bytes(100)))
    assert "the vmdk is cut short" in said(short)


def test_a_tar_without_its_one_disk(converted: Callable[..., Path], tmp_path: Path) -> None:
    disk = converted("vmdk").read_bytes()
    two = archived(tmp_path / "two.ova", ("a.vmdk", disk), ("b.vmdk", disk))
    assert "a tar with 2 disks in it" in said(two)
    none = archived(tmp_path / "none.tar", ("disk.raw", INSIDE))
    assert "a tar with no vmdk and no qcow2 in it" in said(none)
    assert "tar -xf" in said(none)
    cut = tmp_path / "cut.ova"
    cut.write_bytes(archived(tmp_path / "whole.ova", ("a.vmdk", disk)).read_bytes()[: len(disk) // 2])
    assert "a tar that is cut short" in said(cut)
    many = archived(tmp_path / "many.tar", *[(str(number), b"") for number in range(1001)])
    assert "a tar with more than 1000 files" in said(many)


def summed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_a_tar_with_a_header_that_is_too_large(tmp_path: Path, kind: bytes) -> None:
    """It would be read as a whole."""
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, 1 << 33
    path = tmp_path / "large.ova"
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT))
    os.truncate(path, (1 << 33) + 4096)
    assert "a tar that is damaged" in said(path)


def test_a_tar_of_headers_in_headers(tmp_path: Path) -> None:
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 0
    path = tmp_path / "deep.ova"
    path.write_bytes(member.tobuf() * 100_000)
    assert "the disk is a tar" in said(path)


@given(st.data())
def test_any_change_of_a_tar(data: st.DataObject) -> None:
    """Where the one disk is lies in the file, or it is said that there is none."""
    with tempfile.TemporaryDirectory() as folder:
        disk = b"KDMV" + bytes(3000)
        whole = archived(Path(folder) / "a", ("a", b"text"), ("disk", disk)).read_bytes()
        changed = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 4))):
            block = data.draw(st.sampled_from([0, 1024]))
            field = data.draw(
                st.sampled_from([slice(124, 136), slice(156, 157), slice(0, 100), slice(257, 265)])
            )
            size = field.stop - field.start
            changed[block + field.start : block + field.stop] = data.draw(
                st.binary(min_size=size, max_size=size)
            )
            changed[block : block + 512] = summed(bytearray(changed[block : block + 512]))
        path = Path(folder) / "b"
        path.write_bytes(changed)
        with path.open("rb") as file, contextlib.suppress(UsageError):
            part = ova.the_disk(file.fileno(), qemu.MAGICS, qemu.HEAD)
            assert part.offset + part.size <= len(changed)
            assert changed[part.offset :].startswith(b"KDMV")


@given(st.binary(max_size=600), st.sampled_from([b"", *qemu.MAGICS]))
def test_any_first_bytes(rest: bytes, magic: bytes) -> None:
    with contextlib.suppress(UsageError):
        format_ = format_of(magic + rest)
        if format_ != "raw":
            qemu.refuse_others((magic + rest)[: qemu.HEAD], format_)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--block-size", "1000"], "blocks of 1000 bytes are not possible"),
        (["--guid", "0"], "the guid 0"),
        (["--created", "-1"], "made at -1"),
        (["--name", "disk"], "'disk' is not the name of a snapshot"),
    ],
)
def test_options_that_no_volume_can_have(sparse: Path, options: list[str], message: str) -> None:
    assert message in said(sparse, *options)


def test_what_is_no_disk(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    assert "is empty" in said(tmp_path / "empty")
    assert "neither a file nor a block device" in said(tmp_path / "pipe")
    assert "neither a file nor a block device" in said(tmp_path)
    assert "a character device, neither a file nor a block device" in said("/dev/zero")
    assert "No such file" in said(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("/dev/zvol/rdsk/zones/web/disk0", "/dev/zvol/dsk/zones/web/disk0"),
        ("/dev/rdsk/c0t0d0p0", "/dev/dsk/c0t0d0p0"),
        ("/dev/zero", "name a disk"),
    ],
)
def test_the_character_device_of_a_disk(monkeypatch: pytest.MonkeyPatch, name: str, hint: str) -> None:
    """illumos has them; another character device stands in for what it opens."""
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, flags: real("/dev/zero" if path == name else path, flags))
    with pytest.raises(UsageError, match="a character device") as caught, open_disk(name):
        pass
    assert hint in caught.value.hint


def test_where_the_system_has_no_seeking_for_holes(sparse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "_SEEK_DATA", None)
    found = extents(sparse)
    assert b"".join(data for _, data in found) == INSIDE


def test_not_for_a_terminal(sparse: Path) -> None:
    terminal, end = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "imgstored.zstream", "write", "--name", "a@b", str(sparse)],
            stdout=end,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(terminal)
        os.close(end)
    assert done.returncode == 1
    assert b"not for a terminal" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_what_came_from_elsewhere_is_read_without_rights(tmp_path, monkeypatch):
    """qemu-img of the daemon has no rights; and the disk is what it was."""
    raw = tmp_path / "raw"
    raw.write_bytes(os.urandom(100_000).ljust(1 << 20, b"\0"))
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, path], check=True, capture_output=True)
    seen = tmp_path / "seen"
    seen.touch()
    seen.chmod(0o666)
    program = tmp_path / "qemu-img"
    program.write_text(f'#!/bin/sh\nid -u >> {seen}\nid -G >> {seen}\nexec /usr/bin/qemu-img "$@"\n')
    program.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o011)
    monkeypatch.setattr(qemu, "PROGRAMS", (str(program),))
    with (
        path.open("rb") as file,
        fetched_disk(file.fileno(), folder=str(tmp_path), check=lambda: None) as disk,
    ):
        assert os.pread(disk.fd, disk.size, 0) == raw.read_bytes()
    assert "0" not in seen.read_text().split()
    assert seen.read_text().split()
    assert path.stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_no_process_of_nobody_reaches_the_files_of_a_conversion(tmp_path, monkeypatch):
    """Services that run as nobody could change the disk by /proc, were that the user of qemu-img, too."""
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-f", "qcow2", path, "1M"], check=True, capture_output=True)
    pids = tmp_path / "pids"
    pids.touch()
    pids.chmod(0o666)
    program = tmp_path / "qemu-img"
    program.write_text(f"#!/bin/sh\necho $$ >> {pids}\nexec sleep 600\n")
    program.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o011)
    monkeypatch.setattr(qemu, "PROGRAMS", (str(program),))
    nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]

    def check():
        """Called while the program runs."""
        pid = next(iter(pids.read_text().split()), "")
        if pid and Path(f"/proc/{pid}/comm").read_text() == "sleep\n":
            looked = subprocess.run(
                [*nobody, "readlink", f"/proc/{pid}/fd/{file.fileno()}"], capture_output=True, check=False
            )
            raise CancelledError(looked.stdout.decode())

    with (
        path.open("rb") as file,
        pytest.raises(CancelledError, match=r"^$"),
        fetched_disk(file.fileno(), folder=str(tmp_path), check=check),
    ):
        pass


def test_each_conversion_has_a_user_of_its_own():
    with qemu.somebody() as one, qemu.somebody() as other:
        assert one != other
        for uid, gid in (one, other):
            with pytest.raises(KeyError):
                pwd.getpwuid(uid)
            with pytest.raises(KeyError):
                grp.getgrgid(gid)


def test_a_number_that_is_taken_is_passed_over(monkeypatch):
    monkeypatch.setattr(qemu, "_UIDS", range(61184, 61186))
    with qemu.somebody() as one:
        with qemu.somebody() as other:
            assert {one[0], other[0]} == {61184, 61185}
            with pytest.raises(UsageError, match="no user id is free"), qemu.somebody():
                pass
        with qemu.somebody() as again:
            assert again == other


def test_a_conversion_that_nobody_wants_any_more_ends(tmp_path, monkeypatch):
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-f", "qcow2", path, "1M"], check=True, capture_output=True)
    program = tmp_path / "qemu-img"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr(qemu, "PROGRAMS", (str(program),))

    def check():
        raise CancelledError("not wanted")

    with (
        path.open("rb") as file,
        pytest.raises(CancelledError, match="not wanted"),
        qemu.unpacked(file.fileno(), "qcow2", str(tmp_path), check=check),
    ):
        pass
