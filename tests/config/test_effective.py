"""The configuration that holds: `imgstored --show`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from imgstored.config import loading
from imgstored.config.effective import effective, toml


def imgstored(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "imgstored", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ,
    )


def shown(*arguments: str) -> str:
    done = imgstored(*arguments, "--show")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_who_reads_only_the_beginning_gets_that_and_no_traceback(tmp_path):
    path = tmp_path / "imgstored.toml"
    path.write_text(f'state = "{tmp_path}"\n')
    command = [sys.executable, "-m", "imgstored", "--config", str(path), "--show"]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_what_holds_is_shown_with_where_it_is_from(tmp_path):
    below, above = tmp_path / "below.toml", tmp_path / "above.toml"
    below.write_text(
        f'state = "{tmp_path}"\nsources = [{{ url = "https://a" }}, {{ url = "https://b" }}]\n'
        "[limits]\ntries = 7\n"
    )
    above.write_text(
        '[limits]\nimports = 3\n[[sources]]\nurl = "https://user:pa55word@c"\n'
        'headers = { Authorization = "Bearer abcdefghijklmnop" }\n'
        '[serve]\ntokens = { ada = "0123456789abcdefg" }\n'
    )
    arguments = ("--config", str(below), "--config", str(above))
    text = shown(*arguments)
    for line in (
        f'state = "{tmp_path}"  # {below}:1',
        f"tries = 7  # {below}:4",
        f"imports = 3  # {above}:2",
        "connections = 8  # default",
        "# imgadm =  # default",
        f'headers = {{ Authorization = "(hidden)" }}  # {above}:5',
        f'tokens = {{ ada = "(hidden)" }}  # {above}:7',
    ):
        assert line in text.splitlines()
    assert "pa55word" not in text
    assert "abcdefghijklmnop" not in text
    assert "0123456789" not in text
    values = {each["key"]: each for each in json.loads(shown(*arguments, "--json"))}
    assert values["limits.tries"] == {"key": "limits.tries", "value": 7, "from": f"{below}:4"}
    # All of `sources` is of the file that has it last: what it leaves out is a default there, too.
    assert values["sources[0].type"]["from"] == "default"
    assert "sources[1].url" not in values


@pytest.mark.parametrize(
    "text",
    [
        "",
        'state = "/a b\\u007f\\"ö"\n[pool]\ntype = "zfs"\nproperties = { "a:b" = "c", atime = "on" }\n',
        '[[pool]]\n[[pool]]\nname = "b"\n[socket]\nmode = 0o600\n'
        '[[sources]]\nurl = "https://a"\nkeys = ["x", "y"]\n'
        '[[mirror]]\nurl = "https://m"\n[[mirror]]\nurl = "https://n"\nnewest = 3\n',
        "sources = []\n",
    ],
)
def test_what_is_shown_means_the_same(tmp_path, text):
    file = tmp_path / "imgstored.toml"
    file.write_text(text)
    settings = loading.load(file)
    assert loading.parse("\n".join(toml(effective(settings, [file])))) == settings
