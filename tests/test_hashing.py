"""Which hash there is, and that none is taken for another."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import blake3
import pytest

from imgstored import hashing
from imgstored.hashing import BLAKE2B, BLAKE3, SIZE, Fingerprint, Hasher, fingerprint, preferred
from tests.support.without import environment

DATA = b"the image's bytes"
#: RFC 7693 has no vector of 32 bytes: coreutils' `b2sum -l 256` printed this.
B2SUM = "365110a1f91eb716b27c8090d4f521055ea02760f4a9928da2bcbf9702b0859b"


def test_blake3_is_preferred():
    assert preferred() == BLAKE3
    assert fingerprint(DATA) == (BLAKE3, blake3.blake3(DATA).digest())


def test_blake2b_is_what_others_call_so():
    assert fingerprint(DATA, BLAKE2B) == (BLAKE2B, bytes.fromhex(B2SUM))


@pytest.mark.parametrize("algorithm", [BLAKE2B, BLAKE3])
def test_pieces_make_what_the_whole_makes(algorithm):
    hasher = Hasher(algorithm)
    for piece in (DATA[:5], bytearray(DATA[5:9]), memoryview(DATA)[9:]):
        hasher.update(piece)
    made = hasher.fingerprint()
    assert made == fingerprint(DATA, algorithm)
    assert (made.algorithm, len(made.digest), made.can_be_compared) == (algorithm, SIZE, True)
    assert made.is_of(DATA)
    assert not made.is_of(DATA + b"?")


def test_one_algorithms_hash_is_never_anothers():
    digest = hashlib.blake2b(DATA, digest_size=SIZE).digest()
    assert Fingerprint(BLAKE2B, digest).is_of(DATA)
    assert not Fingerprint(BLAKE3, digest).is_of(DATA)


@pytest.mark.parametrize("name", ["", "sha256", "blake2b", "md5", "__class__"])
def test_a_name_that_is_not_known(name):
    unknown = Fingerprint(name, bytes(SIZE))
    assert not unknown.can_be_compared
    if name:
        with pytest.raises(KeyError):
            Hasher(name)


def test_without_the_package():
    code = (
        "import json; from imgstored.hashing import BLAKE3, Fingerprint, fingerprint, preferred;"
        "print(json.dumps([preferred(), fingerprint(b'x')[1].hex(),"
        " Fingerprint(BLAKE3, bytes(32)).can_be_compared]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment("blake3"),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    expected = hashlib.blake2b(b"x", digest_size=SIZE).hexdigest()
    assert json.loads(done.stdout) == [BLAKE2B, expected, False]


def test_the_names_are_those_that_state_has():
    """Changing one makes all state that was written with it worthless."""
    assert (BLAKE3, BLAKE2B, SIZE) == ("blake3", "blake2b-256", 32)
    assert set(hashing._ALGORITHMS) == {BLAKE3, BLAKE2B}
