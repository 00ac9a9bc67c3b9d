"""The pages for people: rendered, searched, and hostile manifests in a real browser."""

from __future__ import annotations

import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.httpd.message import HttpError, Request
from imgstored.serve.page import Job, Pages
from tests.support.browser import Browser
from tests.support.http_server import serving
from tests.support.image_site import BASE, INCREMENTAL, fixture_manifest

ADDRESS = "http://images.example.com"
PAGES = Pages()

CHROMIUM = (
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=2000",
)  # fmt: skip


class NoBody:
    length = 0

    def pieces(self, limit):
        return iter(())


def image(number, **fields):
    uuid = f"11111111-aaaa-4bbb-8ccc-{number:012}"
    document = {
        "v": 2,
        "uuid": uuid,
        "name": f"name-{number}",
        "version": "1.0",
        "os": "smartos",
        "type": "zone-dataset",
        "state": "active",
        "published_at": "2026-01-01T00:00:00Z",
        "files": [{"size": 1536 << 20, "sha1": "0" * 40, "compression": "gzip"}],
        **fields,
    }
    return SimpleNamespace(uuid=uuid, document=document)


def request(path="/", query=""):
    return Request("GET", path, query, {"host": "images.example.com"}, NoBody(), "127.0.0.1", secure=False)


def listed(images, query="", jobs=()):
    response = PAGES.list(request(query=query), ADDRESS, images, jobs)
    assert response.status == 200
    return b"".join(response.parts).decode()


def shown(one, images=()):
    response = PAGES.image(request(), ADDRESS, one, {each.uuid: each for each in images})
    return b"".join(response.parts).decode()


class Seen(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.links = []
        self.words = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name == "href"]
        assert not any(name.startswith("on") for name, _ in attrs), attrs

    def handle_data(self, data):
        self.words.append(data)


def test_the_newest_comes_first_with_all_that_people_ask_for():
    text = listed([image(1), image(2, origin=image(1).uuid), image(3, state="disabled")])
    assert text.index("name-2") < text.index(">name-1<")
    assert "2 images" in text
    assert "1.5 GiB" in text
    assert "name-1@1.0" in text  # the origin
    assert "name-3" not in text
    assert f"imgctl sources -a {ADDRESS}" in text


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("q=name-1", 1),
        ("q=NAME+SMARTOS", 3),
        ("q=linux", 0),
        ("q=aaaa-4bbb", 3),
        ("q=", 3),
        ("q=name-1+name-2", 0),
    ],
)
def test_a_search(query, count):
    text = listed([image(1), image(2), image(3)], query)
    assert Seen(text).tags.count("tr") == (count + 1 if count else 0)


def test_many_images_have_pages():
    images = [image(number) for number in range(250)]
    first, last = listed(images), listed(images, "page=2")
    assert ("/?page=1" in first, 'rel="prev"' in first) == (True, False)
    assert (">name-249<" in first, ">name-0<" in last) == (True, True)
    assert 'rel="next"' not in last
    for odd in ("page=999999", "page=-1", "page=x", "page=" + "9" * 100, "page=%D9%A1"):
        listed(images, odd)


def test_a_query_without_end_is_refused():
    with pytest.raises(HttpError, match="20 parameters"):
        listed([], "&".join(["a=1"] * 30))


def test_what_is_being_imported():
    text = listed(
        [], jobs=[Job("base", "1.0", "downloading", 1 << 20, 4 << 20), Job("b", "2", "waiting", 0, None)]
    )
    assert "1.0 MiB of 4.0 MiB" in text
    assert 'max="4194304" value="1048576"' in text


def test_an_image_with_its_ancestry_and_how_to_get_it():
    one = image(3, origin=image(2).uuid, description="Some text.", homepage="https://example.com/x")
    text = shown(one, [image(2, origin=image(1).uuid)])
    assert f"imgctl import {one.uuid}" in text
    assert "name-2@1.0" in text
    assert "is not on this server" in text
    assert "https://example.com/x" in Seen(text).links


def test_an_ancestry_that_goes_round_ends():
    one, other = image(1, origin=image(2).uuid), image(2, origin=image(1).uuid)
    assert shown(one, [one, other]).count("<li>") == 50


HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def hostile(number):
    fields = dict.fromkeys(("name", "version", "os", "type", "description", "homepage"), HOSTILE)
    return image(
        number, **fields, published_at=HOSTILE, files=[{"size": 1, "sha1": HOSTILE, "compression": HOSTILE}]
    )


def test_texts_of_manifests_are_texts():
    one = hostile(9)
    for text in (
        listed([one], jobs=[Job(HOSTILE, HOSTILE, HOSTILE, 0, 1)]),
        listed([one], "q=%3Cscript%3E"),
        shown(one),
    ):
        assert not {"script", "img"} & set(Seen(text).tags)
    links = Seen(shown(image(1, homepage="javascript:alert(1)"))).links
    assert not any(link.startswith("javascript") for link in links)


@given(
    st.dictionaries(
        st.sampled_from(
            ["name", "version", "os", "type", "description", "homepage", "files", "origin", "published_at"]
        ),
        st.none()
        | st.text()
        | st.integers()
        | st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=3))),
    )
)
def test_any_manifest_has_a_page(fields):
    one = image(1, **fields)
    for text in (listed([one]), shown(one, [one])):
        assert set(Seen(text).tags) <= {
            "html", "head", "meta", "title", "link", "body", "header", "a", "form", "label", "input",
            "button", "main", "h1", "h2", "table", "thead", "tr", "th", "tbody", "td", "p", "code", "footer",
            "span", "dl", "dt", "dd", "pre", "ol", "li",
        }  # fmt: skip


IMAGES = {
    each.uuid: each
    for each in (
        hostile(9),
        *(SimpleNamespace(uuid=uuid, document=fixture_manifest(uuid)) for uuid in (BASE, INCREMENTAL)),
    )
}


def application(request):
    if request.path == "/style.css":
        return PAGES.style()
    if request.path.startswith("/view/"):
        return PAGES.image(request, ADDRESS, IMAGES[request.path.removeprefix("/view/")], IMAGES)
    jobs = [Job("a-very-long-name-of-an-image", "20260101.12.3-rc1", "downloading", 900 << 20, 3 << 30)]
    return PAGES.list(request, ADDRESS, list(IMAGES.values()), jobs)


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_scrolls_sideways_and_no_date_is_broken(tmp_path, width):
    dates = """[...document.querySelectorAll("td[data-label=Published]")].map((cell) => {
        const text = document.createRange();
        text.selectNodeContents(cell);
        return text.getClientRects().length;
    })"""
    with serving(application) as server, Browser(tmp_path) as browser:
        for dark, background in ((False, "rgb(255, 255, 255)"), (True, "rgb(20, 23, 26)")):
            browser.screen(width, dark=dark)
            for path in ("/", "/?q=base", "/?q=nothing", *(f"/view/{uuid}" for uuid in IMAGES)):
                browser.open(server.url + path)
                assert browser.too_wide() == [], path
                assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == background
            browser.open(server.url)
            assert browser.evaluate(dates) == [1] * len(IMAGES)


@pytest.mark.slow
def test_in_a_real_browser(tmp_path):
    """It renders, the style sheet is allowed, and hostile texts run nothing."""
    with serving(application) as server:
        for path, words in (
            ("/", "3 images"),
            (f"/view/{INCREMENTAL}", "Builds on"),
            (f"/view/{hostile(9).uuid}", "Import it"),
        ):
            picture = tmp_path / "picture.png"
            options = [
                f"--user-data-dir={tmp_path}/profile",
                "--window-size=390,900",
                f"--screenshot={picture}",
            ]
            url = server.url + path
            done = subprocess.run(
                [*CHROMIUM, *options, "--dump-dom", url],
                capture_output=True,
                text=True,
                timeout=100,
                check=True,
            )
            assert words in done.stdout
            assert "<title>owned" not in done.stdout
            assert "Content Security Policy" not in done.stderr
            if not picture.exists():  # newer ones do one thing at a time
                subprocess.run([*CHROMIUM, *options, url], capture_output=True, timeout=100, check=True)
            assert picture.read_bytes().startswith(b"\x89PNG")
