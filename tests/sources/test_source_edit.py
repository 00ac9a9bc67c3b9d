"""A list of sources that somebody edited."""

from __future__ import annotations

import json

import pytest

from imgstored.errors import ClientError, ConfigError, UsageError
from imgstored.sources.base import SourceSpec
from imgstored.sources.imgadm_conf import ImgadmConf
from imgstored.sources.source_edit import changes, each_once, others, spec_of

A, B, C = (SourceSpec(f"http://{name}") for name in "abc")


@pytest.mark.parametrize(
    ("now", "wanted", "reordered", "added", "deleted"),
    [
        ([A, B], [A, B], False, [], []),
        ([A, B], [B, A], True, [], []),
        ([A, B], [B], False, [], [A]),
        ([A], [B, A], False, [B], []),
        ([A, B], [C, B, A], True, [C], []),
        ([A, B], [], False, [], [A, B]),
        ([A], [SourceSpec("http://a", insecure=True)], False, [SourceSpec("http://a", insecure=True)], [A]),
    ],
)
def test_what_was_done(now, wanted, reordered, added, deleted):
    done = changes(now, wanted)
    assert (done.reordered, done.added, done.deleted) == (reordered, added, deleted)


def test_those_of_the_configuration_stay_there():
    assert others([B, A, C], [A]) == [B, C]
    with pytest.raises(ConfigError, match="is set in imgstored's configuration file"):
        others([B], [A])


def test_a_source_that_is_named_twice_is_one():
    assert each_once([A, B, A]) == [A, B]


def test_what_a_client_says_of_a_source():
    assert spec_of({"url": "a/"}) == A
    assert spec_of({"url": "http://a", "type": "dsapi", "insecure": True, "channel": None}) == SourceSpec(
        "http://a", "dsapi", insecure=True
    )
    assert spec_of({"url": "a", "channel": "dev"}) == SourceSpec("http://a", channel="dev")
    # As it is listed: the channel of a URL is said once more.
    assert spec_of({"url": "a?channel=dev", "channel": "dev"}) == SourceSpec("http://a?channel=dev")


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        ({}, UsageError),
        ({"url": 5}, UsageError),
        ({"url": "a", "type": 1}, UsageError),
        ({"url": "a", "channel": ["x"]}, UsageError),
        ({"url": "a", "type": "ftp"}, ConfigError),
        ({"url": "ftp://a"}, ClientError),
    ],
)
def test_what_is_no_source_is_refused(wire, error):
    with pytest.raises(error):
        spec_of(wire)


def test_replacing_keeps_what_it_does_not_know(tmp_path):
    path = tmp_path / "imgadm.conf"
    known = {"type": "imgapi", "url": "http://a", "note": "ours"}
    docker = {"type": "docker", "url": "https://docker.io"}
    path.write_text(json.dumps({"sources": [docker, known], "userAgentExtra": "x"}))
    ImgadmConf(path).replace([B, A], default=None)
    assert json.loads(path.read_text()) == {
        "sources": [{"type": "imgapi", "url": "http://b"}, known, docker],
        "userAgentExtra": "x",
    }


def test_replacing_by_the_same_writes_nothing(tmp_path):
    path = tmp_path / "imgadm.conf"
    path.write_text('{"sources": [{"type": "imgapi", "url": "http://a"}]}')
    before = path.stat().st_mtime_ns, path.read_text()
    ImgadmConf(path).replace([A], default=None)
    assert (path.stat().st_mtime_ns, path.read_text()) == before
