"""Image servers that are gone, not trusted, slow or of another time."""

from __future__ import annotations

import datetime as dt
import time
from email.utils import formatdate

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from imgstored.doctor import sources
from imgstored.doctor.sources import clock, lead_of
from tests.support.nginx import Nginx

pytestmark = pytest.mark.usefixtures("site")


@pytest.fixture
def served(site):
    (site / "index.html").write_text("[]")


def source(url, **settings):
    lines = [f'url = "{url}"', 'type = "static"', *(f"{key} = {value}" for key, value in settings.items())]
    return "[[sources]]\n" + "\n".join(lines) + "\n"


async def found(subject, check="sources"):
    return [finding for finding in await sources.sources(subject) if finding.check == check]


async def test_one_that_answers_and_one_that_was_stopped(examined, served, start_nginx):
    one, other = start_nginx(), start_nginx()
    subject = examined(source(one.url) + source(other.url))
    assert [finding.status for finding in await found(subject)] == ["ok", "ok"]
    assert [finding.status for finding in await found(subject, "clock")] == ["ok"]
    other.stop()
    first, second = await found(subject)
    assert (first.status, first.seen.startswith(f"{one.url} answers in ")) == ("ok", True)
    assert second.status == "fail"
    assert second.seen.startswith(other.url)
    assert "connection refused" in second.seen
    assert second.hint


async def test_one_whose_list_lacks_images(examined, site, nginx):
    (site / "index.html").write_text('[{"uuid": "33333333-aaaa-4bbb-8ccc-000000000001"}, {"n": 1e999}]')
    good, finding = await found(examined(source(nginx.url)))
    assert (good.status, finding.status) == ("ok", "warn")
    assert "1 entry of the list of" in finding.seen
    assert finding.hint


async def test_one_of_another_kind(examined, served, nginx):
    (finding,) = await found(examined(source(nginx.url).replace("static", "imgapi")))
    assert finding.status == "fail"
    assert "404" in finding.seen


async def test_a_certificate_that_has_expired(examined, served, site, tmp_path):
    folder = tmp_path / "nginx-expired"
    folder.mkdir()
    authority = trustme.CA()
    now = dt.datetime.now(dt.UTC)
    expired = authority.issue_cert(
        "127.0.0.1", not_before=now - dt.timedelta(days=9), not_after=now - dt.timedelta(days=2)
    )
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    expired.private_key_pem.write_to_path(str(folder / "server.key"))
    for blob in expired.cert_chain_pems:
        blob.write_to_path(str(folder / "server.pem"), append=True)
    with Nginx(folder, root=site, tls=True) as nginx:
        (finding,) = await found(examined(source(nginx.url, ca_file=f'"{nginx.ca_file}"')))
        assert finding.status == "fail"
        assert "certificate has expired" in finding.seen
        assert "`ca_file`" in finding.hint
        assert "clock" in finding.hint
        # Not verified: it answers, and that is said loudly.
        answers, loud = await found(examined(source(nginx.url, insecure="true")))
        assert answers.status == "ok"
        assert (loud.status, "IS NOT VERIFIED" in loud.seen) == ("warn", True)


async def test_a_certificate_of_nobody_we_trust(examined, served, start_nginx):
    nginx = start_nginx(tls=True)
    (finding,) = await found(examined(source(nginx.url)))
    assert (finding.status, "not trusted" in finding.seen) == ("fail", True)


async def test_one_that_never_answers(examined, start_faulty, monkeypatch):
    monkeypatch.setattr(sources, "_LIMIT", 0.3)
    server = start_faulty(lambda request, wire: wire.stall())
    (finding,) = await found(examined(source(server.url)))
    assert finding.status == "fail"
    assert "0.3 s" in finding.seen


async def test_one_that_is_slow(examined, start_faulty, monkeypatch):
    monkeypatch.setattr(sources, "_SLOW", 0.1)

    def answer(request, wire):
        wire.stall(0.2)
        wire.reply("200 OK", {}, b"[]")

    (finding,) = await found(examined(source(start_faulty(answer).url)))
    assert (finding.status, "slow" in finding.hint) == ("warn", True)


@pytest.mark.parametrize(
    ("shift", "status", "said"),
    [(0, "ok", "right"), (-60, "warn", "ahead of"), (60, "warn", "behind"), (86400, "fail", "behind")],
)
async def test_the_clock_against_a_servers(examined, start_faulty, shift, status, said):
    def answer(request, wire):
        wire.reply("200 OK", {"Date": formatdate(time.time() + shift, usegmt=True)}, b"[]")

    (finding,) = await found(examined(source(start_faulty(answer).url)), "clock")
    assert finding.status == status
    assert said in finding.seen
    assert bool(finding.hint) == (status != "ok")


async def test_no_time_is_no_fault(examined, start_faulty):
    server = start_faulty(lambda request, wire: wire.reply("200 OK", {"Date": "yesterday"}, b"[]"))
    (finding,) = await found(examined(source(server.url)), "clock")
    assert (finding.status, "not checked" in finding.seen) == ("ok", True)


async def test_no_sources_and_sources_that_cannot_be_read(examined):
    (finding,) = await found(examined(top="sources = []"))
    assert (finding.status, "imgctl sources -a" in finding.hint) == ("warn", True)
    subject = examined(top="sources = []")
    subject.settings.imgadm_folder.mkdir(parents=True)
    (subject.settings.imgadm_folder / "imgadm.conf").write_text("{")
    (finding,) = await found(subject)
    assert (finding.status, "not valid JSON" in finding.seen) == ("fail", True)


async def test_no_secret_of_a_url_is_told(examined, served, nginx):
    url = f"{nginx.url}/?token=geheim"
    everything = [str(finding) for finding in await sources.sources(examined(source(url, insecure="true")))]
    nginx.stop()
    everything += [str(finding) for finding in await sources.sources(examined(source(url)))]
    assert everything
    assert not [text for text in everything if "geheim" in text]


# -- the clock's arithmetic ----------------------------------------------------------------------------------


@given(
    offset=st.floats(-1e6, 1e6),
    taken=st.floats(0, 10),
    part=st.floats(0, 1),
    age=st.integers(0, 1000),
)
def test_a_right_clock_is_never_accused(offset, taken, part, age):
    """A server whose clock is ours, wherever in the request it looks at it, and through whatever cache."""
    ended = 1_795_560_000 + offset
    written = ended - part * taken - age
    headers = {"date": formatdate(int(written), usegmt=True), "age": str(age)}
    assert lead_of(headers, ended, taken) == pytest.approx(0, abs=1e-6)


def test_a_wrong_clock_is_told_by_how_much():
    headers = {"date": formatdate(1_795_560_000, usegmt=True)}
    assert lead_of(headers, 1_795_560_100.0, 0.5) == pytest.approx(98.5)
    assert lead_of(headers, 1_795_559_900.0, 0.5) == pytest.approx(-100)
    assert lead_of({}, 1.0, 0.1) is None
    for age in ("soon", "nan", "1e400", "-1e400"):
        assert lead_of({**headers, "age": age}, 1.0, 0.1) is None


def test_one_server_of_several_may_be_wrong():
    assert clock([0.0, 4000.0])[0].status == "ok"
    assert clock([1.0, 4000.0, 0.5])[0].status == "ok"
    assert clock([4000.0, 4001.0, 0.5])[0].status == "fail"
