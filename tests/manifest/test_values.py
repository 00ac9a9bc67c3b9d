from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import InvalidUUIDError
from imgstored.manifest import check_uuid, is_uuid, timestamp
from imgstored.manifest.values import shown

UUID = "01b2c898-945f-11e1-a523-af1afbe22822"


@given(st.uuids())
def test_every_uuid_passes(uuid):
    assert check_uuid(str(uuid)) == str(uuid)


@pytest.mark.parametrize(
    "text",
    [
        "", UUID.upper(), UUID + "\n", " " + UUID, UUID[:-1], UUID.replace("-", ""), UUID.replace("0", "٠"),
        "../../../../tmp/x", None, 1, 10**5000, UUID.encode(), [UUID], {"uuid": UUID},
    ],
    ids=range(14),
)  # fmt: skip
def test_nothing_else_does(text):
    with pytest.raises(InvalidUUIDError) as caught:
        check_uuid(text)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 100
    assert not isinstance(text, str) or not is_uuid(text)


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_timestamp_is_the_moment_to_the_millisecond(moment):
    text = timestamp(moment)
    assert len(text) == 24
    assert text.endswith("Z")
    assert timedelta() <= moment - datetime.fromisoformat(text) < timedelta(milliseconds=1)


def test_the_message_is_imgadms():
    with pytest.raises(InvalidUUIDError) as caught:
        check_uuid("bogus")
    assert caught.value.message == 'invalid uuid: "bogus"'


@given(st.text())
def test_shown_text_is_short_and_printable(text):
    assert shown(text).isprintable()
    assert len(shown(text)) <= 64
    if text.isprintable() and len(text) <= 64:
        assert shown(text) == text
