"""Hooks of mkdocs: the places of the pages, the targets of links out of them, what is copied of a session."""

from __future__ import annotations

import re
from html import escape, unescape
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


def on_page_content(html: str, **_: Any) -> str:
    """Adds what is copied of a session, its commands alone, and the column of each cell of a table."""
    html = re.sub(
        r'<div class="language-console highlight">(.*?)</div>', _with_commands, html, flags=re.DOTALL
    )
    return re.sub(r"<table>.*?</table>", _with_columns, html, flags=re.DOTALL)


def typed(session: str) -> str:
    """The commands of a session, without prompts and without what they print."""
    return "\n".join(line[2:] for line in session.splitlines() if re.match(r"[$>]( |$)", line))


def _with_commands(found: re.Match[str]) -> str:
    session = unescape(re.sub(r"<[^>]*>", "", found[1]))
    return f'<div class="language-console highlight" data-copy="{escape(typed(session))}">{found[1]}</div>'


def _with_columns(found: re.Match[str]) -> str:
    """A narrow screen shows no header: the third and later cells name their columns themselves."""
    names = [unescape(re.sub(r"<[^>]*>", "", cell)) for cell in re.findall(r"<th[^>]*>(.*?)</th>", found[0])]

    def row(cells: re.Match[str]) -> str:
        columns = iter(names)

        def cell(opening: re.Match[str]) -> str:
            name = next(columns, "")
            first = bool(names) and name == names[0]
            return opening[0] if first or not name else f'<td data-column="{escape(name)}"{opening[1]}>'

        return re.sub(r"<td([^>]*)>", cell, cells[0])

    return re.sub(r"<tr>.*?</tr>", row, found[0], flags=re.DOTALL)
