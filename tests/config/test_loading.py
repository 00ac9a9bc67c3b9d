"""What a configuration file may say, and how it is told what it may not."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored.config import loading, tables
from imgstored.errors import ConfigError


def test_every_key_has_a_default():
    loaded = loading.parse("")
    assert loaded == loading.load() == tables.Config()
    (pool,) = loaded.pools
    assert (pool.type, pool.name) == ("embedded", "zones")
    assert loaded.pool_folder(pool) == Path(loaded.state, "pool")
    assert loaded.imgadm_folder == Path(loaded.state, "imgadm")
    assert loaded.imgadm_locks_folder == Path(loaded.state, "locks")
    assert loaded.sources is None


def test_what_is_said_is_taken():
    loaded = loading.parse(
        'state = "/tmp/x"\nimgadm = "/var/imgadm"\n[socket]\nmode = 0o660\ngroup = "staff"\n'
        '[[sources]]\nurl = "https://images.example.org"\nheaders = { Authorization = "Basic x" }\n'
        "[limits]\nconnections = 2\nsilence_seconds = 5\n"
    )
    assert loaded.imgadm_folder == Path("/var/imgadm")
    assert loaded.socket.mode == 0o660
    assert loaded.sources is not None
    assert loaded.sources[0].headers == {"Authorization": "Basic x"}
    assert (loaded.limits.connections, loaded.limits.silence_seconds) == (2, 5.0)


def test_one_pool_or_several():
    assert loading.parse("[pool]\n").pools == loading.parse("[[pool]]\n").pools
    loaded = loading.parse(
        'state = "/s"\n[[pool]]\nname = "b"\n[[pool]]\nname = "a"\n[[pool]]\nname = "c"\npath = "/c"\n'
    )
    assert [table.name for table in loaded.pools] == ["b", "a", "c"]
    assert [str(loaded.pool_folder(table)) for table in loaded.pools] == ["/s/pool", "/s/pool-a", "/c"]


def test_with_a_zfs_pool_imgadms_folders_are_its_own():
    zfs = '[[pool]]\nname = "mine"\n[[pool]]\ntype = "zfs"\nproperties = { compression = "lz4" }\n'
    loaded = loading.parse(zfs)
    assert loaded.pools[1].properties == {"compression": "lz4"}
    assert loaded.imgadm_folder == Path("/var/imgadm")
    assert loaded.imgadm_locks_folder == Path("/var/run")
    named = loading.parse('imgadm = "/i"\nimgadm_locks = "/l"\n' + zfs)
    assert (named.imgadm_folder, named.imgadm_locks_folder) == (Path("/i"), Path("/l"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense = 1", "unknown key: nonsense"),
        ("[limits]\nspeed = 1", "unknown key: limits.speed"),
        ("[[sources]]\nurl = 'x'\ncolour = 'red'", "unknown key: sources[0].colour"),
        ("[limits]\ntries = 'five'", "limits.tries: expected an integer, got text"),
        ("[limits]\nimports = 0", "limits.imports: expected an integer >= 1"),
        ("limits = 3", "limits: expected a table, got an integer"),
        ("[[sources]]\ntype = 'static'", "missing key: sources[0].url"),
        ("[[sources]]\nurl = 'x'\ntype = 'ftp'", "sources[0].type: invalid enum value 'ftp'"),
        ("[pool]\nname = '../zones'", "pool.name: expected text matching regex"),
        ("[limits]\nconnect_seconds = inf", "limits.connect_seconds: expected a number <= 31536000"),
        ("[sources]\nurl = 'x'", "sources: expected a list of tables"),
        ("[[limits]]\ntries = 3", "limits: expected a table, got a list"),
        ("[[sources]]\nurl = 'x'\nheaders = 3", "sources[0].headers: expected a table, got an integer"),
        ("pool = 3", "pool: expected a table or a list, got an integer"),
        ("pool = []", "pool: expected a list of length >= 1"),
        ("[pool]\ntype = 'ext4'", "pool.type: invalid enum value 'ext4'"),
        ("[[pool]]\n[[pool]]\nname = 'a/b'", "pool[1].name: expected text matching regex"),
        ("[[pool]]\ncolour = 'red'", "unknown key: pool[0].colour"),
        ("[[pool]]\n[[pool]]", 'pool[0].name: 2 pools are named "zones"'),
        ("[[pool]]\ntype = 'zfs'\n[[pool]]", 'pool[0].name: 2 pools are named "zones"'),
        ("[pool]\nproperties = {}", 'pool.properties: a pool of type "embedded" has no such key'),
        ("[[pool]]\ntype = 'zfs'\npath = '/x'", 'pool[0].path: a pool of type "zfs" has no such key'),
        ("[pool]\ntype = 'zfs'\nproperties = {readonly = true}", "pool.properties[...]: expected text"),
        ("[[pool]]\npath = 'x'", "pool[0].path: not an absolute path: 'x'"),
        (
            "[[pool]]\npath = '/x'\n[[pool]]\nname = 'a'\npath = '/y/../x/'",
            "pool[0].path: another pool has the folder /x, too",
        ),
        (
            "state = '/s'\n[[pool]]\n[[pool]]\nname = 'a'\npath = '/s/pool'",
            "pool[0].path: another pool has the folder /s/pool, too",
        ),
        ("imgadm_locks = 'run'", "imgadm_locks: not an absolute path: 'run'"),
        ("state = 'here'", "state: not an absolute path: 'here'"),
        ("[view]\npath = 'images'", "view.path: not an absolute path"),
        ("x ==", "not TOML: "),
        (f"x = {'9' * 5000}", "not TOML: "),
        (f"x = {'[' * 5000}{']' * 5000}", "not TOML: "),
        (
            f"[limits]\nkeep_partial_days = {'9' * 400}",
            "not TOML: limits.keep_partial_days: an integer of more than 64 bits",
        ),
        (
            f"[limits]\nkeep_partial_days = {1 << 63}",
            "not TOML: limits.keep_partial_days: an integer of more than 64 bits",
        ),
    ],
)
def test_what_is_wrong_is_named(text, said):
    with pytest.raises(ConfigError) as caught:
        loading.parse(text)
    assert caught.value.message.startswith(said)
    assert caught.value.hint


@settings(max_examples=200)
@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_an_error(text):
    with suppress(ConfigError):
        assert isinstance(loading.parse(text), tables.Config)


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
    assert refused.returncode == os.EX_CONFIG
    assert "error (ConfigError): sources[0]: " in refused.stderr
    file.write_text("[[sources]]\nurl = 'https://x'\nkey_file = '/k'\n")
    refused = imgstored("--config", str(file), "--check")
    assert refused.returncode == os.EX_CONFIG
    assert "error (ConfigError): sources[0]: key_file without cert_file" in refused.stderr
    file.write_text("[[pool]]\ntype = 'zfs'\nproperties = { compression = 'lz9' }\n")
    refused = imgstored("--config", str(file), "--check")
    assert refused.returncode == os.EX_CONFIG
    assert 'pool[0].properties: the property "compression" cannot be "lz9"' in refused.stderr
    missing = imgstored("--config", str(tmp_path / "none.toml"))
    assert missing.returncode == os.EX_CONFIG
    assert "none.toml: cannot be read: No such file or directory" in missing.stderr
    assert "hint: " in missing.stderr


def test_the_program_says_its_version():
    result = imgstored("--version")
    assert (result.returncode, result.stdout.split()[0]) == (0, "imgstored")


# -- all at once, with lines, and what was meant -----------------------------------------------------------


def test_all_faults_of_all_files_are_named_at_once_with_their_lines(tmp_path):
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text(
        '# two lines\nlimts = {}\n\n[limits]\nimports = 2\n"tries" = "x"\nmin_rate = -1\n\n'
        '[[sources]]\nurl = "https://a"\n[[sources]]\ntype = "imgpi"\nurl = "https://b"\n'
    )
    second.write_text('[view]\nmode = "fues"\n[[pool]]\n[[pool]]\nproperties = { a = 1 }\n')
    with pytest.raises(ConfigError) as caught:
        loading.load(first, second)
    said = {fault.message: fault.hint for fault in caught.value.all_faults()}
    assert said[f"{first}:2: unknown key: limts"].startswith("did you mean `limits`? There are: state, ")
    assert said[f"{first}:12: sources[1].type: invalid enum value 'imgpi'"] == (
        "did you mean `imgapi`? There are: dsapi, imgapi, oci, static"
    )
    assert said[f"{second}:2: view.mode: invalid enum value 'fues'"].startswith("did you mean `fuse`?")
    assert {message.split(": ")[0] for message in said} == {
        *(f"{first}:{line}" for line in (2, 6, 7, 12)),
        *(f"{second}:{line}" for line in (2, 5)),
    }


def test_faults_of_more_than_one_key_come_all_at_once():
    with pytest.raises(ConfigError) as caught:
        loading.parse('state = "here"\nimgadm = "there"\n[[pool]]\n[[pool]]\n')
    assert [fault.message.split(":")[0] for fault in caught.value.all_faults()] == [
        "state",
        "imgadm",
        "pool[0].name",
        "pool[0].path",
    ]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[sources]\nurl = 'x'", "write [[sources]], one for each"),
        ("[[limits]]\ntries = 3", "write [limits]: there is one such table"),
    ],
)
def test_the_hint_says_how_tables_are_written(text, hint):
    with pytest.raises(ConfigError) as caught:
        loading.parse(text)
    assert caught.value.hint == hint
