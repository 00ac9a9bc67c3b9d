"""What every view has to do, on a real mount and with real files.

The view is read in other threads and processes only: who reads a mount in trio's thread waits for himself.
"""

from __future__ import annotations

import itertools
import json
import os
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import trio

from imgstored.view import open_view
from tests.view.images import image, running, uuid

if TYPE_CHECKING:
    from pathlib import Path

aside = trio.to_thread.run_sync


@pytest.fixture(params=["fuse", "files"])
def view(request, place):
    return open_view(request.param, place)


def listed(folder: Path) -> set[str]:
    """Names, without the hidden ones by which plain files are kept."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def manifest(place: Path, number: int) -> dict[str, object]:
    return json.loads((place / uuid(number) / "manifest.json").read_bytes())


async def output(*command: str | Path) -> str:
    """What another process says."""
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    return (done.stdout + done.stderr).decode()


async def test_list_cat_and_readlink(view, place):
    base, child = image(1, "base", "1.0"), image(2, "my app/x", "2.0 beta", origin=1)
    async with running(view, [base, child]):
        assert await aside(listed, place) == {uuid(1), uuid(2), "by-name"}
        assert await aside(listed, place / uuid(1)) == {"manifest.json"}
        assert await aside(listed, place / uuid(2)) == {"manifest.json", "origin"}
        assert json.loads(await output("cat", place / uuid(2) / "manifest.json")) == child.manifest
        assert await output("readlink", place / uuid(2) / "origin") == f"../{uuid(1)}\n"
        assert json.loads(await output("cat", place / uuid(2) / "origin" / "manifest.json")) == base.manifest
        assert await aside(listed, place / "by-name") == {"base", "my app%2Fx"}
        by_name = place / "by-name" / "my app%2Fx" / "2.0 beta"
        assert await output("readlink", by_name) == f"../../{uuid(2)}\n"
        assert json.loads(await output("cat", by_name / "manifest.json")) == child.manifest
        assert "No such file" in await output("cat", place / uuid(3) / "manifest.json")


async def test_kinds_modes_and_sizes(view, place):
    async with running(view, [image(1), image(2, origin=1)]):
        root, file, link, folder = await aside(
            lambda: [
                os.lstat(place / name)
                for name in (".", f"{uuid(2)}/manifest.json", f"{uuid(2)}/origin", uuid(2))
            ]
        )
        assert stat.S_ISDIR(root.st_mode)
        assert file.st_mode == stat.S_IFREG | 0o444
        assert file.st_size == len(await output("cat", place / uuid(2) / "manifest.json"))
        assert stat.S_ISLNK(link.st_mode)
        assert link.st_size == len(f"../{uuid(1)}")
        assert folder.st_mode == stat.S_IFDIR | 0o555
        assert abs(file.st_mtime - time.time()) < 60


async def test_a_large_manifest_is_read_in_parts(view, place):
    large = image(1, notes=["é" * 1000] * 400)
    async with running(view, [large]):
        path = place / uuid(1) / "manifest.json"
        assert json.loads(await output("cat", path)) == large.manifest
        whole = await aside(path.read_bytes)
        assert len(whole) > 800_000
        parts = await aside(
            lambda: [_part(path, offset, 777) for offset in (0, 1, 4095, 500_001, len(whole) - 3)]
        )
        assert parts == [whole[o : o + 777] for o in (0, 1, 4095, 500_001, len(whole) - 3)]
        assert await aside(_part, path, len(whole), 10) == b""
        assert await aside(_part, path, len(whole) + 99, 10) == b""


def _part(path: Path, offset: int, size: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


async def test_an_image_comes_and_goes_at_once(view, place):
    async with running(view):
        for round_ in range(30):
            shown = image(1, "base", "1", notes=round_)
            # Everybody remembers that it is not there, and then that it is.
            assert not await aside((place / uuid(1)).exists)
            assert await aside(listed, place) == {"by-name"}
            await view.add(shown)
            assert await aside(manifest, place, 1) == shown.manifest
            assert await aside(listed, place) == {"by-name", uuid(1)}
            assert (
                json.loads(await aside((place / "by-name/base/1/manifest.json").read_bytes)) == shown.manifest
            )
            await view.remove(shown)
            with pytest.raises(FileNotFoundError):
                await aside(manifest, place, 1)
            assert await aside(listed, place / "by-name") == set()


async def test_another_process_sees_it_at_once(view, place):
    async with running(view):
        for number in range(3):
            path = place / uuid(number) / "manifest.json"
            assert "No such file" in await output("cat", path)
            await view.add(image(number))
            assert json.loads(await output("cat", path)) == image(number).manifest
            await view.remove(image(number))
            assert "No such file" in await output("cat", path)


async def test_by_name_follows_the_last_published(view, place):
    old = image(1, version="1", published="2020-01-01T00:00:00Z")
    new = image(2, version="1", published="2021-01-01T00:00:00Z")
    link = place / "by-name" / "base" / "1"
    async with running(view, [old]):
        for _ in range(5):
            assert await aside(os.readlink, link) == f"../../{uuid(1)}"
            await view.add(new)
            assert await aside(os.readlink, link) == f"../../{uuid(2)}"
            assert await aside(lambda: json.loads((link / "manifest.json").read_bytes())) == new.manifest
            await view.remove(new)


async def test_a_manifest_that_is_replaced_is_seen(view, place):
    async with running(view, [image(1, "old")]):
        assert (await aside(manifest, place, 1))["name"] == "old"
        await view.add(image(1, "new and longer", origin=5))
        assert (await aside(manifest, place, 1))["name"] == "new and longer"
        assert await aside(listed, place / "by-name") == {"new and longer"}
        assert await aside(listed, place / uuid(1)) == {"manifest.json", "origin"}


async def test_an_open_file_can_be_read_after_its_image_is_gone(view, place):
    shown = image(1, notes="x" * 200_000)
    async with running(view, [shown]):
        file = await aside(lambda: (place / uuid(1) / "manifest.json").open("rb", buffering=0))
        try:
            first = await aside(file.read, 10)
            await view.remove(shown)
            await view.add(image(1, "another"))
            assert (
                json.loads(first + await aside(lambda: b"".join(iter(lambda: file.read(5000), b""))))
                == shown.manifest
            )
            assert (await aside(lambda: os.fstat(file.fileno()))).st_size > 200_000
        finally:
            await aside(file.close)


async def test_who_is_in_a_folder_that_goes_finds_nothing(view, place):
    async with running(view, [image(1, origin=2)]):
        folder = await aside(os.open, place / uuid(1), os.O_RDONLY | os.O_DIRECTORY)
        try:
            await aside(lambda: os.close(os.open("manifest.json", os.O_RDONLY, dir_fd=folder)))
            await view.remove(image(1, origin=2))
            with pytest.raises(FileNotFoundError):
                await aside(lambda: os.open("manifest.json", os.O_RDONLY, dir_fd=folder))
            assert await aside(os.listdir, folder) == []
        finally:
            await aside(os.close, folder)


#: In a process of its own: reads the images over and over, until its standard input ends and it has read
#: enough of them; says how often, and what was wrong.
READER = """
import json, os, random, sys, threading
place, numbers, enough = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3])
counts, faults, told = [0, 0], [], threading.Event()
def read(seed):
    dice = random.Random(seed)
    while not faults and not (told.is_set() and counts[0] >= enough and counts[1]):
        uuid = dice.choice(numbers)
        folder = uuid if dice.random() < 0.7 else f"by-name/n-{uuid}/1"
        path = f"{place}/{folder}/manifest.json"
        try:
            with open(path, "rb") as file:
                found = json.loads(file.read())
            if found["uuid"] != uuid or found["end"] != "end":
                faults.append(f"not whole: {found}")
            counts[0] += 1
        except (FileNotFoundError, NotADirectoryError):
            counts[1] += 1
        except Exception as error:
            faults.append(f"{path}: {error!r}")
        if dice.random() < 0.05:
            for name in os.listdir(place):
                if not name.startswith(".") and name not in numbers and name != "by-name":
                    faults.append(name)
threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
for thread in threads: thread.start()
sys.stdin.read()
told.set()
for thread in threads: thread.join()
print(json.dumps({"read": counts[0], "absent": counts[1], "faults": faults}))
"""


async def test_thousands_of_readers_see_all_of_an_image_or_nothing(view, place):
    images = [image(n, f"n-{uuid(n)}", "1", notes=["y" * 50] * 300, end="end") for n in range(6)]
    command = [sys.executable, "-c", READER, str(place), ",".join(map(uuid, range(6))), "400"]
    async with running(view, images):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        readers = [subprocess.Popen(command, text=True, **pipes) for _ in range(3)]  # noqa: ASYNC220
        changes = 0
        while any(reader.poll() is None for reader in readers):
            one = images[changes // 2 % 6]
            await (view.add(one) if changes % 2 else view.remove(one))
            changes += 1
            if changes == 50:
                for reader in readers:
                    reader.stdin.close()
            await trio.sleep(0.001)
        answers = [json.loads(await aside(reader.stdout.read)) for reader in readers]
        for reader in readers:
            reader.stdout.close()
    assert [answer["faults"] for answer in answers] == [[], [], []]
    assert all(answer["read"] >= 400 and answer["absent"] for answer in answers)
    assert changes >= 50


async def test_a_listing_of_many_shows_each_once_while_others_come_and_go(view, place):
    steady = [image(number, "steady") for number in range(600)]
    async with running(view, steady):
        listings: list[list[str]] = []

        async def list_often() -> None:
            for _ in range(8):
                listings.append(await aside(os.listdir, place))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(list_often)
            for number in range(2000, 2040):
                await view.add(image(number, "passing"))
                await view.remove(image(number - 5, "passing"))
    for listing in listings:
        assert len(listing) == len(set(listing))
        assert set(map(uuid, range(600))) <= set(listing)


@pytest.mark.alone
async def test_a_thousand_images(view, place):
    images = [image(number, f"name-{number % 50}") for number in range(1000)]
    begun = time.perf_counter()
    async with running(view, images):
        started = time.perf_counter() - begun
        text = await output("ls", "-l", place)
        assert text.count(uuid(0)[:20]) == 1000
        count = await output("sh", "-c", f"cat {place}/*/manifest.json | grep -c description")
        assert count == "1000\n"
    assert started < (0.4 if view.kind == "fuse" else 5)


@pytest.mark.parametrize("view", ["fuse"], indirect=True)
async def test_writes_are_refused_to_everybody_by_the_mount(view, place):
    inside = place / uuid(1)
    async with running(view, [image(1, origin=2)]):
        for attempt in (
            lambda: (inside / "manifest.json").open("r+b"),
            lambda: (inside / "new").touch(),
            lambda: (inside / "manifest.json").unlink(),
            lambda: (inside / "folder").mkdir(),
            lambda: (inside / "manifest.json").rename(inside / "other"),
            lambda: (inside / "link").symlink_to("x"),
            lambda: (inside / "manifest.json").chmod(0o666),
            lambda: os.truncate(inside / "manifest.json", 0),
        ):
            with pytest.raises(OSError, match="Read-only file system"):
                await aside(attempt)
        assert await aside(manifest, place, 1) == image(1, origin=2).manifest


#: Somebody who is not root, and not us.
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@as_root
async def test_writes_are_refused_to_others(view, place):
    inside = place / uuid(1)
    async with running(view, [image(1, origin=2)]):
        for command in (
            f"echo x >> {inside}/manifest.json",
            f"touch {inside}/new",
            f"rm -f {inside}/manifest.json",
            f"rm -rf {inside}",
            f"mkdir {place}/new",
            f"rm -rf {place}/by-name/base",
        ):
            said = await output(*NOBODY, "sh", "-c", command)
            assert "Permission denied" in said or "Read-only file system" in said, command
            assert await aside(manifest, place, 1) == image(1, origin=2).manifest
        assert await aside(listed, inside) == {"manifest.json", "origin"}
        assert await aside(listed, place / "by-name" / "base") == {"1.1"}


@as_root
async def test_everybody_may_read(view, place):
    async with running(view, [image(1)]):
        said = await output(*NOBODY, "cat", place / "by-name" / "base" / "1.1" / "manifest.json")
        assert json.loads(said) == image(1).manifest


async def test_changes_while_it_does_not_run_are_harmless(view, place):
    await view.add(image(1))
    await view.remove(image(2))
    async with running(view, [image(3)]):
        assert await aside(listed, place) == {uuid(3), "by-name"}
    await view.add(image(4))
    await view.remove(image(3))


async def test_it_can_run_again(view, place):
    for number in (1, 2, 3):
        async with running(view, [image(number)]):
            assert await aside(listed, place) == {uuid(number), "by-name"}


async def test_many_changes_at_the_same_time(view, place):
    async with running(view):
        async with trio.open_nursery() as nursery:
            for number, _ in itertools.product(range(20), range(3)):
                nursery.start_soon(view.add, image(number))
                nursery.start_soon(view.remove, image(number + 100))
        assert await aside(listed, place) == {"by-name", *map(uuid, range(20))}
