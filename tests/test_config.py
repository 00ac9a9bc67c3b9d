"""What a configuration file may say, and how it is told what it may not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored import config
from imgstored.errors import ConfigError


def test_every_key_has_a_default():
    loaded = config.parse("")
    assert loaded == config.load(None) == config.Config()
    assert loaded.pool.name == "zones"
    assert loaded.pool_folder == Path(loaded.state, "pool")
    assert loaded.sources is None


def test_what_is_said_is_taken():
    loaded = config.parse(
        'state = "/tmp/x"\nimgadm = "/var/imgadm"\n[socket]\nmode = 0o660\ngroup = "staff"\n'
        '[[sources]]\nurl = "https://images.example.org"\nheaders = { Authorization = "Basic x" }\n'
        "[limits]\nconnections = 2\nsilence_seconds = 5\n"
    )
    assert loaded.imgadm_folder == Path("/var/imgadm")
    assert loaded.socket.mode == 0o660
    assert loaded.sources is not None
    assert loaded.sources[0].headers == {"Authorization": "Basic x"}
    assert (loaded.limits.connections, loaded.limits.silence_seconds) == (2, 5.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense = 1", "unknown key: nonsense"),
        ("[limits]\nspeed = 1", "unknown key: limits.speed"),
        ("[[sources]]\nurl = 'x'\ncolour = 'red'", "unknown key: sources[0].colour"),
        ("[limits]\ntries = 'five'", "limits.tries: expected int, got str"),
        ("[limits]\nimports = 0", "limits.imports: expected int >= 1"),
        ("limits = 3", "limits: expected object, got int"),
        ("[[sources]]\ntype = 'static'", "missing key: sources[0].url"),
        ("[[sources]]\nurl = 'x'\ntype = 'ftp'", "sources[0].type: invalid enum value 'ftp'"),
        ("[pool]\nname = '../zones'", "pool.name: expected str matching regex"),
        ("state = 'here'", "state: not an absolute path: 'here'"),
        ("[view]\npath = 'images'", "view.path: not an absolute path"),
        ("x ==", "not TOML: "),
    ],
)
def test_what_is_wrong_is_named(text, said):
    with pytest.raises(ConfigError) as caught:
        config.parse(text)
    assert caught.value.message.startswith(said)
    assert caught.value.hint


@settings(max_examples=200)
@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_an_error(text):
    with suppress(ConfigError):
        assert isinstance(config.parse(text), config.Config)


def imgstored(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "imgstored", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ,
    )


def test_the_program_checks_a_file_without_starting(tmp_path):
    file = tmp_path / "imgstored.toml"
    file.write_text(f'state = "{tmp_path}/state"\n')
    assert imgstored("--config", str(file), "--check").returncode == 0
    assert not (tmp_path / "state").exists()
    file.write_text('[[sources]]\nurl = "ftp://x"\n')
    refused = imgstored("--config", str(file), "--check")
    assert refused.returncode == 1
    assert "error (ConfigError): sources[0]: " in refused.stderr
    missing = imgstored("--config", str(tmp_path / "none.toml"))
    assert missing.returncode == 1
    assert "none.toml: cannot be read: No such file or directory" in missing.stderr
    assert "hint: " in missing.stderr


def test_the_program_says_its_version():
    result = imgstored("--version")
    assert (result.returncode, result.stdout.split()[0]) == (0, "imgstored")


def keys(table: type) -> set[str]:
    """The keys of a table."""
    return {field.name for field in msgspec.structs.fields(table)}


def test_every_key_is_documented_and_nothing_else():
    text = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text()
    tables = {
        "pool": config.PoolTable,
        "socket": config.SocketTable,
        "view": config.ViewTable,
        "sources": config.SourceTable,
        "limits": config.LimitsTable,
        "log": config.LogTable,
    }
    top, *sections = re.split(r"^## `\[+(\w+)\]+`$", text, flags=re.MULTILINE)
    documented = dict(zip(sections[::2], sections[1::2], strict=True))
    for name, table in tables.items():
        assert set(re.findall(r"^\| `(\w+)` \|", documented[name], re.MULTILINE)) == keys(table), name
    assert set(re.findall(r"^\| `(\w+)` \|", top, re.MULTILINE)) == keys(config.Config) - set(tables)
