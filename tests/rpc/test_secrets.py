"""What a source's URL has that is secret is for those who may change the sources; an error's, for nobody."""

from __future__ import annotations

import msgpack
import pytest

from imgstored.errors import ActiveImageNotFoundError
from imgstored.rpc.dispatch import encode_outcome, perform
from tests.rpc.harness import method
from tests.rpc.test_dispatch import READER, ROOT, call
from tests.rpc.test_methods import FakeStore, table

SOURCE = {
    "url": "https://h/a?token=s3cret&channel=dev",
    "type": "imgapi",
    "insecure": False,
    "channel": "dev",
}


class FakeSources:
    async def listed(self):
        return [dict(SOURCE)]


@pytest.mark.parametrize(("peer", "url"), [(READER, "https://h/a?channel=dev"), (ROOT, SOURCE["url"])])
async def test_who_may_only_read_sees_no_secret(peer, url):
    listed = await perform(call("sources.list", peer=peer), table(FakeStore(), FakeSources()))
    assert listed == [{**SOURCE, "url": url}]


def test_an_error_tells_none_wherever_it_is():
    error = ActiveImageNotFoundError(
        "GET http://u:s3cret@h/a failed",
        hint="Authorization: Basic s3cret",
        data={"problems": [{"source": "http://h?token=s3cret", "error": {"status": 500, "hint": None}}]},
    )
    _, _, told, result = msgpack.unpackb(encode_outcome(call(), error))
    assert result is None
    assert told == {
        "code": "ActiveImageNotFound",
        "message": "GET http://h/a failed",
        "hint": "Authorization: (hidden)",
        "exit_status": 1,
        "data": {"problems": [{"source": "http://h", "error": {"status": 500, "hint": None}}]},
    }


async def test_every_outcome_is_timed():
    timed = []

    async def run(_):
        raise ActiveImageNotFoundError("no")

    methods = {"m": method(run), "change": method(run, change=True)}
    for name, peer in (("m", ROOT), ("change", READER), ("x" * 1000, ROOT)):
        await perform(call(name, peer=peer), methods, lambda *facts: timed.append(facts))
    assert [(name, outcome) for name, outcome, _ in timed] == [
        ("m", "ActiveImageNotFound"),
        ("change", "NotPermitted"),
        ("unknown", "Usage"),
    ]
    assert all(0 <= seconds < 60 for _, _, seconds in timed)
