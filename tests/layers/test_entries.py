"""Layers as they come from outside: every form of tar, and hostile ones."""

from __future__ import annotations

import io
import tarfile
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import LayerError
from imgstored.layers import entries as form
from imgstored.layers.entries import Entry, Kind, PieceReader, components, entries
from tests.support.layers import member, tar_of


def read(data: bytes) -> list[tuple[Entry, bytes]]:
    return [
        (entry, contents.read(1 << 20) if contents else b"") for entry, contents in entries(io.BytesIO(data))
    ]


def only(data: bytes) -> Entry:
    [(entry, _)] = read(data)
    return entry


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_kind_in_each_form(form):
    data = tar_of(
        (member("etc/", tarfile.DIRTYPE, mode=0o1777, uid=3, gid=4, mtime=5), b""),
        (member("./etc/passwd", mode=0o4755, uid=7, gid=8, mtime=9), b"root"),
        (member("/etc/link", tarfile.SYMTYPE, linkname="../../x"), b""),
        (member("etc/hard", tarfile.LNKTYPE, linkname="./etc/passwd"), b""),
        (member("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
        (member("dev/disk", tarfile.BLKTYPE, devmajor=8, devminor=0), b""),
        (member("run/pipe", tarfile.FIFOTYPE), b""),
        form=form,
    )
    second = 1_000_000_000
    assert read(data) == [
        (Entry((b"etc",), Kind.FOLDER, 0o1777, 3, 4, 5 * second), b""),
        (Entry((b"etc", b"passwd"), Kind.FILE, 0o4755, 7, 8, 9 * second, 4), b"root"),
        (Entry((b"etc", b"link"), Kind.SYMLINK, 0o644, target=b"../../x"), b""),
        (Entry((b"etc", b"hard"), Kind.HARD_LINK, 0o644, linked=(b"etc", b"passwd")), b""),
        (Entry((b"dev", b"null"), Kind.CHARACTER, 0o644, device=(1, 3)), b""),
        (Entry((b"dev", b"disk"), Kind.BLOCK, 0o644, device=(8, 0)), b""),
        (Entry((b"run", b"pipe"), Kind.FIFO, 0o644), b""),
    ]


def test_attributes_and_parts_of_seconds():
    headers = {"SCHILY.xattr.user.a": "b", "SCHILY.xattr.security.capability": "\x01\udcff", "comment": "x"}
    entry = only(tar_of((member("a", mtime=1.5, pax_headers=headers), b"")))
    assert entry.attributes == {"user.a": b"b", "security.capability": b"\x01\xff"}
    assert entry.mtime == 1_500_000_000


def test_names_that_are_no_text_and_long_ones():
    assert only(tar_of((member("\udcff"), b""), form=tarfile.GNU_FORMAT)).path == (b"\xff",)
    long = "/".join(["x" * 200] * 20)
    for with_long in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        assert len(only(tar_of((member(long), b""), form=with_long)).path) == 20


def test_whiteouts():
    found = read(
        tar_of(
            (member("a/.wh.b"), b""),
            (member("a/.wh..wh..opq"), b""),
            (member(".wh..wh.plnk/1.2"), b""),
            (member("a/.wh..wh.aufs"), b""),
            (member(".wh..hidden"), b""),
        )
    )
    assert [(entry.kind, entry.path) for entry, _ in found] == [
        (Kind.WHITEOUT, (b"a", b"b")),
        (Kind.OPAQUE, (b"a",)),
        (Kind.WHITEOUT, (b".hidden",)),
    ]


def test_an_empty_layer():
    assert read(b"") == read(tar_of()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../etc/passwd", "leads out of the image"),
        ("a/../../b", "leads out of the image"),
        ("a/..", "leads out of the image"),
        ("/../x", "leads out of the image"),
        ("a/.wh...", "names no file"),
        ("a/.wh.", "names no file"),
        ("x" * 256, "too long"),
        ("/".join("x" * 2050), "too long"),
        ("/".join(["x"] * 129), "too long"),
        (".", "unknown type"),
    ],
)
def test_names_that_are_refused(name, message):
    with pytest.raises(LayerError, match=message):
        read(tar_of((member(name), b"")))


@pytest.mark.parametrize(
    "bad",
    [
        member("a", tarfile.SYMTYPE, linkname=""),
        member("a", tarfile.LNKTYPE, linkname="../b"),
        member("a", tarfile.LNKTYPE, linkname="/"),
        member("a", b"V"),
        member("a", uid=-1),
        member("a", uid=0xFFFFFFFF),
        member("a", gid=1 << 40),
        member("a", tarfile.CHRTYPE, devmajor=-1),
        member("a", tarfile.BLKTYPE, devminor=1 << 31),
    ],
    ids=lambda info: f"{info.type!r} {info.linkname} {info.uid} {info.gid} {info.devmajor} {info.devminor}",
)
def test_entries_that_are_refused(bad):
    with pytest.raises(LayerError):
        read(tar_of((bad, b""), form=tarfile.GNU_FORMAT))


def test_times_that_are_none():
    for value in ("nan", "inf", "-1.0", "1e300", "soon", "0x10", "0e99999999999999999999", "NaN123", "sNaN"):
        assert only(tar_of((member("a", pax_headers={"mtime": value}), b""))).mtime == 0


def test_a_fifo_has_no_device_number():
    assert only(
        tar_of((member("a", tarfile.FIFOTYPE, devmajor=-1), b""), form=tarfile.GNU_FORMAT)
    ).device == (0, 0)


def test_headers_are_bounded():
    huge = tar_of((member("a", pax_headers={"comment": "x" * (2 << 20)}), b""))
    with pytest.raises(LayerError, match="more than 1 MiB of headers"):
        read(huge)
    # Headers that describe headers, without an end.
    pax = tar_of((member("a", pax_headers={"comment": "x"}), b""))[:1024]
    with pytest.raises(LayerError, match="more than 8 headers"):
        read(pax * 2000)


def test_global_headers_mean_nothing_and_are_not_kept():
    """As for containerd. tarfile keeps all that it has seen, up to a MiB with each entry."""

    def pieces():
        for number in range(60):
            headers = {"path": "elsewhere", f"k{number}": "x" * (500 << 10)}
            yield tarfile.TarInfo.create_pax_global_header(headers)
            yield tar_of((member(f"f{number}"), b""), form=tarfile.USTAR_FORMAT)[:512]
        yield bytes(1024)

    tracemalloc.start()
    try:
        paths = [entry.path for entry, _ in entries(PieceReader(pieces()))]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert paths == [(b"f%d" % number,) for number in range(60)]
    assert peak < 10 << 20


@pytest.mark.parametrize("key", ["GNU.sparse.size", "GNU.sparse.map"])
def test_a_global_header_makes_no_file_sparse(key):
    value = "5" if key.endswith("size") else "0,0"
    layer = tarfile.TarInfo.create_pax_global_header({key: value, "GNU.sparse.offset": "0"})
    layer += tar_of((member("f"), b"hello"), form=tarfile.USTAR_FORMAT)
    with pytest.raises(LayerError, match="a global header makes a file sparse"):
        list(entries(PieceReader([layer])))


def test_a_negative_size_ends(monkeypatch):
    data = tar_of((member("a", pax_headers={"size": "-1024"}), b"x" * 600), (member("b"), b""))
    with pytest.raises(LayerError):
        read(data)


def test_so_many_entries_and_no_more(monkeypatch):
    monkeypatch.setattr(form, "MAX_ENTRIES", 3)
    three = [(member(str(number)), b"") for number in range(3)]
    assert len(read(tar_of(*three))) == 3
    with pytest.raises(LayerError, match="more than 3 entries"):
        read(tar_of(*three, (member("4"), b"")))


def test_one_that_is_cut_short():
    data = tar_of((member("a"), b"x" * 5000))
    for end in (100, 512, 600, 3000, 5500):
        with pytest.raises(LayerError):
            read(data[:end])


@given(st.binary(max_size=1500), st.integers(0, 3000), st.integers(0, 3000))
def test_whatever_comes(noise, begin, end):
    """Bytes put into a good layer: entries or `LayerError`, and no path that leads out."""
    good = tar_of(
        (member("a/b", pax_headers={"SCHILY.xattr.user.x": "y"}), b"abc" * 100),
        (member("c", tarfile.LNKTYPE, linkname="a/b"), b""),
    )
    data = good[:begin] + noise + good[min(begin, end) :]
    try:
        found = read(data)
    except LayerError:
        return
    for entry, contents in found:
        assert b".." not in entry.path + entry.linked
        assert len(contents) <= max(entry.size, 0)


@given(st.binary(max_size=300))
def test_components_never_lead_out(path):
    try:
        parts = components(path)
    except LayerError:
        return
    assert all(
        part and b"/" not in part and b"\0" not in part and part not in (b".", b"..") for part in parts
    )


def _sparse(files: int = 1, **headers: str) -> bytes:
    members = [member("GNUSparseFile.0/x") for _ in range(files)]
    for info in members:
        info.pax_headers = {f"GNU.sparse.{key}": value for key, value in headers.items()}
    return tar_of(*[(info, b"0\n".ljust(512, b"\0")) for info in members])


@pytest.mark.parametrize(
    "headers",
    [
        {"major": "1", "minor": "0", "name": "x", "realsize": str(1 << 62)},
        {"size": str(1 << 62), "map": "0,1"},
        # It claims to have stored more than it is long, and to begin late.
        {"size": str(1 << 50), "map": f"{1 << 49},{1 << 61}"},
    ],
)
def test_a_header_that_makes_a_file_of_holes(headers):
    """No limit on bytes that come bounds what such a file takes when it is read."""
    with pytest.raises(LayerError, match="sparse files with more than 64 GiB of holes"):
        read(_sparse(**headers))


def test_holes_of_several_files_count_together(monkeypatch):
    monkeypatch.setattr(form, "MAX_HOLES", 10_000)
    assert len(read(_sparse(1, size="6000", map="0,512"))) == 1
    with pytest.raises(LayerError, match="holes"):
        read(_sparse(2, size="6000", map="0,512"))


@pytest.mark.parametrize("name", ["a", ".wh.a", ".wh..wh.aufs", "a/.wh..wh..opq"])
def test_a_size_beyond_the_end(name):
    """Of what is passed over, too: nobody reads on to the end of 8 EiB."""
    header = member(name)
    header.size = 1 << 62
    with pytest.raises(LayerError):
        read(header.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(LayerError):
        read(tar_of((member("b"), b"b")).rstrip(b"\0") + header.tobuf(tarfile.GNU_FORMAT))


@pytest.mark.parametrize(
    "between",
    [b"x" * 512, b"\0" * 511 + b"x", b"\0" * 512, b"x" * 100],
    ids=["no header", "a wrong checksum", "one block of zeros", "a cut header"],
)
def test_an_end_that_is_none(between):
    """What follows it would be missing in the image, and nobody would say so."""
    first, second = (member(name).tobuf() for name in "ab")
    assert len(read(first + second)) == 2
    with pytest.raises(LayerError, match="no header"):
        read(first + between + second[: 512 if len(between) == 512 else 0])


def test_an_end_without_all_its_zeros():
    first = member("a").tobuf()
    for end in (b"", bytes(512), bytes(1024), bytes(1024) + b"x" * 512):
        assert len(read(first + end)) == 1
