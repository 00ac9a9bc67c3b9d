"""Content that is realistic, and the same every time."""

from __future__ import annotations

import pytest

from bench.content import usr_content


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"1" * 1000)
    (tmp_path / "a" / "two").write_bytes(b"2" * 10)
    (tmp_path / "b" / "three").write_bytes(b"3" * 100)
    (tmp_path / "b" / "link").symlink_to("three")
    (tmp_path / "b" / "gone").symlink_to("nothing")
    return tmp_path


def test_every_plain_file_is_in_it_once_before_it_begins_again(tree):
    content = b"".join(usr_content(1110, tree))
    assert sorted(content) == sorted(b"1" * 1000 + b"2" * 10 + b"3" * 100)
    assert b"".join(usr_content(2500, tree)) == (content * 3)[:2500]


def test_nothing_to_read_is_an_error(tmp_path):
    with pytest.raises(OSError, match="nothing below"):
        list(usr_content(10, tmp_path))


def test_usr_has_what_it_takes():
    assert sum(map(len, usr_content(3_000_000))) == 3_000_000
