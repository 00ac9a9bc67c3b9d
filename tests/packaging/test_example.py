"""The configuration that packages install: it is one, and what it has as defaults are the defaults."""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import to_builtins

from imgstored.config.loading import parse

FILE = Path(__file__).parents[2] / "smf" / "debian" / "imgstored.toml"


def test_it_changes_nothing_but_the_group():
    settings, default = to_builtins(parse(FILE.read_text())), to_builtins(parse(""))
    assert settings["socket"].pop("group") == "imgstore"
    assert default["socket"].pop("group") is None
    assert settings == default


def test_with_all_of_it_in_force_it_is_one_still():
    text = re.sub(r"^#(?=\w+ = |\[)", "", FILE.read_text(), flags=re.MULTILINE)
    assert text.count("\n#") < FILE.read_text().count("\n#")
    settings = parse(text)
    assert [pool.name for pool in settings.pool] == ["zones"]
