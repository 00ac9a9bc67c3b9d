"""Which sources there are; adding and deleting them, and asking all, against real servers."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from imgstored.errors import (
    ActiveImageNotFoundError,
    ClientError,
    ConfigError,
    ImageNotFoundError,
    ImgstoreError,
    InternalError,
    InvalidUUIDError,
    NoSourcesError,
    SourcePingError,
    UsageError,
)
from imgstored.http.location import Access, public
from imgstored.sources import client
from imgstored.sources.base import SourceSpec
from imgstored.sources.source_set import DEFAULT_SOURCE, SharedSearches, SourceSet
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, ImageSite, fixture_manifest

CLOSED = "http://127.0.0.1:9"
UNKNOWN = "99999999-aaaa-4bbb-8ccc-000000000009"
NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def conf(tmp_path):
    return tmp_path / "imgadm.conf"


@pytest.fixture
def open_set(tmp_path, conf):
    def open_set(*configured: SourceSpec, none: bool = False) -> SourceSet:
        return SourceSet(
            None if none else configured, imgadm_conf=conf, lists=tmp_path / "lists", now=lambda: NOW
        )

    return open_set


@pytest.fixture
def published(tmp_path, start_nginx):
    """Starts a static source with some of the fixture images; may be called several times."""
    count = 0

    def publish(*uuids: str, **changes: object) -> SourceSpec:
        nonlocal count
        count += 1
        site = ImageSite(tmp_path / f"site-{count}")
        for uuid in uuids:
            site.add({**fixture_manifest(uuid), **changes}, b"the file")
        publish.nginx = start_nginx(root=site.folder)
        return SourceSpec(publish.nginx.url, "static")

    return publish


async def urls(source_set: SourceSet) -> list[str]:
    return [source["url"] for source in await source_set.listed()]


# -- which there are ---------------------------------------------------------------------------------------


async def test_the_default_counts_only_where_nothing_is_said(open_set, conf):
    assert await urls(open_set(none=True)) == ["https://images.smartos.org"]
    assert await urls(open_set()) == []
    conf.write_text('{"sources": []}')
    assert await urls(open_set(none=True)) == []
    conf.write_text("{}")
    assert await urls(open_set(none=True)) == [DEFAULT_SOURCE.url]


async def test_the_configurations_sources_come_first_and_each_once(open_set, conf):
    theirs = [{"type": "imgapi", "url": f"http://{host}/"} for host in ("b", "a", "c")]
    conf.write_text(json.dumps({"sources": theirs}))
    access = Access(headers=(("Authorization", "secret"),))
    source_set = open_set(SourceSpec("http://a:80/", access=access), SourceSpec("d"))
    assert await urls(source_set) == ["http://a", "http://d", "http://b", "http://c"]
    assert (await source_set.listed())[0] == {
        "url": "http://a",
        "type": "imgapi",
        "insecure": False,
        "channel": None,
    }
    source_set.reconfigure([SourceSpec("http://e?channel=dev", insecure=True)])
    assert (await source_set.listed())[0] == {
        "url": "http://e?channel=dev",
        "type": "imgapi",
        "insecure": True,
        "channel": "dev",
    }
    with pytest.raises(ClientError):
        source_set.reconfigure([SourceSpec("ftp://x")])
    assert (await urls(source_set))[0] == "http://e?channel=dev"


async def test_adding_and_deleting(open_set, conf, published):
    url = published(BASE).url
    source_set = open_set(none=True)
    source = {"url": url, "type": "static", "insecure": False, "channel": None}
    assert await source_set.add(f"{url}/", "static", False, False) == {"added": True, "source": source}
    assert await source_set.add(url, "static", False, False) == {"added": False, "source": source}
    assert await urls(source_set) == [DEFAULT_SOURCE.url, url]
    assert json.loads(conf.read_text())["sources"][1] == {"type": "static", "url": url}
    assert await urls(open_set(none=True)) == [DEFAULT_SOURCE.url, url]
    assert await source_set.delete(f"{url}/") == {"deleted": [source]}
    assert await source_set.delete(url) == {"deleted": []}
    assert await urls(source_set) == [DEFAULT_SOURCE.url]
    assert len((await source_set.delete(DEFAULT_SOURCE.url))["deleted"]) == 1
    assert json.loads(conf.read_text()) == {"sources": []}


async def test_who_knows_a_url_only_without_its_secrets_edits_and_deletes_it_by_that(open_set, conf):
    secret = [f"http://h/{name}?token=s3cret-{name}&channel=dev" for name in "ab"]
    conf.write_text(json.dumps({"sources": [{"type": "imgapi", "url": url} for url in secret]}))
    source_set = open_set()
    seen = [{**source, "url": public(source["url"])} for source in await source_set.listed()]
    edited = [seen[1], {"url": "http://new"}, seen[0]]
    done = await source_set.replace(edited, before=seen, force=True, told=public)
    assert (done["reordered"], done["deleted"]) == (True, [])
    assert await urls(source_set) == [secret[1], "http://new", secret[0]]
    with pytest.raises(UsageError, match="changed meanwhile"):
        await source_set.replace(edited, before=seen, force=True)
    assert [each["url"] for each in (await source_set.delete(seen[0]["url"]))["deleted"]] == [secret[0]]
    assert await urls(source_set) == [secret[1], "http://new"]
    await source_set.add(secret[1].replace("s3cret", "other"), None, False, True)
    with pytest.raises(UsageError, match="2 image sources are shown as"):
        await source_set.delete(seen[1]["url"])
    assert len((await source_set.delete(secret[1]))["deleted"]) == 1


async def test_where_the_configuration_has_sources_the_default_is_not_added(open_set, conf):
    source_set = open_set(SourceSpec("http://a"))
    assert (await source_set.add("http://b", None, True, True))["added"]
    assert await urls(source_set) == ["http://a", "http://b"]
    assert json.loads(conf.read_text()) == {
        "sources": [{"type": "imgapi", "url": "http://b", "insecure": True}]
    }
    assert not (await source_set.add("http://a", None, False, True))["added"]


async def test_a_source_must_answer_unless_it_is_forced(open_set, conf):
    source_set = open_set()
    with pytest.raises(SourcePingError) as caught:
        await source_set.add(CLOSED, None, False, False)
    assert caught.value.message == (
        f'unexpected ping error with "imgapi" image source "{CLOSED}": {CLOSED}/ping: connection refused'
    )
    assert not conf.exists()
    assert (await source_set.add(CLOSED, None, False, True))["added"]
    assert await urls(source_set) == [CLOSED]


async def test_what_cannot_be_a_source_is_refused(open_set, conf):
    source_set = open_set(SourceSpec("http://a"))
    with pytest.raises(ConfigError) as caught:
        await source_set.add("http://h", "docker", False, True)
    assert caught.value.message == (
        'type "docker" for source url "http://h" is invalid: '
        'must be one of "imgapi", "dsapi", "static", "oci"'
    )
    with pytest.raises(ClientError):
        await source_set.add("http://user:pw@h", None, False, True)
    with pytest.raises(ConfigError, match="is set in imgstored's configuration file"):
        await source_set.delete("http://a:80/")
    assert not conf.exists()


async def test_imgadms_file_is_not_touched_when_it_is_damaged(open_set, conf):
    conf.write_text('{"sources": [')
    source_set = open_set(SourceSpec("http://a"))
    for use in (
        lambda: source_set.add("http://b", None, False, True),
        lambda: source_set.delete("http://b"),
        source_set.check,
        source_set.available,
        lambda: source_set.find(BASE, active=True),
    ):
        with pytest.raises(ConfigError, match="not valid JSON"):
            await use()
    with pytest.raises(ConfigError, match="not valid JSON"):
        await source_set.listed()
    assert conf.read_text() == '{"sources": ['


async def test_many_may_add_and_delete_at_the_same_time(open_set):
    source_set = open_set(none=True)

    async def work(number: int) -> None:
        await source_set.add(f"http://h{number}", None, False, True)
        await source_set.add(f"http://gone{number}", None, False, True)
        await source_set.delete(f"http://gone{number}")

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(work, number)
    assert (await urls(source_set))[0] == DEFAULT_SOURCE.url
    assert set((await urls(source_set))[1:]) == {f"http://h{number}" for number in range(20)}
    assert len(await urls(source_set)) == 21


async def test_nobody_waits_for_a_server_that_somebody_adds(open_set, start_faulty):
    silent = start_faulty(lambda request, wire: wire.stall())
    source_set = open_set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source_set.add, silent.url, None, False, False)
        while not silent.requests:  # noqa: ASYNC110  another thread appends to it
            await trio.sleep(0.01)
        with trio.fail_after(2):
            await source_set.add("http://other", None, False, True)
        nursery.cancel_scope.cancel()
    assert await urls(source_set) == ["http://other"]


# -- asking all of them ------------------------------------------------------------------------------------


async def test_checking_says_of_each_whether_it_is_there(open_set, published):
    good = published(BASE)
    checked = await open_set(SourceSpec(CLOSED), good).check()
    assert [(each["url"], each["type"], each["ok"]) for each in checked] == [
        (CLOSED, "imgapi", False),
        (good.url, "static", True),
    ]
    assert checked[0]["error"]["code"] == "ClientError"
    assert checked[1]["error"] is None
    assert await open_set().check() == []


async def test_without_sources_there_is_nothing_to_ask(open_set):
    for ask in (open_set().available, lambda: open_set().find(BASE, active=True)):
        with pytest.raises(NoSourcesError, match="imgadm has no configured sources"):
            await ask()


async def test_what_is_available_is_what_the_first_that_has_it_says(open_set, published):
    one, two = published(BASE, name="one"), published(BASE, ZVOL, name="two")
    answer = await open_set(one, two).available()
    assert [
        (each["manifest"]["uuid"], each["manifest"]["name"], each["source"]) for each in answer["images"]
    ] == [
        (BASE, "one", one.url),
        (ZVOL, "two", two.url),
    ]
    assert answer["problems"] == []


async def test_a_source_that_is_down_is_stood_in_for_by_its_last_list(open_set, published, tmp_path):
    spec = published(BASE)
    down = SourceSpec(CLOSED, "static")
    nginx = published.nginx
    first = await open_set(down, spec).available()
    assert [each["source"] for each in first["images"]] == [spec.url]
    assert [(each["source"], "listed_at" in each) for each in first["problems"]] == [(CLOSED, False)]
    nginx.stop()
    second = await open_set(down, spec).available()
    assert second["images"] == first["images"]
    (_, problem) = second["problems"]
    assert problem["listed_at"] == "2026-11-24T12:00:00+00:00"
    assert problem["source"] == spec.url
    assert problem["error"]["code"] == "ClientError"
    for path in (tmp_path / "lists").iterdir():
        path.write_text("damaged")
    assert (await open_set(down, spec).available())["images"] == []
    nginx.start()
    assert (await open_set(spec).available()) == {
        "images": first["images"],
        "problems": [],
        "incomplete": [],
    }


async def test_a_list_that_lacks_images_is_said_and_remembered(open_set, start_faulty):
    up = True
    damaged = json.dumps({"uuid": ZVOL, "n": [1]}).replace("[1]", "1e999")
    body = f"[{json.dumps(fixture_manifest(BASE))}, {damaged}]".encode()
    server = start_faulty(lambda request, wire: wire.reply("200 OK", {}, body) if up else wire.reset())
    spec = SourceSpec(server.url, "dsapi")
    said = {
        "source": server.url,
        "message": f"1 entry of the list of {server.url} is unusable, and left out"
        f" ({ZVOL}: a number that is too large or too long)",
    }
    assert (await open_set(spec).check())[0]["incomplete"] is None
    with capture_logs() as logs:
        source_set = open_set(spec)
        for _ in range(3):
            answer = await source_set.available()
            assert answer["incomplete"] == [said]
            assert [image["manifest"]["uuid"] for image in answer["images"]] == [BASE]
    assert [entry["event"] for entry in logs] == ["a source's list is incomplete"]
    up = False
    again = open_set(spec)  # as after a restart
    assert (await again.check())[0]["incomplete"] == said["message"]
    assert (await again.available())["incomplete"] == [said]


async def test_what_is_known_is_of_the_last_lists(open_set, published):
    one, two = published(BASE, name="one"), published(BASE, ZVOL, name="two")
    assert await open_set(one, two).known() == []
    await open_set(one, two).available()
    published.nginx.stop()
    known = await open_set(one, two).known()
    assert [(each["uuid"], each["name"]) for each in known] == [(BASE, "one"), (ZVOL, "two")]
    assert all(each.keys() == {"uuid", "name", "version"} for each in known)
    published.nginx.start()


async def test_lists_of_sources_that_are_gone_are_removed(open_set, published, tmp_path):
    one, two = published(BASE), published(ZVOL)
    await open_set(one, two).available()
    assert len(list((tmp_path / "lists").iterdir())) == 2
    await open_set(two).available()
    assert len(list((tmp_path / "lists").iterdir())) == 1


async def test_finding_with_all_places_of_the_file(open_set, published):
    specs = [published(ZVOL), published(BASE), published(BASE, name="mirror"), published(INCREMENTAL)]
    found = await open_set(SourceSpec(CLOSED), *specs).find(BASE, active=True)
    assert found.manifest.uuid == BASE
    assert found.manifest.name == "base"
    assert found.source == specs[1]
    assert [location.url for location in found.locations] == [
        f"{spec.url}/{BASE}/file" for spec in specs[1:3]
    ]


async def test_what_nobody_has(open_set, published):
    spec = published(BASE, state="disabled")
    source_set = open_set(spec, SourceSpec(CLOSED))
    with pytest.raises(ActiveImageNotFoundError) as caught:
        await source_set.find(BASE, active=True)
    assert [problem["source"] for problem in caught.value.data["problems"]] == [CLOSED]
    assert CLOSED in caught.value.hint
    assert (await source_set.find(BASE, active=False)).manifest.state == "disabled"
    with pytest.raises(ImageNotFoundError):
        await source_set.find(UNKNOWN, active=False)
    with pytest.raises(ClientError, match="connection refused"):
        await open_set(SourceSpec(CLOSED)).find(BASE, active=True)
    with pytest.raises(InvalidUUIDError):
        await source_set.find("../x", active=True)


async def test_named_sources_replace_the_configured_ones(open_set, published, start_faulty):
    one, two = published(BASE), published(ZVOL)

    def answer(request, wire):
        found = f"/images/{BASE}?" in request.target + "?"
        wire.reply("200 OK" if found else "404 Not Found", {}, json.dumps(fixture_manifest(BASE)).encode())

    other = start_faulty(answer)
    source_set = open_set(one, two)
    with pytest.raises(ActiveImageNotFoundError):
        await source_set.find(BASE, active=True, sources=(two.url,))
    assert (await source_set.find(BASE, active=True, sources=(two.url, f"{one.url}/"))).source == one
    found = await source_set.find(BASE, active=True, sources=(f"{other.url}/?channel=x",), channel="dev")
    assert (found.source.type, found.source.channel) == ("imgapi", "dev")
    assert found.locations[0].url == f"{other.url}/images/{BASE}/file?channel=dev"
    assert [request.target for request in other.requests] == [f"/images/{BASE}?channel=dev"]
    for bad, error in (((), NoSourcesError), (("ftp://x",), ClientError)):
        with pytest.raises(error):
            await source_set.find(BASE, active=True, sources=bad)


async def test_an_ancestry_asks_for_a_static_list_once(open_set, published):
    source_set = open_set(published(BASE, INCREMENTAL))
    for uuid in (INCREMENTAL, BASE):
        await source_set.find(uuid, active=True)
    assert [hit.path for hit in published.nginx.settled_hits()] == ["/index.html"]


# -- sources that misbehave --------------------------------------------------------------------------------


@pytest.mark.alone
async def test_a_silent_source_holds_nobody_up_for_long(open_set, published, start_faulty):
    silent = start_faulty(lambda request, wire: wire.stall())
    spec = published(BASE)
    for place, longest in ((0, 2.6), (1, 1.1)):
        specs = [spec]
        specs.insert(place, SourceSpec(silent.url))
        started = trio.current_time()
        found = await open_set(*specs).find(BASE, active=True)
        assert found.source == spec
        assert trio.current_time() - started < longest


async def test_a_mistake_of_ours_with_one_source_hides_no_other(tmp_path, conf, published):
    good = published(BASE)

    def open_source(spec: SourceSpec):
        source = client.open_source(spec)
        if spec.url == CLOSED:
            source._server.url = None  # any question ends in TypeError
        return source

    source_set = SourceSet(
        [SourceSpec(CLOSED, "static"), good], imgadm_conf=conf, lists=tmp_path / "l", open_source=open_source
    )
    assert (await source_set.find(BASE, active=True)).source == good
    available = await source_set.available()
    assert len(available["images"]) == 1
    assert available["problems"][0]["error"]["code"] == "InternalError"


async def test_a_source_that_answers_in_time_is_preferred(open_set, published, start_faulty):
    body = json.dumps(fixture_manifest(BASE)).encode()

    def answer(request, wire):
        wire.stall(0.3)
        wire.reply("200 OK", {}, body)

    slow = start_faulty(answer)
    found = await open_set(SourceSpec(slow.url), published(BASE)).find(BASE, active=True)
    assert found.source.url == slow.url
    assert len(found.locations) == 2


# -- one search for all who want the same ------------------------------------------------------------------

QUERY = ("11111111-aaaa-4bbb-8ccc-000000000001", True, None, None)


async def ask_from_many(answer, count=5, query=QUERY):
    """What `count` callers get, and how often the sources were asked."""
    asked: list[object] = []
    answers: list[object] = []

    async def search():
        asked.append(query)
        await trio.sleep(1)
        return answer()

    searches = SharedSearches()

    async def one(nursery: trio.Nursery) -> None:
        try:
            answers.append(await searches.find(query, search, nursery))
        except ImgstoreError as error:
            answers.append(error)

    async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one, outer)
    return answers, asked


async def test_one_search_for_all(autojump_clock):
    answers, asked = await ask_from_many(lambda: "found")
    assert answers == ["found"] * 5
    assert asked == [QUERY]


async def test_all_get_its_error(autojump_clock):
    def fail():
        raise ClientError("down")

    answers, asked = await ask_from_many(fail)
    assert [error.message for error in answers] == ["down"] * 5
    assert len(asked) == 1


async def test_all_get_a_mistake_without_its_details(autojump_clock):
    def fail():
        raise ZeroDivisionError("secret")

    answers, _ = await ask_from_many(fail, count=2)
    assert all(isinstance(error, InternalError) and "secret" not in error.message for error in answers)


async def test_who_asks_first_may_leave(autojump_clock):
    searches = SharedSearches()

    async def search():
        await trio.sleep(1)
        return "found"

    async with trio.open_nursery() as outer:
        with trio.move_on_after(0.5):
            await searches.find(QUERY, search, outer)
        assert await searches.find(QUERY, search, outer) == "found"
        assert trio.current_time() == pytest.approx(1.0, abs=0.6)


async def test_nothing_is_remembered(autojump_clock):
    answers = iter(["first", "second"])

    async def search():
        return next(answers)

    searches = SharedSearches()
    async with trio.open_nursery() as nursery:
        assert await searches.find(QUERY, search, nursery) == "first"
        assert await searches.find(QUERY, search, nursery) == "second"


async def test_imports_share_one_search(open_set, start_faulty):
    go_on = threading.Event()

    def answer(request, wire):
        go_on.wait(30)
        wire.reply("200 OK", {}, json.dumps(fixture_manifest(BASE)).encode())

    server = start_faulty(answer)
    source_set = open_set(SourceSpec(server.url))
    found: list[object] = []

    async def one(nursery: trio.Nursery) -> None:
        found.append(await source_set.find_shared(BASE, active=True, import_id="a", nursery=nursery))

    async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(one, outer)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert len(server.requests) == 1
    assert all(each is found[0] for each in found)
