"""The same answers as nginx gives for the same file: ranges and conditional requests."""

from __future__ import annotations

import email.parser
import http.client
import os
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.httpd.conditional import answer_with
from imgstored.httpd.message import OpenFile, Request, Span
from tests.support.http_server import serving
from tests.support.nginx import Nginx

SIZE = 10_000
CONTENT = bytes(number * 7 % 251 for number in range(SIZE))
MODIFIED = 1_700_000_000


class NoBody:
    length = 0

    def pieces(self, limit):
        return iter(())


def request(method="GET", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method, "/file", "", named, NoBody(), "127.0.0.1", secure=False)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("site") / "file"
    path.write_bytes(CONTENT)
    path.parent.chmod(0o755)
    os.utime(path, (MODIFIED, MODIFIED))
    return path


@pytest.fixture(scope="module")
def both(file, tmp_path_factory):
    """Ports of ours, and of nginx, with the same file at /file."""

    def application(request):
        fd = os.open(file, os.O_RDONLY)
        return answer_with(OpenFile(fd, SIZE, f'"{MODIFIED:x}-{SIZE:x}"', MODIFIED), request)

    with serving(application) as ours, Nginx(tmp_path_factory.mktemp("nginx"), root=file.parent) as nginx:
        yield ours.port, nginx.port


def asked(port, method, headers):
    """Status, headers that say something of the file, and the body; of several ranges, each part."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, "/file", headers=headers)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    kind = answer.headers.get("Content-Type", "")
    names = ["ETag", "Last-Modified", "Content-Range"]
    if answer.status == 200:
        names += ["Accept-Ranges"]
    if answer.status in (200, 206) and not kind.startswith("multipart"):
        names += ["Content-Length"]
    said = {name: answer.headers.get(name) for name in names}
    if answer.status >= 400:
        # nginx has a page of its own there, without validators.
        return answer.status, {"Content-Range": said["Content-Range"]}, b""
    if kind.startswith("multipart/byteranges"):
        whole = email.parser.BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
        body = [(part["Content-Range"], part.get_payload(decode=True)) for part in whole.get_payload()]
    return answer.status, said, body


ETAG = f'"{MODIFIED:x}-{SIZE:x}"'
THEN, BEFORE, AFTER = (formatdate(MODIFIED + shift, usegmt=True) for shift in (0, -60, 60))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Range": "bytes=0-0"},
        {"Range": "bytes=0-99"},
        {"Range": "bytes=9999-"},
        {"Range": "bytes=-1"},
        {"Range": "bytes=-0"},
        {"Range": "bytes=-000"},
        {"Range": "bytes= -0"},
        {"Range": "bytes=-0,0-9"},
        {"Range": "bytes=0-9,-0"},
        {"Range": "bytes=-0,20000-"},
        {"Range": "bytes=0-9,-0,-1"},
        {"Range": "lines=-0"},
        {"Range": "bytes=-20000"},
        {"Range": "bytes=500-20000"},
        {"Range": "bytes=10000-"},
        {"Range": "bytes=10000-10001"},
        {"Range": "bytes=0-9,20-29"},
        {"Range": "bytes=0-9,9990-"},
        {"Range": "bytes=0-9,20-29,-5"},
        {"Range": "bytes=0-9, 20000-20001"},
        {"Range": "lines=0-9"},
        {"If-None-Match": ETAG},
        {"If-None-Match": f"W/{ETAG}"},
        {"If-None-Match": "*"},
        {"If-None-Match": '"other"'},
        {"If-None-Match": f'"other", {ETAG}'},
        {"If-Match": ETAG},
        {"If-Match": "*"},
        {"If-Match": '"other"'},
        {"If-Modified-Since": THEN},
        {"If-Modified-Since": BEFORE},
        {"If-Modified-Since": "yesterday"},
        {"If-Unmodified-Since": THEN},
        {"If-Unmodified-Since": BEFORE},
        {"If-Unmodified-Since": AFTER},
        {"Range": "bytes=5-9", "If-Range": ETAG},
        {"Range": "bytes=5-9", "If-Range": '"other"'},
        {"Range": "bytes=5-9", "If-Range": THEN},
        {"Range": "bytes=5-9", "If-Range": BEFORE},
        {"Range": "bytes=5-9", "If-None-Match": ETAG},
        {"If-None-Match": '"other"', "If-Modified-Since": THEN},
    ],
    ids=lambda headers: ", ".join(f"{name}: {value}" for name, value in headers.items()) or "plain",
)
def test_the_answer_is_nginxs(both, headers):
    ours, theirs = both
    # A range is of GET alone (RFC 9110, 14.2); nginx knows it of HEAD, too.
    for method in ("GET",) if "Range" in headers else ("GET", "HEAD"):
        assert asked(ours, method, headers) == asked(theirs, method, headers), method


def test_whoever_asks_for_the_same_bytes_again_and_again_gets_them_once(file):
    fd = os.open(file, os.O_RDONLY)
    wanted = ",".join(["0-9999"] * 50)
    response = answer_with(OpenFile(fd, SIZE, ETAG, MODIFIED), request(range=f"bytes={wanted}"))
    assert response.status == 200
    assert response.length == SIZE
    response.close()


@given(
    st.text(max_size=60) | st.from_regex(r"bytes=(\d{0,6}-\d{0,6},?){1,5}", fullmatch=True),
    st.integers(0, 10**5),
)
def test_any_range_gives_bytes_of_the_file_or_none(value, size):
    file = OpenFile(-1, size, '"x"', MODIFIED)
    response = answer_with(file, request(range=value))
    assert response.status in (200, 206, 416)
    spans = [part for part in response.parts if isinstance(part, Span)]
    assert all(0 <= span.start <= span.stop <= size for span in spans)
    assert sum(span.stop - span.start for span in spans) <= size


NO_DATE = "Mon, 01 Jan 99999999999 00:00:00 GMT"


@pytest.mark.parametrize("name", ["if_modified_since", "if_unmodified_since", "if_range"])
@pytest.mark.parametrize("value", [NO_DATE, "Mon, 01 Jan 2024 00:00:00 +99999999999999999999"])
def test_a_date_that_no_clock_has_is_none(name, value):
    file = OpenFile(-1, 10, '"x"', MODIFIED)
    assert answer_with(file, request(**{name: value, "range": "bytes=0-1"})).status in (200, 206)


def test_a_file_is_closed_also_by_a_mistake(file, monkeypatch):
    def fail(*_):
        raise KeyError

    monkeypatch.setattr("imgstored.httpd.conditional._condition", fail)
    opened = OpenFile(os.open(file, os.O_RDONLY), SIZE, ETAG, MODIFIED)
    with pytest.raises(KeyError):
        answer_with(opened, request())
    assert opened.fd == -1
