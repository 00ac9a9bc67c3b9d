"""What the embedded pool notes of a receive, and which notes it takes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from imgstored import hashing
from imgstored.hashing import BLAKE3
from imgstored.pools.embedded.files import Folder
from imgstored.pools.embedded.notes import Checkpoint, read_checkpoint, write_checkpoint
from imgstored.zstream.reader import ReaderState
from tests.state.older import BASE, DATA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOTED = Checkpoint(None, ReaderState(offset=312, sums=(1, 2, 3, 2**64 - 1), begin=b"begins"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    opened = Folder.at(tmp_path)
    with opened:
        yield opened


def written(tmp_path: Path) -> tuple[bytes, bytes]:
    """The line about the hash, and what it is of."""
    line, _, content = (tmp_path / "checkpoint").read_bytes().partition(b"\n")
    return line, content


def test_the_hash_has_its_algorithms_name(folder: Folder, tmp_path: Path) -> None:
    write_checkpoint(folder, NOTED)
    line, content = written(tmp_path)
    assert line == b"blake3:" + blake3(content).hexdigest().encode()
    assert read_checkpoint(folder, BASE) == NOTED


def test_without_blake3(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.delitem(hashing._ALGORITHMS, BLAKE3)
        write_checkpoint(folder, NOTED)
        line, content = written(tmp_path)
        assert line == b"blake2b-256:" + hashlib.blake2b(content, digest_size=32).hexdigest().encode()
        assert read_checkpoint(folder, BASE) == NOTED
    assert read_checkpoint(folder, BASE) == NOTED


def test_what_cannot_be_compared_is_as_if_it_were_not_there_and_said(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(folder, NOTED)
    monkeypatch.delitem(hashing._ALGORITHMS, BLAKE3)
    assert read_checkpoint(folder, BASE) is None
    (line,) = capsys.readouterr().out.splitlines()
    assert "a receive cannot go on: what its checkpoint was hashed with is not installed" in line
    assert f"algorithm={BLAKE3}" in line
    assert BASE in line


def test_an_older_daemons_has_no_name_and_is_blake3(folder: Folder, tmp_path: Path) -> None:
    older = (DATA / "state-2" / "pool" / f"{BASE}-partial" / "checkpoint").read_bytes()
    assert older[64:65] == b"\n"
    (tmp_path / "checkpoint").write_bytes(older)
    found = read_checkpoint(folder, BASE)
    assert found is not None
    assert found.reader.offset == 1_972_968


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b":",
        b"blake3:",
        b"blake3:00",
        b"blake3:" + b"0" * 64,
        b"0" * 64,
        b"blake2b-256:" + b"@",  # of the content, but BLAKE3's
        b"sha256:" + b"0" * 64,
        b"blake3:" + b"\xff" * 64,
        b"\0" * 200,
        b"x" * 100_000,
    ],
)
def test_a_line_that_says_something_else(folder: Folder, tmp_path: Path, line: bytes) -> None:
    write_checkpoint(folder, NOTED)
    right, content = written(tmp_path)
    (tmp_path / "checkpoint").write_bytes(line.replace(b"@", right[7:]) + b"\n" + content)
    assert read_checkpoint(folder, BASE) is None


def test_content_that_was_altered(folder: Folder, tmp_path: Path) -> None:
    write_checkpoint(folder, NOTED)
    line, content = written(tmp_path)
    (tmp_path / "checkpoint").write_bytes(line + b"\n" + content.replace(b"312", b"313"))
    assert read_checkpoint(folder, BASE) is None
