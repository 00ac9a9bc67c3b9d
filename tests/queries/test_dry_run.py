"""A dry run says what the import then does, and refuses what the import refuses."""

from __future__ import annotations

import pytest

from imgstored.errors import ActiveImageNotFoundError, ImgstoreError
from imgstored.manifest.platform import Platform
from imgstored.queries.dry_run import DryRun
from tests.imports.house import TESTER, open_house, pages
from tests.support.image_site import BASE, INCREMENTAL, fixture_file, fixture_manifest
from tests.support.limits import import_limits

__all__ = ["open_house", "pages"]

OTHER = "11111111-aaaa-4bbb-8ccc-000000000009"
CIRCULAR = "11111111-aaaa-4bbb-8ccc-000000000008"
NOWHERE = "99999999-aaaa-4bbb-8ccc-000000000001"
SIZE = {BASE: 1_851_100, INCREMENTAL: 537_128}


async def planned(house, uuid):
    dry_run = DryRun(house.catalog, house.refresh, house.sources, house.imports, house.resources)
    return await dry_run.plan(uuid)


@pytest.mark.parametrize("installed", [[], [BASE], [BASE, INCREMENTAL]], ids=["none", "the origin", "all"])
async def test_what_it_says_is_what_is_done(open_house, nginx, installed):
    async with open_house() as house:
        if installed:
            await house.all_events(*installed)
        plan = await planned(house, INCREMENTAL)
        missing = [uuid for uuid in (INCREMENTAL, BASE) if uuid not in installed]
        states = [(image["uuid"], image["state"]) for image in plan["images"]]
        there = [(uuid, "installed") for uuid in (INCREMENTAL, BASE) if uuid in installed][:1]
        assert states == [(uuid, "missing") for uuid in missing] + there
        assert (plan["count"], plan["size"]) == (len(missing), sum(SIZE[uuid] for uuid in missing))
        assert plan["refusals"] == []
        assert house.imports.jobs() == []
        events = await house.all_events(INCREMENTAL)
        done = [(event["images"], event["size"]) for event in events if event["event"] == "plan"]
        assert done == ([(plan["count"], plan["size"])] if missing else [])


async def test_what_is_under_way_is_not_counted_again(open_house):
    async with open_house() as house, house.imports.request([BASE], requester=TESTER) as request:
        async for event in request:
            if event["event"] == "plan":
                break
        plan = await planned(house, INCREMENTAL)
        top, base = plan["images"]
        assert (top["state"], base["state"], plan["count"]) == ("missing", "under-way", 1)
        assert (base["name"], base["size"], base["origin"]) == ("base", SIZE[BASE], None)


TOO_NEW = {"requirements": {"min_platform": {"7.0": "20300101T000000Z"}}}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (TOO_NEW, "MinPlatform"),
        ({"origin": CIRCULAR}, "InvalidManifest"),
        ({"origin": NOWHERE}, "ImageNotFound"),
        ({"state": "disabled"}, "ActiveImageNotFound"),
    ],
)
async def test_both_refuse_for_the_same_reason(open_house, pages, fields, code):
    for each in ({"uuid": OTHER} | fields, {"uuid": CIRCULAR, "origin": OTHER}):
        pages.add(fixture_manifest(BASE) | each, fixture_file(BASE))
    async with open_house(platform=Platform("7.0", "20200101T000000Z")) as house:
        with pytest.raises(ImgstoreError) as caught:
            await house.all_events(OTHER)
        plan = await planned(house, OTHER)
        assert [error["code"] for error in plan["refusals"]] == [code]
        assert plan["refusals"][0]["message"] == caught.value.message


async def test_an_image_that_no_source_has_is_an_error(open_house):
    async with open_house() as house:
        with pytest.raises(ActiveImageNotFoundError):
            await planned(house, NOWHERE)


@pytest.mark.parametrize(
    ("size", "warned"),
    [(1, False), (1 << 40, True), (str(1 << 40), True), ("9" * 5000, False), (True, False)],
)
async def test_a_volume_that_may_not_fit_is_a_warning_and_the_imports_note(open_house, pages, size, warned):
    other = "11111111-aaaa-4bbb-8ccc-00000000000a"
    pages.add(fixture_manifest(BASE) | {"uuid": other, "image_size": size}, fixture_file(BASE))
    async with open_house() as house:
        plan = await planned(house, other)
        assert plan["refusals"] == []
        assert ["it may not fit" in each for each in plan["warnings"]] == [True] * warned
        notes = [event["text"] for event in await house.all_events(other) if event["event"] == "note"]
        doubts = [text for text in notes if "may not fit" in text]
        # The free space changes meanwhile.
        assert [text.partition(", and")[0] for text in doubts] == [
            text.partition(", and")[0] for text in plan["warnings"]
        ]


async def test_what_does_not_fit_is_refused(open_house):
    async with open_house(limits=import_limits(min_free=1 << 60)) as house:
        plan = await planned(house, BASE)
        assert [error["code"] for error in plan["refusals"]] == ["NoSpace", "NoSpace"]
        assert plan["room"]["spool"] > 0
