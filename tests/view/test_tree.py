from __future__ import annotations

import itertools
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import force_setattr

from imgstored.errors import InvalidUUIDError
from imgstored.view.names import component
from imgstored.view.tree import File, Folder, Link, Tree, tree_of
from tests.view.images import image, uuid


@pytest.fixture
def tree() -> Tree:
    return Tree(itertools.count(1000).__next__)


def flat(tree: Tree) -> dict[tuple[bytes, ...], bytes | None]:
    """Every path with its bytes or its target; None for a folder."""
    found: dict[tuple[bytes, ...], bytes | None] = {}

    def walk(folder: Folder, path: tuple[bytes, ...]) -> None:
        for name, entry in folder.entries.items():
            assert entry.name == name
            node = entry.node
            if isinstance(node, Folder):
                found[*path, name] = None
                walk(node, (*path, name))
            else:
                found[*path, name] = node.content if isinstance(node, File) else node.target

    walk(tree.root, ())
    return found


def key(number: int) -> bytes:
    return uuid(number).encode()


def test_an_image_has_its_manifest_its_origin_and_its_name(tree):
    tree.add(image(1, "base"))
    tree.add(image(2, "web", "2.0", origin=1))
    paths = flat(tree)
    assert json.loads(paths.pop((key(1), b"manifest.json"))) == image(1, "base").manifest
    assert json.loads(paths.pop((key(2), b"manifest.json"))) == image(2, "web", "2.0").manifest
    assert paths == {
        (key(1),): None,
        (key(2),): None,
        (key(2), b"origin"): b"../" + key(1),
        (b"by-name",): None,
        (b"by-name", b"base"): None,
        (b"by-name", b"base", b"1.1"): b"../../" + key(1),
        (b"by-name", b"web"): None,
        (b"by-name", b"web", b"2.0"): b"../../" + key(2),
    }


def test_the_manifest_is_indented_json_with_a_newline(tree):
    shown = image(1, description='größe "x"', broken="\ud800")
    tree.add(shown)
    content = tree.at((key(1), b"manifest.json")).content
    assert content.startswith(b'{\n  "v": 2,\n  "uuid": ')
    assert content.endswith(b"}\n")
    assert "größe".encode() in content
    assert json.loads(content) == shown.manifest


def test_an_empty_tree_has_by_name(tree):
    assert flat(tree) == {(b"by-name",): None}


def test_nothing_is_left_of_a_removed_image(tree):
    tree.add(image(1, origin=7))
    folder = tree.at((key(1),))
    tree.remove(image(1, origin=7))
    assert flat(tree) == {(b"by-name",): None}
    assert folder.entries == {}, "somebody who is in there would see a part of it"


def test_removing_what_is_not_there_changes_nothing(tree):
    tree.add(image(1))
    change = tree.remove(image(2))
    assert (change.entries, change.folders, change.paths) == ([], [], [])


def test_adding_the_same_again_changes_nothing(tree):
    tree.add(image(1))
    inode = tree.at((key(1),)).inode
    change = tree.add(image(1))
    assert (change.entries, change.folders, change.paths) == ([], [], [])
    assert tree.at((key(1),)).inode == inode


def test_another_manifest_is_another_file(tree):
    tree.add(image(1, "old"))
    before = tree.at((key(1), b"manifest.json"))
    change = tree.add(image(1, "new"))
    after = tree.at((key(1), b"manifest.json"))
    assert after.inode != before.inode
    assert json.loads(after.content)["name"] == "new"
    assert tree.at((b"by-name", b"old")) is None
    assert set(change.paths) == {(key(1),), (b"by-name", b"old", b"1.1"), (b"by-name", b"new", b"1.1")}


def test_of_two_with_the_same_name_the_last_published_is_shown_and_the_other_comes_back(tree):
    old = image(1, version="1", published="2020-01-01T00:00:00Z")
    new = image(2, version="1", published="2021-01-01T00:00:00Z")
    slot = (b"by-name", b"base", b"1")
    tree.add(new)
    assert tree.add(old).paths == [(key(1),)]
    assert tree.at(slot).target == b"../../" + key(2)
    assert slot in tree.remove(new).paths
    assert tree.at(slot).target == b"../../" + key(1)
    assert slot in tree.add(new).paths
    assert tree.at(slot).target == b"../../" + key(2)


def test_published_at_the_same_time_the_uuid_decides(tree):
    for number in (2, 3, 1):
        tree.add(image(number, version="1"))
    assert tree.at((b"by-name", b"base", b"1")).target == b"../../" + key(3)


def test_an_image_of_two_pools_is_there_until_it_is_in_none(tree):
    tree.add(image(1, "a", pool="zones"))
    assert tree.add(image(1, "b", pool="data")).paths == []
    tree.remove(image(1, pool="zones"))
    assert json.loads(tree.at((key(1), b"manifest.json")).content)["name"] == "b"
    tree.remove(image(1, pool="data"))
    assert tree.at((key(1),)) is None


def test_what_is_no_uuid_is_refused_and_does_not_keep_others_away():
    bad = image(1)
    force_setattr(bad.image, "uuid", "../by-name")
    with pytest.raises(InvalidUUIDError):
        Tree(time.time_ns).add(bad)
    assert set(tree_of([bad, image(2)], time.time_ns).root.entries) == {b"by-name", key(2)}


def test_an_origin_that_is_no_uuid_is_not_shown(tree):
    shown = image(1)
    force_setattr(shown.image, "origin", "../../../etc")
    tree.add(shown)
    assert tree.at((key(1), b"origin")) is None


def test_a_change_says_what_must_be_forgotten(tree):
    added = tree.add(image(1))
    by_name = tree.at((b"by-name",)).inode
    names = tree.at((b"by-name", b"base")).inode
    assert set(added.entries) == {(1, key(1)), (by_name, b"base"), (names, b"1.1")}
    assert set(added.folders) == {1, by_name, names}
    inside = tree.at((key(1),)).inode
    removed = tree.remove(image(1))
    assert set(removed.entries) == {*added.entries, (inside, b"manifest.json")}
    assert set(removed.folders) == {*added.folders, inside}


def test_links_come_after_what_they_lead_to_and_go_before_it(tree):
    assert tree.add(image(1)).paths == [(key(1),), (b"by-name", b"base", b"1.1")]
    assert tree.remove(image(1)).paths == [(b"by-name", b"base", b"1.1"), (key(1),)]


def test_a_listing_goes_on_where_it_was_while_images_come_and_go(tree):
    for number in range(10):
        tree.add(image(number))
    first = list(itertools.islice(tree.root.after(0), 5))
    gone = first[4].name  # the one at which the listing stands
    tree.remove(image(int(gone[-4:], 16)))
    tree.remove(image(0))
    tree.add(image(0, "anew"))
    tree.add(image(7, "replaced"))
    tree.add(image(10))
    rest = list(tree.root.after(first[4].id))
    names = [entry.name for entry in first + rest]
    assert sorted(names) == sorted([b"by-name", *map(key, range(11)), key(0)])
    assert [entry.id for entry in rest] == sorted({entry.id for entry in rest})


#: Few of each, so that they meet.
NAMES = st.sampled_from(
    ["base", "a/b", "..", ".", "", "%2E%2E", "x" * 300, "x" * 301, "\0", "by-name", "\ud800", "-"]
)
CHANGES = st.lists(
    st.tuples(
        st.booleans(),
        st.builds(
            image,
            st.integers(0, 5),
            NAMES,
            NAMES,
            origin=st.none() | st.integers(0, 5),
            pool=st.sampled_from(["zones", "data"]),
            published=st.sampled_from(["2020", "2021"]),
        ),
    ),
    max_size=25,
)


@settings(max_examples=150)
@given(CHANGES)
def test_the_tree_is_what_a_dictionary_of_images_says(changes):
    tree = Tree(itertools.count(1000).__next__)
    installed: dict[str, dict[str, object]] = {}
    inodes: dict[int, object] = {}
    for adding, changed in changes:
        before = _identities(tree)
        pools = installed.setdefault(changed.uuid, {})
        if adding:
            pools[changed.pool] = changed
            change = tree.add(changed)
        else:
            pools.pop(changed.pool, None)
            change = tree.remove(changed)
        shown = [next(iter(pools.values())) for pools in installed.values() if pools]
        assert _outline(tree) == _expected(shown)
        after = _identities(tree)
        # Every entry whose meaning is another is named, unless nobody can know its folder yet.
        known = {1} | {node.inode for node in before.values()}
        differing = {
            (parent, name)
            for parent, name in before.keys() | after.keys()
            if parent in known and before.get((parent, name)) is not after.get((parent, name))
        }
        assert differing <= set(change.entries)
        assert {parent for parent, _ in differing} <= set(change.folders)
        # No inode is ever another node's.
        for node in after.values():
            assert inodes.setdefault(node.inode, node) is node


def _identities(tree: Tree) -> dict[tuple[int, bytes], object]:
    found: dict[tuple[int, bytes], object] = {}

    def walk(folder: Folder) -> None:
        for name, entry in folder.entries.items():
            found[folder.inode, name] = entry.node
            if isinstance(entry.node, Folder):
                walk(entry.node)

    walk(tree.root)
    return found


def _outline(tree: Tree) -> dict[tuple[bytes, ...], object]:
    return {
        path: json.loads(value) if path[-1] == b"manifest.json" and len(path) == 2 else value
        for path, value in flat(tree).items()
    }


def _expected(shown) -> dict[tuple[bytes, ...], object]:
    paths: dict[tuple[bytes, ...], object] = {(b"by-name",): None}
    for one in sorted(shown, key=lambda one: (one.manifest["published_at"], one.uuid)):
        name, version, uuid = one.manifest["name"], one.manifest["version"], one.uuid.encode()
        paths[uuid,] = None
        paths[uuid, b"manifest.json"] = one.manifest
        if one.origin is not None:
            paths[uuid, b"origin"] = b"../" + one.origin.encode()
        paths[b"by-name", component(name)] = None
        paths[b"by-name", component(name), component(version)] = b"../../" + uuid
    return paths


@pytest.mark.alone
def test_a_thousand_images_are_added_fast():
    images = [image(number, f"name-{number % 50}") for number in range(1000)]
    begun = time.perf_counter()
    tree = tree_of(images, time.time_ns)
    assert time.perf_counter() - begun < 0.2
    assert len(tree.root.entries) == 1001


def test_nodes_are_what_they_are_said_to_be(tree):
    tree.add(image(1, origin=2))
    assert isinstance(tree.at(()), Folder)
    assert isinstance(tree.at((key(1), b"manifest.json")), File)
    assert isinstance(tree.at((key(1), b"origin")), Link)
    assert tree.at((key(1), b"manifest.json", b"x")) is None
