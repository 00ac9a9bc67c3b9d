"""`python -m docs.man` writes the pages beside this file, and docs/configuration.md, of which one is made."""

from __future__ import annotations

from pathlib import Path

from docs.make.configuration import configuration
from docs.man.pages import pages

page = Path(__file__).parents[1] / "configuration.md"
page.write_text(configuration(page.read_text(encoding="utf-8")), encoding="utf-8")

for name, made in pages().items():
    Path(__file__).with_name(name).write_text(made, encoding="ascii")
