"""What a configuration file may say, and how it is told what it may not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstored import config
from imgstored.config_text import faults, lines
from imgstored.effective import effective, toml
from imgstored.errors import ConfigError
from tests.support.without import environment


def test_every_key_has_a_default():
    loaded = config.parse("")
    assert loaded == config.load() == config.Config()
    (pool,) = loaded.pools
    assert (pool.type, pool.name) == ("embedded", "zones")
    assert loaded.pool_folder(pool) == Path(loaded.state, "pool")
    assert loaded.imgadm_folder == Path(loaded.state, "imgadm")
    assert loaded.imgadm_locks_folder == Path(loaded.state, "locks")
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


def test_one_pool_or_several():
    assert config.parse("[pool]\n").pools == config.parse("[[pool]]\n").pools
    loaded = config.parse(
        'state = "/s"\n[[pool]]\nname = "b"\n[[pool]]\nname = "a"\n[[pool]]\nname = "c"\npath = "/c"\n'
    )
    assert [table.name for table in loaded.pools] == ["b", "a", "c"]
    assert [str(loaded.pool_folder(table)) for table in loaded.pools] == ["/s/pool", "/s/pool-a", "/c"]


def test_with_a_zfs_pool_imgadms_folders_are_its_own():
    zfs = '[[pool]]\nname = "mine"\n[[pool]]\ntype = "zfs"\nproperties = { compression = "lz4" }\n'
    loaded = config.parse(zfs)
    assert loaded.pools[1].properties == {"compression": "lz4"}
    assert loaded.imgadm_folder == Path("/var/imgadm")
    assert loaded.imgadm_locks_folder == Path("/var/run")
    named = config.parse('imgadm = "/i"\nimgadm_locks = "/l"\n' + zfs)
    assert (named.imgadm_folder, named.imgadm_locks_folder) == (Path("/i"), Path("/l"))


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
        ("pool = 3", "pool: expected object | array, got int"),
        ("pool = []", "pool: expected array of length >= 1"),
        ("[pool]\ntype = 'ext4'", "pool.type: invalid enum value 'ext4'"),
        ("[[pool]]\n[[pool]]\nname = 'a/b'", "pool[1].name: expected str matching regex"),
        ("[[pool]]\ncolour = 'red'", "unknown key: pool[0].colour"),
        ("[[pool]]\n[[pool]]", 'pool[0].name: 2 pools are named "zones"'),
        ("[[pool]]\ntype = 'zfs'\n[[pool]]", 'pool[0].name: 2 pools are named "zones"'),
        ("[pool]\nproperties = {}", 'pool.properties: a pool of type "embedded" has no such key'),
        ("[[pool]]\ntype = 'zfs'\npath = '/x'", 'pool[0].path: a pool of type "zfs" has no such key'),
        ("[pool]\ntype = 'zfs'\nproperties = {readonly = true}", "pool.properties[...]: expected str"),
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
        config.load(first, second)
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
        config.parse('state = "here"\nimgadm = "there"\n[[pool]]\n[[pool]]\n')
    assert [fault.message.split(":")[0] for fault in caught.value.all_faults()] == [
        "state",
        "imgadm",
        "pool[0].name",
        "pool[0].path",
    ]


TABLES = st.recursive(
    st.integers() | st.booleans() | st.text(max_size=5) | st.lists(st.integers(), max_size=2),
    lambda below: st.dictionaries(st.sampled_from(["a", "b c", "x.y", "url"]), below, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from([*config.Config.__struct_fields__, "other"]), TABLES, max_size=4))
def test_there_is_a_fault_wherever_msgspec_sees_one(document):
    """What looks for all of them must see what the library sees, and nothing else."""
    try:
        msgspec.convert(document, config.Config)
    except msgspec.ValidationError:
        assert faults(document, config.Config)
    else:
        assert faults(document, config.Config) == []


def test_each_key_has_its_line():
    text = (
        'state = """\n/a\n"""\n[limits]  # one\ntries = 1\n\n[socket]\npath = "/s"\n'
        '[[sources]]\nurl = "a"\n  [sources.headers]\n  "x y" = "1"\n'
        '[[sources]]\nurl = "b"\nkeys = [\n"1",\n]\n'
        "view.mode = 'off'\n"
    )
    found = lines(text.replace("view.mode", "ca_file"))
    assert {key: found[key] for key in ("state", "limits", "limits.tries", "socket.path")} == {
        "state": 1,
        "limits": 4,
        "limits.tries": 5,
        "socket.path": 8,
    }
    assert (found["sources[0].url"], found["sources[0].headers.x y"]) == (10, 12)
    assert (found["sources[1]"], found["sources[1].url"], found["sources[1].keys"]) == (13, 14, 15)
    assert lines("view.mode = 'off'") == {"view": 1, "view.mode": 1}


# -- what the host must have ---------------------------------------------------------------------------------


def checked(tmp_path, text: str, without=()) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "imgstored.toml"
    file.write_text(f'state = "{tmp_path}/state"\n{text}')
    return subprocess.run(
        [sys.executable, "-m", "imgstored", "--config", str(file), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(*without),
    )


@pytest.mark.parametrize(
    ("text", "without", "said"),
    [
        ('view.mode = "fuse"', ["pyfuse3"], "FUSE is not possible here: "),
        ('metrics.listen = "127.0.0.1:1"', ["prometheus_client"], "metrics.listen: the Python package prom"),
        ('serve.listen = "127.0.0.1:1"', ["werkzeug"], "serve.listen: the Python package werkzeug"),
        ('serve.listen = "127.0.0.1:1"', ["jinja2"], "serve.listen: the Python package jinja2"),
        ('socket.group = "nobodys"', [], 'socket.group: there is no group "nobodys"'),
        (
            '[serve]\nlisten = "127.0.0.1:1"\ncert_file = "/none.pem"\nkeys.ada = "/none.pub"',
            [],
            "serve.cert_file: /none.pem cannot be used",
        ),
        ('[pool]\ntype = "zfs"\nname = "tank"', [], 'pool "tank": '),
    ],
)
def test_what_would_not_start_does_not_pass(tmp_path, text, without, said):
    """As with these settings the daemon itself does not: tests/e2e/test_without.py."""
    done = checked(tmp_path, text, without)
    assert said in done.stderr
    assert done.stderr.count("hint: ") >= 1
    assert done.returncode in (1, os.EX_CONFIG)
    assert not (tmp_path / "state").exists()


def test_all_that_is_missing_is_named_at_once(tmp_path):
    text = 'platform = "x"\n[view]\nmode = "fuse"\n[socket]\ngroup = "nobodys"\n[metrics]\nlisten = "::1:x"\n'
    done = checked(tmp_path, text, ["pyfuse3"])
    assert done.returncode == os.EX_CONFIG
    said = [line for line in done.stderr.splitlines() if line.startswith("imgstored: error ")]
    assert len(said) == 4
    assert len(set(said)) == 4


# -- what holds ----------------------------------------------------------------------------------------------


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
    settings = config.load(file)
    assert config.parse("\n".join(toml(effective(settings, [file])))) == settings
