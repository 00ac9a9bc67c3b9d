"""What a text quotes of URLs, headers and forms is not to be seen in it."""

from __future__ import annotations

import base64
import html
import json
import re
import time
from urllib.parse import quote, quote_plus

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from imgstored.http.documents import DocumentLimits, fetch_document
from imgstored.http.location import Access, Location, public
from imgstored.http.ranges import RangeConnection, Timeouts
from imgstored.http.secrets import HIDDEN, KNOWN, Disclosed, KnownSecrets, announce, redacted
from imgstored.http.upload import send

SECRET = "s3cret-value"


@pytest.mark.parametrize(
    "text",
    [
        f"http://u:{SECRET}@h/p: connection refused",
        f"https://{SECRET}@h",
        f"GET 'https://h/p?X-Amz-Signature={SECRET}&a=b#c' failed",
        f"HTTPS://h/#{SECRET}",
        f"proxy me:{SECRET}@proxy.example.com:3128 refused",
        f"illegal header ('Authorization', 'Basic {SECRET}')",
        f"(b'authorization', b'Basic {SECRET}')",
        f'{{"authorization": "{SECRET}"}}',
        f"Authorization: Bearer {SECRET}\nHost: h",
        f"proxy-authorization: {SECRET}",
        f"Cookie: a={SECRET}; b={SECRET}",
        f"x-auth-token: {SECRET}",
        f"client_secret={SECRET}&x=y",
        f"a=b&token={SECRET}",
        f"password = {SECRET}",
        f"the server says Bearer {SECRET}",
        f'Signature keyId="/u/keys/k",signature="{SECRET}"',
    ],
)
def test_a_secret_is_hidden(text):
    assert SECRET not in redacted(text)
    assert redacted(redacted(text)) == redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "image base@1.0.0 is not installed",
        "zones/11111111-aaaa-4bbb-8ccc-000000000002@final: busy",
        'unknown parameter "token"',
        "invalid token: unexpected character",
        "https://images.example.com/images/x/file: 404 Not Found",
        'from "https://updates.example.com?channel=dev"',
        "files[0].sha1: Invalid: not 40 digits",
        "a basic zone-dataset",
        "",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redacted(text) == text


def test_a_url_keeps_its_channel():
    assert (
        public(f"https://u:{SECRET}@h:81/a?token={SECRET}&channel=dev#{SECRET}")
        == "https://h:81/a?channel=dev"
    )
    assert public("http://[") == "(not a URL)"
    assert public("plain") == "plain"


@given(st.text(max_size=200))
def test_any_text_can_be_looked_through_again(text):
    assert redacted(redacted(text)) == redacted(text)


@pytest.mark.alone
@pytest.mark.parametrize(
    "piece", ["a", "a:", "a@", "http://", "token=", "cookie", "cookie:'", "=", "Basic ", "-"]
)
def test_a_long_hostile_text_takes_no_time(piece):
    began = time.monotonic()
    redacted(piece * (20_000 // len(piece)))
    assert time.monotonic() - began < 1


# -- known ones ----------------------------------------------------------------------------------------------

SPELLINGS = [
    str,
    lambda text: quote(text, safe=""),
    quote_plus,
    lambda text: quote(quote(quote(text, safe=""), safe=""), safe=""),
    lambda text: quote(text.encode("latin-1", errors="replace"), safe=""),
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(json.dumps(json.dumps(text))),
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: json.dumps(text).replace("/", r"\/")[1:-1],
    html.escape,
    lambda text: "".join(f"&#{ord(each)};" if not each.isalnum() else each for each in text),
    lambda text: "".join(f"&#x{ord(each):X};" if not each.isalnum() else each for each in text),
    lambda text: html.escape(quote(text, safe="/")),
    repr,
    lambda text: repr(text.encode()),
    lambda text: repr(text.encode().decode("latin-1")),
    lambda text: text.encode().decode("latin-1"),
]

#: As they are set; the letters and digits at both ends mark what must not be left.
SIGNS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF) | st.sampled_from("/+=&%\\\"'<>#?;: "))
WORDS = st.builds(lambda signs: f"k3y{signs}z9q", SIGNS)


@given(WORDS, st.sampled_from(SPELLINGS), st.sampled_from(["", " ", "/", "\n", "=", "'", '"']))
def test_a_known_secret_is_hidden_however_it_is_spelt(secret, spelt, sign):
    known = KnownSecrets()
    known.configure([secret])
    text = known.hidden(f"a {spelt(sign + secret + sign)} b")
    if spelt is SPELLINGS[4] and not secret.isascii() and max(secret) > "\xff":
        return  # Latin-1 does not have it: the server quotes something else
    assert "k3y" not in text
    assert "z9q" not in text
    assert HIDDEN in text


@pytest.mark.parametrize("spelt", SPELLINGS)
@pytest.mark.parametrize("sign", "/+=&%\"'<>#?;: \\\t\n\r\b\f\0\x1f\xa0\xe9\u0100")
def test_each_sign_in_each_spelling(spelt, sign):
    if spelt is SPELLINGS[4] and sign > "\xff":
        return  # Latin-1 does not have it
    known = KnownSecrets()
    known.configure([f"k3y{sign}z9q"])
    hidden = known.hidden(f"a {spelt(f'k3y{sign}z9q')} b")
    assert "k3y" not in hidden
    assert "z9q" not in hidden
    assert HIDDEN in hidden


@pytest.mark.parametrize("secret", ["abc1", "0000", "passw0rd", "installed"])
def test_a_short_secret_is_no_part_of_a_word(secret):
    known = KnownSecrets()
    known.configure([secret])
    for kept in (f"x{secret}", f"{secret}x", f"11111111{secret}", f"x{secret}x"):
        assert known.hidden(kept) == kept
    for text in (
        f"({secret})",
        f"%20{secret}%20",
        rf"\n{secret}",
        rf"\u0022{secret}\u0022",
        rf"\x22{secret}",
    ):
        assert secret not in known.hidden(text)


def test_one_secret_may_be_a_part_of_another():
    known = KnownSecrets()
    known.configure(["abcdef", "me:abcdef", "Basic abcdefgh"])
    assert known.hidden("me:abcdef, Basic abcdefgh, abcdef") == f"{HIDDEN}, {HIDDEN}, {HIDDEN}"


def test_signs_alone_are_hidden_as_they_are():
    known = KnownSecrets()
    known.configure(["#?!;"])
    assert known.hidden("a #?!; b") == f"a {HIDDEN} b"


def test_what_is_learned_is_bounded_and_settings_stay():
    known = KnownSecrets()
    known.configure(["setting-1"])
    known.configure(["setting-2"], of="elsewhere")
    for number in range(1000):
        known.learn([f"learned-{number}"])
        known.learn(["learned-0"])
    assert known.hidden("setting-1 setting-2 learned-999 learned-0 learned-1") == (
        f"{HIDDEN} {HIDDEN} {HIDDEN} {HIDDEN} learned-1"
    )
    known.configure(["setting-3"])
    assert known.hidden("setting-1 setting-3") == f"{HIDDEN} {HIDDEN}", "a server may still quote the old one"


def test_in_values():
    known = KnownSecrets()
    known.configure(["abcdef", "word"])
    value = {"a abcdef": ["abcdef", ("word", 1, None, Disclosed("abcdef"))], "word": {"word": b"abcdef"}}
    told = {f"a {HIDDEN}": [HIDDEN, ["word", 1, None, "abcdef"]], "word": {"word": b"abcdef"}}
    assert known.hidden_in(value, keep={"word"}) == told
    assert known.may_be_in(b"..abcdef..")
    assert not known.may_be_in(b"..abcde..")


def test_what_is_sent_is_announced():
    access = Access(proxy="http://me:proxypass@p:1", headers=(("X-Auth-Token", "headertoken"),))
    announce(Location("https://h/f?sig=signature", "https://h?key=sourcekey", access))
    text = "proxypass headertoken signature sourcekey " + base64.b64encode(b"me:proxypass").decode()
    assert KNOWN.hidden(text).rstrip("=") == " ".join([HIDDEN] * 5)


@pytest.mark.parametrize("secret", ["k3y/abc+efg", "/k3y/", "a/b/c/d/efg"])
def test_a_text_that_is_made_to_take_long_does_not(secret):
    """A minute for each of these would still be too much; they take some milliseconds."""
    known = KnownSecrets()
    known.configure([secret])
    for filling in ("\\", secret[0], "k3y\\\\\\\\", "k3y%252525", "k3y&amp;amp;amp;#000", "efg"):
        text = (filling * 10_000)[:10_000] + secret
        many = [text] * 1000
        began = time.monotonic()
        known.hidden_in(many)
        known.hidden(text * 100)
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("sign", [*'-/"%&\\ +.;', "\n", "é", "»é", "%5c", "\\%5c", "é%"])
def test_a_text_that_is_nearly_a_secret_takes_no_time(sign):
    """A server makes the secret up, in a redirect, and quotes all of it but the end: that took for ever."""
    count = 60 // len(sign)
    secret = f"abc{sign}" * count + "xyz"
    known = KnownSecrets()
    known.configure([secret])
    began = time.monotonic()
    for spelt in SPELLINGS:
        nearly = spelt(f"abc{sign}" * (count - 1))
        # What is not ASCII is not compared.
        assert known.hidden(f"{nearly} xyz") in (f"{nearly} xyz", *([] if sign.isascii() else [HIDDEN]))
        assert "xyz" not in known.hidden(spelt(secret))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("abc" + "é?" * 30 + "xyz", "abc" + "?" * 70 + " xyz"),
        ("abc" + "é-" * 30 + "xyz", "abc" + "&#45;" * 70 + " xyz"),
        ("abc" + "é-" * 30 + "xyz", "abc" + "\\u002d" * 70 + " xyz"),
        ("aébcdefghijklm", "%aa" * 20_000 + " bcdefghijklm"),
        ("aébcdefghijklm", "\\xaa" * 15_000 + " bcdefghijklm"),
    ],
)
def test_characters_that_are_not_ascii_take_no_time(secret, text):
    known = KnownSecrets()
    known.learn([secret])
    began = time.monotonic()
    known.hidden(text)
    assert time.monotonic() - began < 10
    assert HIDDEN in known.hidden(f"a {quote(secret)} b")


def test_a_long_token_behind_many_signs():
    known = KnownSecrets()
    known.learn(["a=b=" * 33 + "longtoken12345"])
    assert "longtoken" not in known.hidden(quote("a=b=" * 33 + "longtoken12345", safe=""))


@pytest.mark.parametrize("secret", ["theé", "éthe", "the =é", "é= the"])
def test_a_word_of_a_secret_is_none(secret):
    """A server's token must not blank out all that has a common word in it."""
    known = KnownSecrets()
    known.learn([secret])
    assert known.hidden("the image is not there, and the") == "the image is not there, and the"
    for spelt in SPELLINGS:
        assert "the" not in known.hidden(spelt(secret))


@pytest.mark.parametrize("sign", ["é", "-", "é-"])
def test_a_secret_of_many_signs_is_no_work(sign):
    """A server makes it up. An expression for one of 8 KiB took ten seconds to make."""
    secret = f"k3y{sign}" * 2000
    known = KnownSecrets()
    began = time.monotonic()
    for number in range(5):
        known.learn([f"{secret}{number}"])
    assert known.hidden(f"a {secret}4") == f"a {HIDDEN}"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "secret",
    ["é" + ";" * 8000 + "the", "the" + ";" * 8000 + "é", "é;the", "k3y%2525" * 1000, "a-" * 4000 + "the"],
)
@pytest.mark.parametrize(
    "filling", [";", "\\", "the ", "the;", "%25", "%252525", "&amp;", "&#59;", "\\u003b", "k3y%", "%74he"]
)
def test_many_secrets_and_a_text_that_has_something_of_each(secret, filling):
    """All of it was made to take long, and the whole daemon waits meanwhile."""
    known = KnownSecrets()
    known.learn([f"{secret}{number}-the-k3y" for number in range(48)])
    text = (filling * 65_536)[: 60 << 10] + " the k3y"
    began = time.monotonic()
    known.hidden(text)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("secret", ["a-" * 70 + "image", "image" + "é-" * 70, "a/b/c=image"])
def test_a_common_word_at_the_end_of_a_token_is_none(secret):
    known = KnownSecrets()
    known.learn([secret])
    assert known.hidden("the image is not there") == "the image is not there"
    for spelt in SPELLINGS:
        assert HIDDEN in known.hidden(f"the {spelt(secret)} is there")


@pytest.mark.parametrize("secret", ["pässwort", "»abcdefg", "éverysecret", "жж]\b_cba?_\\_,{", "the é"])
@pytest.mark.parametrize("first", [*SPELLINGS[:4], *SPELLINGS[5:13]])
@pytest.mark.parametrize("then", [*SPELLINGS[:3], *SPELLINGS[5:13]])
def test_mixtures_are_found(secret, first, then):
    known = KnownSecrets()
    known.configure([secret])
    hidden = known.hidden(f"a {then(first(secret))} b")
    assert HIDDEN in hidden
    assert max(re.findall("[a-z]+", secret), key=len) not in hidden


@pytest.mark.parametrize(
    "secret", ["deadbeef/c0ffee+1", "0022abcdefgh", "u0041-b-c-d-e-f-g", "2541/25-2541-25"]
)
@pytest.mark.parametrize("before", ["%", "\\", "\\u", "&#", "%25", "100%"])
def test_what_looks_like_an_escape_with_what_stands_before_it(secret, before):
    known = KnownSecrets()
    known.configure([secret])
    for spelt in SPELLINGS:
        assert HIDDEN in known.hidden(f"{before} {spelt(secret)}")
        assert HIDDEN in known.hidden(f"it is {spelt(before + secret)};"), spelt(before + secret)


@pytest.mark.parametrize(
    ("secrets", "value"),
    [
        (["aaaa" + a + b for a in "!#$%&*(" for b in ",./:;<="][:48], "a" * 65_000),
        (["aaaa" + a + b for a in "!#$%&*(" for b in ",./:;<="][:48], "a" * 1200 + "%25252525252541"),
        (["aaaa;"], ["a" * 65_000] * 8),
        ([("k3y" + ";" * 8190)[:8150] + "é" * each for each in range(48)], ["k3y"] * 3000),
        (
            ["a" * (70 - each) + "%2525252525252da" for each in range(48)],
            ["a" * 29_900 + "%25252525252541"] * 17,
        ),
        (["a" * (70 - each) + "b" + "a" * 28 for each in range(48)], ["a" * 29_999] * 34),
        (["hidd(", "n)(h", "en)(", "hidden", "(hidden", "den)"], "(hidden)" * 8000),
        (["k3y%252525" + "z" * 20], [("%252525252525" * 5000)[: 60 << 10] + "k3y"] * 8),
    ],
)
def test_what_a_server_makes_to_take_long(secrets, value):
    """Each took from 2 to 43 seconds once, of which the daemon did nothing else."""
    known = KnownSecrets()
    known.learn(secrets)
    began = time.monotonic()
    hidden = known.hidden_in(value)
    assert time.monotonic() - began < 8
    assert sum(map(len, hidden)) <= max(len(value) * len(HIDDEN), sum(map(len, value)))


def test_what_is_hidden_stays_as_it_is():
    known = KnownSecrets()
    known.configure(["hidden", "(hidden)"])
    assert known.hidden(f"a {HIDDEN} hidden b") == f"a {HIDDEN} {HIDDEN} b"


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("p4ssw0rd", "CORP%5Cp4ssw0rd"),
        ('p4"ssw', json.dumps(json.dumps('DOM\\p4"ssw'))),
        ("n/chtläng-esés", repr("CORP\\n/chtläng-esés".encode())),
        ("ab1__tr1‹=tr1é", json.dumps("\\" + html.escape("ab1__tr1‹=tr1é"))),
        ("abcd/efgh-ijklmnop", "100%abcd%252Fefgh-ijklmnop"),
    ],
)
def test_what_stands_before_a_secret_hides_none_of_it(secret, text):
    known = KnownSecrets()
    known.configure([secret])
    assert HIDDEN in known.hidden(text)


@pytest.mark.parametrize("secret", ["p(hidden)assword1234", "ab(hidden)xy", "((hidden))abc"])
def test_a_secret_that_has_what_stands_for_one(secret):
    known = KnownSecrets()
    known.learn([secret])
    assert known.hidden(f"x {secret} y") == f"x {HIDDEN} y"


@pytest.mark.parametrize("secret", ["the;", "2024;", "http;", "error;"])
def test_a_secret_that_is_a_word_takes_only_the_word(secret):
    known = KnownSecrets()
    known.learn([secret])
    text = "the error of http at 2024 is another"
    word = secret[:-1]
    assert known.hidden(text) == text.replace(word, HIDDEN, 1).replace(f"ano{HIDDEN}r", "another")


def test_a_long_text_with_something_like_a_secret_is_hidden_whole():
    known = KnownSecrets()
    known.configure(["k3y/abc+efg"])
    assert known.hidden("k3y " + "x" * (1 << 20)) == HIDDEN
    assert known.hidden("x" * (1 << 20)) == "x" * (1 << 20)


def test_one_value_has_texts_like_a_secret_looked_at_up_to_a_bound():
    """Or a list of nothing else, which a server may send, would take minutes."""
    known = KnownSecrets()
    known.configure(["k3y/abcdef+efg"])
    text = "abcdef" + "x" * 1000
    looked_at = known.hidden_in({"many": [text] * 5000})["many"]
    assert looked_at[0] == text
    assert looked_at[-1] == HIDDEN
    assert 250 < looked_at.count(text) < 275


# -- what is announced ---------------------------------------------------------------------------------------


async def document(location):
    await fetch_document(location, limits=DocumentLimits(tries=1), environ={})


async def ranges(location):
    connection = RangeConnection(location, timeouts=Timeouts(5, 5), environ={})
    try:
        await trio.to_thread.run_sync(
            lambda: connection.get(0, None, None, lambda _: lambda _: None, plain=True),
            limiter=trio.CapacityLimiter(1),
        )
    finally:
        connection.close()


async def upload(location):
    await send("POST", location)


@pytest.mark.parametrize("request_", [document, ranges, upload])
async def test_each_kind_of_request_is_announced(start_faulty, request_):
    server = start_faulty(lambda request, wire: wire.reply("200 OK", {}, b"{}"))
    headers = (("X-Auth-Token", "h3adertoken"),)
    await request_(Location(f"{server.url}/?token=qu3rytoken", "http://h", Access(headers=headers)))
    assert KNOWN.hidden("qu3rytoken h3adertoken") == f"{HIDDEN} {HIDDEN}"


@pytest.mark.parametrize("request_", [document, ranges])
async def test_where_a_redirect_leads_is_announced_too(start_faulty, request_):
    """A signed URL of an object store."""

    def answer(request, wire):
        if "sig=" in request.target:
            wire.reply("200 OK", {}, b"{}")
        else:
            wire.reply("302 Found", {"Location": "/there?sig=s1gnature"})

    await request_(Location(start_faulty(answer).url, "http://h"))
    assert KNOWN.hidden("s1gnature") == HIDDEN


def test_half_characters_are_no_fault():
    """They come from the environment, where a proxy's password may be any bytes."""
    known = KnownSecrets()
    known.learn(["\udcff\udcfe\udcff\udcff"])
    assert known.hidden("it is \udcff\udcfe\udcff\udcff!") == f"it is {HIDDEN}!"
