"""Hooks of mkdocs: the places of the pages, and the targets of links out of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

_DOCS = Path(__file__).parents[1]


def on_config(config: Any) -> Any:
    """The pages lie beside the configuration, which mkdocs refuses to be told in the file itself."""
    config["docs_dir"] = str(_DOCS)
    return config


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Links to files outside of the site become their names. Raises `PluginError` where one is not there."""

    def named(found: re.Match[str]) -> str:
        words, target = found[1], found[2].partition("#")[0]
        if not (_DOCS / target).exists():
            raise PluginError(f"{page.file.src_path}: a link leads nowhere: {target}")
        path = str((_DOCS / target).resolve().relative_to(_DOCS.parent))
        return f"{words} (`{path}`)" if words.strip("`/") not in path else f"`{path}`"

    return re.sub(r"(?<!!)\[([^\]]+)\]\((\.\./[^)]+)\)", named, markdown)
