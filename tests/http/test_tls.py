from __future__ import annotations

import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest
import trustme

from imgstored.errors import ClientError
from imgstored.http.location import Access
from imgstored.http.tls import tls_context

if TYPE_CHECKING:
    from pathlib import Path


def test_verifies_against_the_systems_authorities() -> None:
    context = tls_context(Access())
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_sources_own_authority_takes_the_systems_place(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = tls_context(Access(ca_file=str(tmp_path / "ca.pem")))
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == 1


def test_a_clients_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    one, another = authority.issue_cert("one.example"), authority.issue_cert("another.example")
    one.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    one.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    another.private_key_pem.write_to_path(str(tmp_path / "other.pem"))
    one.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    tls_context(Access(cert_file=str(tmp_path / "cert.pem"), key_file=str(tmp_path / "key.pem")))
    tls_context(Access(cert_file=str(tmp_path / "both.pem")))
    for key in ("other.pem", "missing.pem"):
        access = Access(cert_file=str(tmp_path / "cert.pem"), key_file=str(tmp_path / key))
        with pytest.raises(ClientError, match=r"the client's certificate in .* cannot be used"):
            tls_context(access)


def test_a_key_with_a_passphrase_is_refused_and_not_asked_for(tmp_path: Path) -> None:
    made = trustme.CA().issue_cert("one.example")
    made.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    locked = ["openssl", "pkey", "-aes256", "-passout", "pass:x", "-in", "both.pem", "-out", "locked.pem"]
    subprocess.run(locked, cwd=tmp_path, check=True, stdin=subprocess.DEVNULL)
    access = Access(cert_file=str(tmp_path / "both.pem"), key_file=str(tmp_path / "locked.pem"))
    with pytest.raises(ClientError, match="cannot be used"):
        tls_context(access)


def test_insecure_verifies_nothing() -> None:
    context = tls_context(Access(insecure=True))
    assert context.verify_mode == ssl.CERT_NONE
    assert not context.check_hostname


@pytest.mark.parametrize("content", [None, b"not a certificate"])
def test_authorities_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ClientError, match="cannot be read") as caught:
        tls_context(Access(ca_file=str(file)))
    assert str(file) in caught.value.message
