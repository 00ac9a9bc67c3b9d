"""No answer and no event has a secret; a source's URL, as a whole, is for root alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import quote

import msgpack
import pytest

from imgstored.errors import ActiveImageNotFoundError
from imgstored.http.secrets import KNOWN
from imgstored.rpc import wire
from imgstored.rpc.dispatch import encode_outcome, perform
from imgstored.rpc.peer import ChangeRights, Peer
from imgstored.rpc.wire import encode_error, encode_in_slices, encode_notification, encode_response
from tests.rpc.harness import method
from tests.rpc.test_dispatch import READER, ROOT, call
from tests.rpc.test_methods import FakeStore, table

SOURCE = {
    "url": "https://h/a?token=s3cret&channel=dev",
    "type": "imgapi",
    "insecure": False,
    "channel": "dev",
}


GROUP = 65000
MEMBER = Peer(1001, 1, frozenset({1001, GROUP}))


class FakeSources:
    async def listed(self):
        return [dict(SOURCE)]

    async def add(self, *_):
        return {"added": True, "source": dict(SOURCE)}

    async def delete(self, url):
        return {"deleted": [dict(SOURCE)]}

    async def replace(self, given, *, before, force, told):
        assert [told(SOURCE["url"])] == [each["url"] for each in before]
        return {"reordered": False, "added": [dict(SOURCE)], "deleted": [dict(SOURCE)]}


@pytest.mark.parametrize(
    ("peer", "url"),
    [(READER, "https://h/a?channel=dev"), (MEMBER, "https://h/a?channel=dev"), (ROOT, SOURCE["url"])],
)
async def test_only_root_sees_all_of_a_sources_url(peer, url):
    KNOWN.configure(["s3cret"])
    told = {**SOURCE, "url": url}
    answers = {
        "sources.list": ({}, [told]),
        "sources.add": ({"url": "x"}, {"added": True, "source": told}),
        "sources.delete": ({"url": "x"}, {"deleted": [told]}),
        "sources.set": (
            {"sources": [], "before": [{"url": url}]},
            {"reordered": False, "added": [told], "deleted": [told]},
        ),
    }
    for name, (params, answer) in answers.items():
        if peer is READER and name != "sources.list":
            continue
        request = call(name, params, peer=peer)
        request.access = ChangeRights(0, "admins", GROUP)
        outcome = await perform(request, table(FakeStore(), FakeSources()))
        _, _, error, result = msgpack.unpackb(encode_outcome(request, outcome))
        assert (error, result) == (None, answer), name


SECRET = "k3y/w\u00f6rd"


@pytest.mark.parametrize(
    "sent",
    [
        lambda value: encode_response(1, value),
        lambda value: b"".join(encode_in_slices(1, value)),
        lambda value: b"".join(
            encode_in_slices(
                1, [value, {"images": [value] * 100, value if isinstance(value, str) else "x": 1}]
            )
        ),
        lambda value: encode_error(1, {"message": value}),
        lambda value: encode_error(None, {"data": [value]}),
        lambda value: encode_notification("event", {"event": "note", "text": value}),
    ],
)
@pytest.mark.parametrize("place", [lambda text: text, lambda text: {text: [{"a": (text, 1)}]}])
def test_whatever_is_sent_passes_the_gate(sent, place):
    KNOWN.configure([SECRET])
    for spelt in (SECRET, quote(SECRET, safe=""), json.dumps(SECRET)[1:-1]):
        data = sent(place(f"no {spelt}!"))
        assert b"k3y" not in data
        assert "no (hidden)!" in str(msgpack.unpackb(data))


def test_all_parts_of_one_answer_share_the_bound_on_what_is_looked_at():
    """Each part by itself has little; a server that sends a list of nothing else would take minutes."""
    KNOWN.configure(["k3y/abcdef+efg"])
    text = "abcdef" + "x" * 1000
    answer = msgpack.unpackb(b"".join(encode_in_slices(1, [{"name": text}] * 5000)))[3]
    assert answer[0] == {"name": text}
    assert answer[-1] == {"name": "(hidden)"}


def test_a_password_that_is_a_word_of_the_protocol_breaks_no_message():
    KNOWN.configure(["installed", "images", "event", "status", "imgapi", "import", "failed"])
    event = {"event": "installed", "uuid": "u", "status": "ok", "text": "is installed"}
    told = msgpack.unpackb(encode_notification("event", event))
    assert told == [2, "event", [{**event, "text": "is (hidden)"}]]
    entry = {"action": "import", "outcome": "failed", "type": "imgapi", "images": []}
    assert msgpack.unpackb(encode_response(1, entry)) == [1, 1, None, entry]


def test_only_one_function_encodes_what_is_sent():
    """The gate is in `wire`: no other module makes bytes of messages."""
    users = [
        path.name
        for path in Path(wire.__file__).parent.rglob("*.py")
        if re.search(r"\bpackb\b|\bPacker\b", path.read_text())
    ]
    assert users == ["wire.py"]
    text = Path(wire.__file__).read_text()
    assert text.count("packb(") == 2  # the other one is `unpackb(`
    # Other packers make headers of arrays and maps, and nothing that has a text.
    assert set(re.findall(r"packer\.(\w+)", text)) == {"pack_array_header", "pack_map_header"}


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
