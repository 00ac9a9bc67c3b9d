"""Pictures from dot(1)'s language, by graphviz. Each says in its first lines of which text it was made."""

from __future__ import annotations

import hashlib
import re
import subprocess

from docs.make.dark import with_dark

#: The same for all pictures; also readable where a page is dark.
_LOOK = (
    "-Gfontname=Helvetica,Arial,sans-serif",
    "-Nfontname=Helvetica,Arial,sans-serif",
    "-Efontname=Helvetica,Arial,sans-serif",
    "-Gfontsize=12",
    "-Nfontsize=12",
    "-Efontsize=10",
    "-Gbgcolor=white",
    "-Gpad=0.2",
    "-Ecolor=#56606e",
    "-Efontcolor=#56606e",
)


def mark(text: str) -> str:
    """The mark in the picture of a text."""
    return f"<!-- of {hashlib.sha256(text.encode()).hexdigest()[:16]} -->"


def drawn(text: str) -> str:
    """The picture, as SVG. Raises `CalledProcessError`, and `FileNotFoundError` without graphviz."""
    done = subprocess.run(  # noqa: S603
        ["/usr/bin/dot", "-Tsvg", *_LOOK],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    svg = re.sub(r"<!--.*?-->\n?", "", done.stdout, flags=re.DOTALL)
    body = svg[svg.index("<svg") :]
    return f"{mark(text)}\n{with_dark(body)}"
