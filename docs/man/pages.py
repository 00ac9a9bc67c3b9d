"""The three pages. What can be derived is: commands, options, examples, keys and their values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from imgctl import __version__
from imgctl.commands import GLOBAL_OPTIONS, all_commands

from docs.man.markdown import blocks
from docs.man.roff import (
    bold,
    header,
    heading,
    inline,
    item,
    literal,
    page,
    paragraph,
    subheading,
    text,
)
from imgstored.__main__ import argument_parser

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from imgctl.arguments import Option
    from imgctl.commands import Command

    from docs.man.markdown import Block

#: Of the last change to the words below.
DATE = "2026-11-24"

_PACKAGE = f"imgstore {__version__}"
_CONFIGURATION = Path(__file__).parents[1] / "configuration.md"

#: The variables that imgctl looks at.
ENVIRONMENT = {
    "IMGCTL_SSH": "The command for ssh, with options if need be, for `-H` and `copy`. Default is `ssh`.",
    "IMGSTORED_SOCKET": "Where imgstored listens, unless `--socket` says so; also `ssh://HOST`.",
    "NO_COLOR": "Set to anything: no colour. There is none either where the output is no terminal.",
    "TERM": "The kind of terminal; none that is `dumb` gets colour.",
    "COLUMNS": "The columns of the terminal that tables fit, if it is not to be asked.",
    "VISUAL": "The editor of `sources -e`.",
    "EDITOR": "The same, where `VISUAL` is not set. Default is vi.",
    "IMGCTL_VMADM": "The program that `imgctl vmadm` runs, instead of `/usr/sbin/vmadm`.",
    "TMPDIR": "Where files are written that are only published. Default is `/var/tmp`.",
    "IMGADM_LOG_LEVEL": "Set to `debug` or `trace`, it counts as `-v`, as with imgadm.",
    "IMGCTL_RECONNECT": "Seconds for which `import`, `ensure`, `wait`, `watch`, `top` and `events` wait "
    "for a daemon that is restarted; default is 120, and 0 ends them at once.",
    "REQ_ID": "What `-E` calls the request; default is a random uuid.",
}

_EXIT_STATUS = {
    "0": "All went well.",
    "1": "An error, with a message on standard error; also wrong options and arguments.",
    "3": "An image, or its origin, is not installed.",
    "130": "Ctrl-C. What this command alone wanted is not imported any further.",
    "141": "Nobody read the output any more.",
}


def pages() -> dict[str, str]:
    """The pages by their files' names."""
    return {
        name: page(['.\\" Made by `python -m docs.man`.', *lines])
        for name, lines in (
            ("imgctl.1", _imgctl()),
            ("imgstored.8", _imgstored()),
            ("imgstored.toml.5", _toml()),
        )
    }


# -- imgctl(1) -----------------------------------------------------------------------------------------------


def _imgctl() -> Iterator[str]:
    yield from header("imgctl", 1, DATE, _PACKAGE)
    yield from heading("name")
    yield text("imgctl") + r" \- " + text("install, look after and make the images of a SmartOS or ZFS host")
    yield from heading("synopsis")
    yield f"{bold('imgctl')} [OPTIONS] COMMAND [ARGS...]"
    yield ".br"
    yield f"{bold('imgctl help')} COMMAND"
    yield from heading("description")
    yield inline(
        "imgctl asks **imgstored**(8), the daemon that owns the host's images, and prints what it says."
        " Its words, texts and exit statuses are those of imgadm; run under the name imgadm (a link), it"
        " takes imgadm's place for programs, and takes uuids only."
    )
    yield from paragraph(
        "An import belongs to all who want it: it is downloaded once, all see its progress, and it ends when"
        " nobody wants it any more. After a broken connection, Ctrl-C or a restart the next one goes on where"
        " it was."
    )
    yield from heading("options")
    yield from paragraph("Before the command:")
    yield from _options(GLOBAL_OPTIONS)
    yield from heading("commands")
    yield from paragraph("Options and arguments of a command may be mixed; `--` ends the options.")
    for command in all_commands():
        yield from _command(command)
    yield from heading("environment")
    for name, meaning in ENVIRONMENT.items():
        yield from item(bold(name), meaning)
    yield from heading("exit status")
    for status, meaning in _EXIT_STATUS.items():
        yield from item(bold(status), meaning)
    yield from heading("files")
    yield from item(bold("/run/imgstored/imgstored.sock"), "The daemon's socket (illumos: in `/var/run`).")
    yield from _see_also("imgstored(8)", "imgstored.toml(5)")


def _command(command: Command) -> Iterator[str]:
    yield from subheading(f"imgctl {command.usage}")
    yield inline(_sentence(command.summary))
    if len(command.names) > 1:
        yield from paragraph(f"Aliases: {', '.join(f'**{name}**' for name in command.names[1:])}.")
    yield from _options(command.options)
    if command.about:
        yield from literal(command.about.splitlines())
    for line, meaning in command.examples:
        yield from paragraph(f"Example: {meaning}.")
        yield from literal([f"imgctl {line}"])


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _options(options: Sequence[Option]) -> Iterator[str]:
    for option in options:
        argument = f" {text(option.argument)}" if option.argument else ""
        yield from item(", ".join(map(bold, option.flags)) + argument, option.help)


# -- imgstored(8) --------------------------------------------------------------------------------------------


def _imgstored() -> Iterator[str]:
    parser = argument_parser()
    yield from header("imgstored", 8, DATE, _PACKAGE)
    yield from heading("name")
    yield text("imgstored") + r" \- " + text("daemon that owns the images of a SmartOS or ZFS host")
    yield from heading("synopsis")
    yield bold("imgstored") + " " + text(parser.format_usage().split(maxsplit=2)[2].strip())
    yield from heading("description")
    yield inline(
        "imgstored installs images from image servers (IMGAPI, DSAPI, or static files) into the host's pools,"
        " for all who ask on its socket: **imgctl**(1), and programs by the same protocol. It also shows what"
        " is installed as files, in `/images`."
    )
    yield from paragraph(
        "It stays in the foreground, unless told otherwise, and writes its log to standard error, one event a"
        " line. It wants to be root; another user can look after pools that need no ZFS. systemd hears"
        " from it by **sd_notify**(3)."
    )
    yield from heading("options")
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask
        flags = ", ".join(map(bold, action.option_strings))
        yield from item(f"{flags} {text(action.metavar or '')}".rstrip(), _sentence(action.help or ""))
    yield from heading("signals")
    yield from item(
        bold("SIGHUP"),
        "Read the configuration again. Sources, registries, limits, the log, the image server, mirrors and"
        " hooks change at once, the rest with the next start. A file that is wrong changes nothing.",
    )
    yield from item(
        bold("SIGTERM") + ", " + bold("SIGINT"),
        "Stop. What is being imported goes on with the next start; nothing that is whole is fetched again."
        " The same holds after SIGKILL, or when the host fails.",
    )
    yield from heading("exit status")
    yield from item(bold("0"), "It was told to stop.")
    yield from item(bold("1"), "An error, with a message on standard error.")
    yield from item(bold("2"), "Wrong arguments.")
    yield from item(bold("77"), "Something is not permitted to the user that it runs as.")
    yield from item(bold("78"), "The configuration cannot be used; to start again will not help.")
    yield from heading("files")
    yield from item(bold("/run/imgstored/imgstored.sock"), "The socket (illumos: in `/var/run`).")
    yield from item(bold("/var/lib/imgstored"), "Its own state (illumos: `/var/imgstored`).")
    yield from item(
        bold("/var/imgadm"), "imgadm's sources and manifests, shared with imgadm where a pool is ZFS."
    )
    yield from item(bold("/images"), "The installed images as files.")
    yield from paragraph("All of these can be changed: see **imgstored.toml**(5).")
    yield from _see_also("imgctl(1)", "imgstored.toml(5)", "zfs(8)")


# -- imgstored.toml(5) ---------------------------------------------------------------------------------------


def _toml() -> Iterator[str]:
    yield from header("imgstored.toml", 5, DATE, _PACKAGE)
    yield from heading("name")
    yield text("imgstored.toml") + r" \- " + text("configuration of imgstored")
    yield from heading("description")
    yield from _configuration(blocks(_CONFIGURATION.read_text(encoding="utf-8")))
    yield from _see_also("imgstored(8)", "imgctl(1)")


def _configuration(content: Iterable[Block]) -> Iterator[str]:
    for block in content:
        match block.kind:
            case "heading" if block.level > 1:
                yield from heading(block.words.strip("`"))
            case "paragraph":
                yield from paragraph(block.words)
            case "code":
                yield from literal([*block.lines])
            case "table":
                for row in block.rows:
                    yield from _key(*row)


def _key(key: str, values: str, default: str, meaning: str) -> Iterator[str]:
    yield from item(f"{bold(key.strip('`'))} = {text(values.replace('`', ''))}", meaning)
    if default:
        yield from [".br", inline(f"Default: {default}.")]


def _see_also(*others: str) -> Iterator[str]:
    yield from heading("see also")
    yield ", ".join(
        f"{bold(name)}({section}" for name, _, section in (each.partition("(") for each in others)
    )
