from __future__ import annotations

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgstored.errors import ConfigError
from imgstored.sources.base import SourceSpec
from imgstored.sources.imgadm_conf import ImgadmConf

DEFAULT = SourceSpec("https://images.smartos.org")
NEW = SourceSpec("http://new", "static", insecure=True)


@pytest.fixture
def conf(tmp_path):
    return ImgadmConf(tmp_path / "imgadm" / "imgadm.conf")


def write(conf: ImgadmConf, content: object) -> None:
    conf.path.parent.mkdir(exist_ok=True)
    conf.path.write_text(content if isinstance(content, str) else json.dumps(content))


def read(conf: ImgadmConf) -> object:
    return json.loads(conf.path.read_text())


def test_no_file_says_nothing_of_sources(conf):
    assert conf.sources() is None
    write(conf, {"upgradedToVer": "3.0.0"})
    assert conf.sources() is None
    write(conf, {"sources": []})
    assert conf.sources() == []


def test_the_default_is_written_down_before_the_first_of_ones_own(conf):
    assert conf.add(NEW, default=DEFAULT)
    assert conf.path.read_text() == json.dumps(
        {
            "sources": [
                {"type": "imgapi", "url": "https://images.smartos.org"},
                {"type": "static", "url": "http://new", "insecure": True},
            ]
        },
        indent=2,
    )
    assert conf.sources() == [DEFAULT, NEW]
    assert not conf.add(NEW, default=DEFAULT)
    assert [path.name for path in conf.path.parent.iterdir()] == ["imgadm.conf"]


def test_the_default_itself_is_there_already(conf):
    assert not conf.add(DEFAULT, default=DEFAULT)
    assert not conf.path.exists()
    assert conf.delete(DEFAULT.url, default=DEFAULT) == [DEFAULT]
    assert read(conf) == {"sources": []}


def test_what_is_not_ours_is_kept(conf):
    docker = {"type": "docker", "url": "https://docker.io", "note": [1]}
    old = {"url": "https://old.example/datasets/", "mine": {"x": "é"}}
    write(conf, {"dockerImportSkipUuids": True, "sources": [docker, old], "userAgentExtra": "x", "new": None})
    assert conf.sources() == [SourceSpec("https://old.example/datasets", "dsapi")]
    assert conf.add(NEW, default=DEFAULT)
    assert read(conf) == {
        "dockerImportSkipUuids": True,
        "sources": [docker, old, {"type": "static", "url": "http://new", "insecure": True}],
        "userAgentExtra": "x",
        "new": None,
    }
    assert conf.delete("http://new", default=DEFAULT) == [NEW]
    assert conf.delete("http://new", default=DEFAULT) == []
    assert [spec.type for spec in conf.delete("https://docker.io", default=None)] == ["docker"]
    assert read(conf)["sources"] == [old]


def test_all_with_the_same_url_are_deleted(conf):
    entries = [
        {"type": "imgapi", "url": "http://h:80/"},
        {"type": "static", "url": "http://h"},
        {"type": "imgapi", "url": "http://h?channel=dev"},
        {"type": "imgapi", "url": "http://h", "channel": "dev"},
    ]
    write(conf, {"sources": entries})
    assert len(conf.delete("http://h", default=None)) == 3
    assert read(conf) == {"sources": entries[2:3]}


@pytest.mark.parametrize(
    ("url", "before", "after"),
    [
        ("http://h?channel=dev", None, 0o644),
        ("http://h?channel=dev", 0o644, 0o644),
        ("http://h?channel=dev&token=abcdef", None, 0o600),
        ("http://h?token=abcdef", 0o644, 0o600),
        ("http://h?token=abcdef", 0o400, 0o400),
    ],
)
def test_with_a_secret_in_it_nobody_else_may_read_it(conf, url, before, after):
    if before is not None:
        write(conf, {})
        conf.path.chmod(before)
    conf.add(SourceSpec(url), default=None)
    assert conf.path.stat().st_mode & 0o777 == after
    assert conf.has_secrets() == ("token" in url)


def test_a_secret_of_a_source_that_only_imgadm_asks_counts(conf):
    write(conf, {"sources": [{"type": "docker", "url": "https://u:passw0rd@docker.io"}]})
    conf.path.chmod(0o644)
    conf.add(DEFAULT, default=None)
    assert conf.path.stat().st_mode & 0o777 == 0o600


def test_mode_and_link_of_the_file_stay(conf, tmp_path):
    real = tmp_path / "persistent.conf"
    real.write_text("{}")
    real.chmod(0o640)
    conf.path.parent.mkdir()
    conf.path.symlink_to(real)
    conf.add(NEW, default=None)
    assert conf.path.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert conf.sources() == [NEW]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not a JSON object"),
        ("\0" * (2 << 20), "larger than"),
        ({"sources": {}}, '"sources" is not an array'),
        ({"sources": ["http://h"]}, '"sources" is not an array of objects'),
        ({"sources": [{"type": "imgapi"}]}, 'the "url" of a source'),
        ({"sources": [{"url": 7}]}, 'the "url" of a source'),
        ({"sources": [{"url": "http://h", "insecure": "false"}]}, 'the "insecure" of a source'),
        ({"sources": [{"url": "http://h", "channel": 1}]}, 'the "channel" of a source'),
        ({"sources": [{"url": "http://h#x"}]}, "fragment"),
        ({"sources": [{"url": "http://h", "type": "ftp"}]}, 'must be one of "imgapi", "dsapi", "static"'),
        ({"sources": [{"url": "http://h", "type": []}]}, "must be one of"),
    ],
)
def test_what_cannot_be_read_is_said_and_never_overwritten(conf, content, words):
    write(conf, content)
    before = conf.path.read_bytes()
    for use in (
        conf.sources,
        lambda: conf.add(NEW, default=None),
        lambda: conf.delete("http://h", default=None),
    ):
        with pytest.raises(ConfigError, match=words):
            use()
    assert conf.path.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_said(conf):
    conf.path.parent.write_text("not a folder")
    with pytest.raises(ConfigError, match=r"imgadm\.conf"):
        conf.add(NEW, default=None)


def test_a_crash_before_the_rename_leaves_the_old_file(conf, monkeypatch):
    write(conf, {"sources": []})

    def crash(fd: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(ConfigError, match="No space left"):
        conf.add(NEW, default=None)
    assert read(conf) == {"sources": []}
    assert [path.name for path in conf.path.parent.iterdir()] == ["imgadm.conf"]


_VALUES = st.none() | st.booleans() | st.text(max_size=6) | st.lists(st.integers(), max_size=2)
_ENTRIES = st.dictionaries(st.sampled_from(["url", "type", "insecure", "channel", "x"]), _VALUES) | st.builds(
    lambda url, more: {"url": url, **more},
    st.sampled_from(["http://a", "https://b/datasets", "c/?channel=x", "http://new/"]),
    st.fixed_dictionaries({}, optional={"type": st.sampled_from(["static", "docker"]), "x": _VALUES}),
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=3), _VALUES), st.none() | st.lists(_ENTRIES, max_size=3) | _VALUES)
def test_adding_and_deleting_changes_nothing_else(conf, others, sources):
    write(conf, {**others, "sources": sources})
    before = read(conf)
    try:
        known = conf.sources() or []
        added = conf.add(NEW, default=None)
    except ConfigError:
        assert read(conf) == before
        return
    assert added
    assert conf.sources() == [*known, NEW]
    conf.delete(NEW.url, default=None)
    kept = [entry for entry in before["sources"] or [] if entry["url"].rstrip("/") != NEW.url]
    assert read(conf) == {**before, "sources": kept}


def test_replacing_keeps_what_it_does_not_know(tmp_path):
    path = tmp_path / "imgadm.conf"
    known = {"type": "imgapi", "url": "http://a", "note": "ours"}
    docker = {"type": "docker", "url": "https://docker.io"}
    path.write_text(json.dumps({"sources": [docker, known], "userAgentExtra": "x"}))
    ImgadmConf(path).replace([SourceSpec("http://b"), SourceSpec("http://a")], default=None)
    assert json.loads(path.read_text()) == {
        "sources": [{"type": "imgapi", "url": "http://b"}, known, docker],
        "userAgentExtra": "x",
    }


def test_replacing_by_the_same_writes_nothing(tmp_path):
    path = tmp_path / "imgadm.conf"
    path.write_text('{"sources": [{"type": "imgapi", "url": "http://a"}]}')
    before = path.stat().st_mtime_ns, path.read_text()
    ImgadmConf(path).replace([SourceSpec("http://a")], default=None)
    assert (path.stat().st_mtime_ns, path.read_text()) == before
