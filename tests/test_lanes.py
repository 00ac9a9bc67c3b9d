"""Lanes: what one of them waits for, another does not."""

from __future__ import annotations

import ast
import threading
from pathlib import Path
from typing import get_args

import pytest
import trio
import trio.testing

from imgstored import lanes

ROOT = Path(__file__).parents[1]


async def test_a_task_and_a_thread_are_in_the_lane_of_their_parent():
    found = []

    async def look() -> None:
        found.append(lanes.current())
        found.append(await lanes.in_thread(lanes.current))

    async with trio.open_nursery() as nursery:
        with lanes.bound("strangers"):
            nursery.start_soon(look)
        # The block is over before the task runs.
    assert found == ["strangers"] * 2
    await look()
    assert found[2:] == ["changes"] * 2


@pytest.mark.parametrize("busy", ["strangers", "questions"])
async def test_what_changes_does_not_wait_for_threads_of_what_reads(busy):
    release = threading.Event()
    try:
        async with trio.open_nursery() as nursery:
            with lanes.bound(busy):
                for _ in range(200):
                    nursery.start_soon(lanes.in_thread, release.wait)
            await trio.testing.wait_all_tasks_blocked()
            with lanes.bound(busy):
                assert lanes.threads().available_tokens == 0
            with trio.fail_after(30):
                assert await lanes.in_thread(lambda: "done") == "done"
            # The threads of trio's own stay free: they are for what is in no lane.
            assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
            release.set()
    finally:
        release.set()


@pytest.mark.parametrize("of", [lanes.threads, lanes.requests, lanes.lookups])
async def test_no_two_lanes_share_a_limiter(of):
    found = []
    for lane in ("changes", "questions", "strangers"):
        with lanes.bound(lane):
            found.append(of())
            assert of() is found[-1]
    assert len({id(each) for each in found}) == 3


def _without_limiter(path: Path) -> list[int]:
    """Lines that have a thread without saying of which: also where `run_sync` is passed on."""
    tree = ast.parse(path.read_text())
    with_limiter = {
        id(part)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and "limiter" in {keyword.arg for keyword in call.keywords}
        for part in [call.func, *call.args]
    }
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) == "trio.to_thread.run_sync"
        and id(node) not in with_limiter
    ]


def test_nothing_takes_trios_own_threads():
    modules = sorted((ROOT / "imgstored").rglob("*.py"))
    assert len(modules) > 100
    assert {str(path): lines for path in modules if (lines := _without_limiter(path))} == {}


async def test_kinds_of_work_share_no_threads():
    found = [lanes.threads(kind) for kind in get_args(lanes.Kind)]
    assert len({id(each) for each in found}) == len(found) > 1
    assert await lanes.in_thread(lanes.current, kind="library") == "changes"
