"""What is taken for a command in the documents, and what is put in place of the names that they use."""

from __future__ import annotations

import pytest

from tests.docs import pages
from tests.docs.pages import PAGES, Block, blocks, commands
from tests.docs.record import recorded
from tests.docs.sandbox import Sandbox

PAGE = """\
# A page

```console
$ cat <<END
> a
>
> b
END
a

b
$ true
```

<!-- not run: needs ZFS; tests/x.py::test_y -->
```console
$ zfs list
```

- in a list

  ```text
  $ not a command
  ```
"""


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(PAGES, "page.md", PAGE)
    return "page.md"


def test_blocks_and_why_they_are_not_run(page):
    found = blocks(page)
    assert [(each.line, each.language, each.reason) for each in found] == [
        (4, "console", None),
        (17, "console", "needs ZFS; tests/x.py::test_y"),
        (23, "text", None),
    ]
    assert found[2].text == "$ not a command"


def test_a_command_its_further_lines_and_its_output(page):
    first, second = commands(blocks(page)[0])
    assert (first.place, first.text, first.output) == ("page.md:4", "cat <<END\na\n\nb", "END\na\n\nb")
    assert (second.place, second.text, second.output) == ("page.md:12", "true", None)


def test_a_console_begins_with_a_command():
    with pytest.raises(ValueError, match="begins with"):
        commands(Block("page.md", 1, "console", "make test", None))


def test_names_are_put_in_place_where_they_are_whole(tmp_path):
    sandbox = Sandbox(tmp_path, with_source=False)
    sandbox._names = {"/images": "/x/tmp/images", "/tmp": "/x/tmp", "http://a.example": "http://127.0.0.1:1"}
    for written, real in {
        "ls /images /images/by-name": "ls /x/tmp/images /x/tmp/images/by-name",
        "path=/images": "path=/x/tmp/images",
        "ls /images-old /var/images": "ls /images-old /var/images",
        "curl http://a.example/images": "curl http://127.0.0.1:1/images",
        "cp /tmp/a '/tmp'": "cp /x/tmp/a '/x/tmp'",
    }.items():
        assert sandbox._put_in(written) == real
        assert sandbox._put_back(real) == written


@pytest.mark.slow
def test_a_page_is_recorded(monkeypatch):
    text = "```console\n$ echo two\none\n$ echo three\nthr...\n$ imgctl list -H -o name\n```\n"
    monkeypatch.setitem(pages.PAGES, "page.md", text)
    assert recorded("page.md") == text.replace("\none\n", "\ntwo\n")


def test_the_readme_can_be_read_in_five_minutes():
    assert PAGES["README.md"].count("\n") <= 150
