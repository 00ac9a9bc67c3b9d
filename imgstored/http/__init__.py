"""How the store speaks HTTP: where a file is, TLS, redirects, documents and byte ranges."""
