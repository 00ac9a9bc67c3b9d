"""docs/commands.md, from imgctl's tables of commands. Pure: no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgctl.commands import GLOBAL_OPTIONS, all_commands

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgctl.arguments import Option
    from imgctl.commands import Command

_HEAD = """\
# Commands

This page has the same texts as `imgctl help COMMAND`, and is made from the code. In place of a UUID, every
command also takes the beginning of one (four digits or more), `NAME`, `NAME@VERSION` or `NAME@latest`, as
long as that means one image; under the name `imgadm` a command takes only UUIDs. You may mix options and
arguments. `--` ends the options, and `--socket` may also follow the command.

With `-j` results are JSON on standard output, and an error is `{"error": {code, message, hint, exit_status,
data}}`, in one line on standard error. In every document the pool is `zpool`, and each time is text, such as
`"started": "2026-11-24T00:00:00Z"`. The key `pool`, and keys with seconds since the epoch, such as
`started_at`, will be removed after the first release.

Before the command:
"""


def page() -> str:
    """The page."""
    return "\n".join(
        [_HEAD, *_options(GLOBAL_OPTIONS), *(line for each in all_commands() for line in _of(each))]
    )


def _of(command: Command) -> Iterator[str]:
    yield from (f"## {command.names[0]}", "", f"`imgctl {command.usage}`", "")
    yield from (f"{command.summary[:1].upper()}{command.summary[1:]}.", "")
    if len(command.names) > 1:
        yield from (f"Also called {', '.join(f'`{name}`' for name in command.names[1:])}.", "")
    yield from _options([option for option in command.options if "--help" not in option.flags])
    if command.about:
        yield from ("```text", *command.about.splitlines(), "```", "")
    if command.examples:
        yield from ("| example | |", "| --- | --- |")
        for line, meaning in command.examples:
            yield f"| `imgctl {_cell(line)}` | {_cell(meaning)} |"
        yield ""


def _options(options: Sequence[Option]) -> Iterator[str]:
    if not options:
        return
    yield from ("| option | |", "| --- | --- |")
    for option in options:
        argument = f" {option.argument}" if option.argument else ""
        yield f"| `{_cell(', '.join(option.flags) + argument)}` | {_cell(option.help)} |"
    yield ""


def _cell(words: str) -> str:
    return words.replace("|", r"\|")
