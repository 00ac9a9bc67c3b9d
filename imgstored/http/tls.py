"""TLS contexts of the store's connections."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from imgstored.errors import ClientError

if TYPE_CHECKING:
    from imgstored.http.location import Access


def tls_context(access: Access) -> ssl.SSLContext:
    """A client's context: TLS 1.2 or later, verifying against the system's or the source's authorities.

    Reads files; takes some 20 ms with the system's authorities. Raises `ClientError` when `ca_file`,
    `cert_file` or `key_file` is unusable.
    """
    try:
        context = ssl.create_default_context(cafile=access.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ClientError(
            f"the certificate authorities in {access.ca_file} cannot be read: {error}",
            hint="ca_file must name a file of PEM certificates that the daemon may read",
        ) from error
    if access.cert_file is not None:
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(access.cert_file, access.key_file, password="")
        except (OSError, ssl.SSLError) as error:
            files = " and ".join(name for name in (access.cert_file, access.key_file) if name)
            raise ClientError(
                f"the client's certificate in {files} cannot be used: {error}",
                hint="cert_file and key_file must name PEM files that the daemon may read, and that belong"
                " together; the key has no passphrase",
            ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
