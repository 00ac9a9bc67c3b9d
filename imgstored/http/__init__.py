"""HTTP for the store: locations of files, TLS, redirects, documents and byte ranges."""
