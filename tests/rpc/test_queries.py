"""`resolve`, `plan`, `usage` and `history`: what reaches the services, and who may ask."""

from __future__ import annotations

import pytest

from imgstored.errors import ImgstoreError
from imgstored.rpc.dispatch import perform
from imgstored.rpc.methods.daemon import DEFAULT_ENTRIES
from tests.rpc.test_dispatch import READER, ROOT, call
from tests.rpc.test_methods import FakeSources, FakeStore, table

UUID = "11111111-aaaa-4bbb-8ccc-000000000001"


class Services:
    """All four, in one that records."""

    def __init__(self):
        self.calls = []

    async def resolve(self, names, among, *, pool=None, sources=None, channel=None):
        self.calls.append((names, among, pool, sources, channel))
        return ["resolved"]

    async def plan(self, uuid, *, pool=None, sources=None, channel=None):
        self.calls.append((uuid, pool, sources, channel))
        return {"plan": 1}

    async def usage(self, pool=None, uuids=()):
        self.calls.append((pool, uuids))
        return ["usage"]

    async def entries(self, uuid, limit):
        self.calls.append((uuid, limit))
        return ["entries"]


@pytest.fixture
def services():
    return Services()


async def ask(services, method, values, peer=ROOT):
    return await perform(call(method, values, peer), table(FakeStore(), FakeSources(), queries=services))


@pytest.mark.parametrize("peer", [ROOT, READER])
@pytest.mark.parametrize(
    ("method", "values", "called"),
    [
        ("resolve", {"names": ["base"], "among": "installed"}, (["base"], "installed", None, None, None)),
        ("resolve", {"names": [], "among": "a", "pool": "p", "channel": "c"}, ([], "a", "p", None, "c")),
        ("plan", {"uuid": UUID}, (UUID, None, None, None)),
        ("plan", {"uuid": UUID, "pool": "p", "channel": "c"}, (UUID, "p", None, "c")),
        ("usage", {}, (None, [])),
        ("usage", {"pool": "p", "uuids": [UUID]}, ("p", [UUID])),
        ("history", {}, (None, DEFAULT_ENTRIES)),
        ("history", {"uuid": UUID, "limit": 3}, (UUID, 3)),
    ],
)
async def test_everybody_may_ask(services, method, values, called, peer):
    assert not isinstance(await ask(services, method, values, peer), ImgstoreError)
    assert services.calls == [called]


@pytest.mark.parametrize("values", [{"names": ["base"], "among": "available"}, {"uuid": UUID}])
async def test_only_who_may_change_names_servers(services, values):
    method = "plan" if "uuid" in values else "resolve"
    values = {**values, "sources": ["http://10.0.0.1/"]}
    assert (await ask(services, method, values, READER)).code == "NotPermitted"
    assert services.calls == []
    await ask(services, method, values, ROOT)
    assert ["http://10.0.0.1/"] in services.calls[0]


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("resolve", {"names": "base", "among": "installed"}),
        ("resolve", {"names": ["base"]}),
        ("history", {"limit": "3"}),
        ("history", {"limit": True}),
        ("usage", {"uuids": UUID}),
    ],
)
async def test_a_wrong_parameter(services, method, values):
    assert (await ask(services, method, values)).code == "Usage"
    assert services.calls == []
