"""Every method, asked by everybody: root, the daemon's user, a member of the group, and any other user."""

from __future__ import annotations

import pytest
from imgproto.operations import OPERATIONS

from imgstored.errors import NotPermittedError, UsageError
from imgstored.rpc.call import Call, Client, Method
from imgstored.rpc.dispatch import perform
from imgstored.rpc.peer import ChangeRights, Peer

DAEMON, GROUP = 777, 42
#: Whom each kind of method lets in.
MAY = {
    "read": {"root", "daemon", "member", "other"},
    "change": {"root", "daemon", "member"},
    "root": {"root", "daemon"},
}
PEERS = {
    "root": Peer(uid=0, pid=1, groups=frozenset({0})),
    "daemon": Peer(uid=DAEMON, pid=2, groups=frozenset({DAEMON})),
    "member": Peer(uid=1000, pid=3, groups=frozenset({1000, GROUP})),
    "other": Peer(uid=1001, pid=4, groups=frozenset({1001})),
}


async def _unheard(request, event):
    raise AssertionError((request, event))


def test_the_kinds_are_all_that_there_are():
    assert {operation.who for operation in OPERATIONS.values()} == MAY.keys()


@pytest.mark.parametrize("who", PEERS)
@pytest.mark.parametrize("name", OPERATIONS)
async def test_only_who_may_gets_to_a_method(name, who):
    operation = OPERATIONS[name]
    reached = []

    async def run(params, call):
        reached.append(params)

    call = Call(
        id=1,
        method=name,
        params={},
        client=Client(PEERS[who]),
        access=ChangeRights(DAEMON, "staff", GROUP),
        notify_client=_unheard,
        file=None,
    )
    outcome = await perform(call, {name: Method(operation, run)})
    if who in MAY[operation.who]:
        # Where parameters are missing it is they that are refused, and not the client.
        assert reached or isinstance(outcome, UsageError)
    else:
        assert isinstance(outcome, NotPermittedError)
        assert not reached
