"""`python -m docs.man` writes the pages beside this file."""

from __future__ import annotations

from pathlib import Path

from docs.man.pages import pages

for name, page in pages().items():
    Path(__file__).with_name(name).write_text(page, encoding="ascii")
