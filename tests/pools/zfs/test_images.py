"""What is an image on real ZFS, alongside imgadm, and what keeps it from being destroyed."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from imgstored.errors import ImageHasDependentClonesError, ImageNotInstalledError, PoolError, UsageError
from imgstored.pools.zfs import ZfsPool
from tests.pools.contract import BASE, GUIDS, INCREMENTAL, OTHER, ZVOL, dependents, install
from tests.pools.contract import receive as receive_real
from tests.pools.layer_contract import BOTTOM, unpack
from tests.pools.zfs.commands import FOLDER, device, exported, got, run
from tests.support.streams import real_stream

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_an_image(pool: ZfsPool) -> None:
    """By imgadm's rule: POOL/UUID with @final, unless it is to be ignored."""
    install(pool, "base")
    uuids = [f"22222222-aaaa-4bbb-8ccc-00000000000{number}" for number in range(5)]
    for uuid in uuids:
        run("zfs", "clone", "-o", "canmount=off", f"{pool.name}/{BASE}@final", f"{pool.name}/{uuid}")
    for uuid in uuids[:3]:
        run("zfs", "snapshot", f"{pool.name}/{uuid}@final")
    run("zfs", "set", "imgadm:ignore=true", f"{pool.name}/{uuids[1]}")
    run("zfs", "set", "imgadm:ignore=no", f"{pool.name}/{uuids[2]}")
    run("zfs", "snapshot", f"{pool.name}/{uuids[3]}@other")
    for name in ("cores", uuids[0].upper().replace("2", "A"), "x" * 36, f"{BASE}/{OTHER}"):
        run("zfs", "create", "-o", "canmount=off", f"{pool.name}/{name}")
        run("zfs", "snapshot", f"{pool.name}/{name}@final")
    images = {image.uuid: image for image in pool.images()}
    assert sorted(images) == [BASE, uuids[0], uuids[2]]
    assert images[uuids[0]].origin == BASE
    assert pool.image(uuids[1]) is None
    for uuid in (uuids[1], uuids[3]):
        with pytest.raises(ImageNotInstalledError):
            pool.destroy(uuid)
        with pytest.raises(PoolError, match="in the way"):
            pool.receive(uuid, [real_stream("zvol")])


def test_what_imgadm_installs_and_deletes(pool: ZfsPool) -> None:
    name = f"{pool.name}/{BASE}"
    run("zfs", "create", "-o", "mountpoint=none", f"{pool.name}/other")
    with subprocess.Popen(["zfs", "receive", f"{name}-partial"], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        child.stdin.write(real_stream("base")[:2_000_000])
        child.stdin.flush()
        for _ in range(100):
            if run("zfs", "list", "-H", f"{name}-partial", check=False):
                break
            time.sleep(0.1)
        # Which cannot be disturbed, nor be swept away.
        assert pool.partials() == [BASE]
        with pytest.raises(PoolError, match="busy"):
            receive_real(pool, "base")
        with pytest.raises(PoolError, match="busy"):
            pool.abandon(BASE)
        child.stdin.write(real_stream("base")[2_000_000:])
        child.stdin.close()
        assert child.wait() == 0
    (snapshot,) = run("zfs", "list", "-H", "-t", "snapshot", "-o", "name", f"{name}-partial").split()
    if snapshot != f"{name}-partial@final":
        run("zfs", "rename", snapshot, f"{name}-partial@final")
    run("zfs", "rename", f"{name}-partial", name)
    run("zfs", "mount", name, check=False)
    assert got(name, "mounted") == ["yes"]
    image = pool.image(BASE)
    assert image is not None
    assert image.guid == GUIDS["base"]
    # An incremental image of ours builds on it, and imgadm's is unmounted before it is destroyed.
    install(pool, "incremental")
    pool.destroy(INCREMENTAL)
    pool.destroy(BASE)
    assert pool.images() == []
    install(pool, "base")
    run("zfs", "destroy", "-r", name)
    assert pool.images() == []


def test_something_in_the_way_of_publishing(pool: ZfsPool) -> None:
    receive_real(pool, "zvol")
    run("zfs", "create", "-o", "canmount=off", f"{pool.name}/{ZVOL}")
    with pytest.raises(PoolError, match="there is a dataset of that name, and it is not an image"):
        pool.publish(ZVOL)
    assert pool.partials() == [ZVOL]
    run("zfs", "destroy", f"{pool.name}/{ZVOL}")
    pool.publish(ZVOL)


def test_of_known_images_only_what_changed_is_asked(pool: ZfsPool) -> None:
    """What others did meanwhile is seen all the same: clones, imgadm:ignore, another image, none."""
    for name in ("base", "zvol"):
        install(pool, name)
    before = pool.images()
    base, zvol = sorted(before, key=lambda image: (BASE, ZVOL).index(image.uuid))
    run("zfs", "clone", f"{pool.name}/{BASE}@final", f"{pool.name}/vm7")
    run("zfs", "set", "imgadm:ignore=yes", f"{pool.name}/{ZVOL}")
    assert pool.images(before) == [replace(base, clones=(f"{pool.name}/vm7",))]
    run("zfs", "inherit", "imgadm:ignore", f"{pool.name}/{ZVOL}")
    run("zfs", "destroy", f"{pool.name}/vm7")
    assert {image.uuid: image for image in pool.images(before)} == {BASE: base, ZVOL: zvol}
    run("zfs", "destroy", "-r", f"{pool.name}/{ZVOL}")
    assert pool.images(before) == [base]
    # Another image under the name of one that is known.
    run("zfs", "create", "-V", "1M", f"{pool.name}/{ZVOL}")
    assert pool.images(before) == [base]
    run("zfs", "snapshot", f"{pool.name}/{ZVOL}@final")
    found = {image.uuid: image for image in pool.images(before)}
    assert found[ZVOL].guid != zvol.guid
    assert found[ZVOL].referenced == 1 << 20
    assert found[BASE] == base


# -- what keeps an image -------------------------------------------------------------------------------------


def test_all_that_keeps_an_image_is_named(pool: ZfsPool) -> None:
    install(pool, "base")
    name = f"{pool.name}/{BASE}"
    run("zfs", "snapshot", f"{name}@foreign")
    run("zfs", "clone", f"{name}@foreign", f"{pool.name}/of-foreign")
    run("zfs", "clone", f"{name}@final", f"{pool.name}/vm-disk0")
    run("zfs", "create", "-o", "canmount=off", f"{name}/below")
    with pytest.raises(ImageHasDependentClonesError) as caught:
        pool.destroy(BASE)
    names = [f"{name}/below", f"{pool.name}/of-foreign", f"{pool.name}/vm-disk0"]
    assert caught.value.data["dependents"] == dependents(pool, BASE) == names
    assert caught.value.message == f'image "{BASE}" has dependent clones: {name}/below and 2 others...'
    for each in names:
        run("zfs", "destroy", each)
    run("zfs", "hold", "theirs", f"{name}@foreign")
    run("zfs", "hold", "backup", f"{name}@final")
    pool.hold(BASE, "ours")
    assert pool.holds(BASE) == ["ours"]
    with pytest.raises(PoolError, match=rf"is held: backup, ours, theirs \(on {pool.name}/.*@foreign\)"):
        pool.destroy(BASE)
    pool.release(BASE, "backup")  # is not ours
    run("zfs", "release", "theirs", f"{name}@foreign")
    run("zfs", "release", "backup", f"{name}@final")
    with pytest.raises(PoolError, match="is held: ours"):
        pool.destroy(BASE)
    pool.release(BASE, "ours")
    pool.destroy(BASE)
    assert run("zfs", "list", "-H", "-r", "-t", "all", "-o", "name", pool.name).split() == [pool.name]


def test_nobody_destroys_what_is_held(pool: ZfsPool) -> None:
    install(pool, "base")
    pool.hold(BASE, "vm 1")
    assert "imgstored:vm 1" in run("zfs", "holds", "-H", f"{pool.name}/{BASE}@final")
    run("zfs", "destroy", "-r", f"{pool.name}/{BASE}", check=False)
    assert pool.image(BASE) is not None
    exported(pool.name)
    run("zpool", "import", "-d", str(FOLDER), pool.name)
    assert ZfsPool(pool.name).holds(BASE) == ["vm 1"]


@pytest.mark.parametrize("tag", ["ü" * 100, "x" * 200])
def test_the_longest_tags(pool: ZfsPool, tag: str) -> None:
    install(pool, "zvol")
    pool.hold(ZVOL, tag)
    assert pool.holds(ZVOL) == [tag]
    pool.release(ZVOL, tag)
    with pytest.raises(UsageError):
        pool.hold(ZVOL, tag + "x")
    assert pool.holds(ZVOL) == []


def test_a_mounted_image_in_use(pool: ZfsPool) -> None:
    install(pool, "base")
    run("zfs", "mount", f"{pool.name}/{BASE}")
    (inside, *_) = (path for path in (FOLDER / pool.name / BASE).rglob("*") if path.is_file())
    with inside.open("rb"), pytest.raises(PoolError, match=r"cannot be unmounted from .*busy") as caught:
        pool.destroy(BASE)
    assert caught.value.hint
    assert pool.image(BASE) is not None
    pool.destroy(BASE)


def test_an_open_volume_is_kept_whole(pool: ZfsPool) -> None:
    install(pool, "zvol")
    before = pool.image(ZVOL)
    with device(f"{pool.name}/{ZVOL}").open("rb"), pytest.raises(PoolError, match="busy"):
        pool.destroy(ZVOL)
    assert pool.image(ZVOL) == before
    pool.destroy(ZVOL)


def test_an_intent_log_that_is_claimed_is_no_change(pool: ZfsPool, tmp_path: Path) -> None:
    """As after a reboot: `written` is not 0 then, and there is nothing new in a layer's image."""
    unpack(pool, BASE, BOTTOM)
    pool.publish(BASE)
    exported(pool.name)
    run("zpool", "import", "-d", str(FOLDER), pool.name)
    again, name = ZfsPool(pool.name), f"{pool.name}/{BASE}"
    assert got(name, "written@final") != ["0"]
    assert again.check(BASE, lambda done: None).changed is None
    run("mount", "-t", "zfs", "-o", "zfsutil", name, str(tmp_path))
    (tmp_path / "root" / "etc" / "motd").write_text("changed")
    run("umount", str(tmp_path))
    found = again.check(BASE, lambda done: None)
    assert found.changed is not None
    assert "were written to its dataset" in found.changed
    # Nobody can look into it while it is mounted.
    run("mount", "-t", "zfs", "-o", "zfsutil", name, str(tmp_path))
    assert again.check(BASE, lambda done: None).changed is not None
    run("umount", str(tmp_path))
