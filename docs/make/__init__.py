"""Makes what is not written by hand in docs: tables from the code, and pictures. Also what mkdocs needs."""
