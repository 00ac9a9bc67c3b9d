"""`python -m tests.docs.record README.md` runs a page's session, and writes down what it prints today.

Outputs that fit stay as they are, and so do those that have `...` in them: these are looked at by a person.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.docs.pages import NO_SOURCE, PAGES, ROOT, blocks, commands, matches, server_of
from tests.docs.sandbox import Sandbox


def recorded(page: str) -> str:
    """The page with today's outputs."""
    text = PAGES[page]
    with (
        tempfile.TemporaryDirectory(prefix="docs-") as folder,
        Sandbox(Path(folder), with_source=NO_SOURCE not in text, images=server_of(text)) as sandbox,
    ):
        for block in blocks(page):
            if block.reason is not None or block.language != "console":
                continue
            for command in commands(block):
                _, printed = sandbox.run(command.text)
                if command.output is None or matches(command.output, printed):
                    continue
                if "..." in command.output:
                    sys.stderr.write(f"{command.place}: it is otherwise now:\n{printed}\n")
                else:
                    text = text.replace(f"\n{command.output}\n", f"\n{printed}\n", 1)
    return text


if __name__ == "__main__":
    for name in sys.argv[1:]:
        (ROOT / name).write_text(recorded(name))
