"""The command line: parses global options, runs the command, reports its result."""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module

from imgctl import __version__
from imgctl.arguments import Arguments, parse
from imgctl.commands import GLOBAL_OPTIONS, IMGADMS_GLOBAL_OPTIONS, SOCKET, find_command
from imgctl.errors import CommandError
from imgctl.session import Session, flush

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    #: A command: its exit status, or None for 0. Raises `CommandError`.
    Run = Callable[[Session, Arguments], int | None]

#: As a shell reports a program that SIGINT or SIGPIPE ended.
INTERRUPTED, BROKEN_PIPE = 130, 141


def main() -> int:
    """Runs the command of `sys.argv`; returns the exit status."""
    # A list has many objects, and they stay until the end. To look among them for garbage, now or in the end,
    # takes longer than to sort them.
    gc.set_threshold(100_000)
    session = Session("imgadm" if sys.argv[0].rpartition("/")[2] == "imgadm" else "imgctl")
    try:
        return _reported(session, sys.argv[1:])
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE
    finally:
        gc.freeze()


def _reported(session: Session, argv: Sequence[str]) -> int:
    try:
        status = _run(session, argv)
        flush(sys.stdout)  # here at the latest it shows that nobody reads
    except CommandError as error:
        session.report(error)
        return error.exit_status
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        session.report(CommandError("FileSystem", str(error)))
        return 1
    return status or 0


def _run(session: Session, argv: Sequence[str]) -> int | None:
    given = parse(IMGADMS_GLOBAL_OPTIONS if session.is_imgadm else GLOBAL_OPTIONS, argv, mixed=False)
    session.verbose = given.flag("-v") or os.environ.get("IMGADM_LOG_LEVEL") in ("debug", "trace")
    session.structured_errors = given.flag("-E")
    session.socket_path = given.text("--socket")
    if (host := given.text("--host")) is not None:
        from imgctl.ssh import Host

        session.socket_path = Host(host + (session.socket_path or "")).url
    if given.flag("--version"):
        session.say([f"{session.program} {__version__}"])
        return 0
    if given.flag("-h") or not given.rest:
        return _without_command(session, given, host or given.text("--socket"))
    session.command, *rest = given.rest
    command = find_command(session.command, imgadm=session.is_imgadm)
    if command is None:
        raise unknown_command(session, session.command)
    session.usage = session.command + command.usage[len(command.names[0]) :]
    options = command.imgadms_options if session.is_imgadm else command.options
    if command.mixed and not session.is_imgadm:
        options = (*options, SOCKET)
    session.json_errors = command.mixed and not session.is_imgadm and ("-j" in rest or "--json" in rest)
    arguments = parse(options, rest, mixed=command.mixed)
    if not session.is_imgadm and (arguments.flag("-j") or command.asks_for_json(arguments.text("-o"))):
        session.json_errors = True
    session.socket_path = arguments.text("--socket") or session.socket_path
    if arguments.flag("-h"):
        from imgctl.run.help import command_help

        session.say(command_help(session.program, command))
        return 0
    return function_of(command.run)(session, arguments)


def _without_command(session: Session, given: Arguments, taken: str | None) -> int:
    """Shows the overview. Raises `CommandError` where an option may have `taken` the command."""
    if taken and not given.flag("-h"):
        raise _no_command(session, taken)
    from imgctl.run.help import overview

    session.say(overview(session.program))
    if given.flag("-h"):
        return 0
    if session.structured_errors:  # people have the overview
        raise CommandError("NoCommand", "no command was given")
    return 1


def _no_command(session: Session, taken: str) -> CommandError:
    """The error of an option without a command; most often its argument was forgotten: `imgctl -H list`."""
    is_command = find_command(taken, imgadm=session.is_imgadm) is not None
    flag, argument = ("-H", "HOST") if session.socket_path != taken else ("--socket", "PATH")
    hint = f"{flag} takes an argument: `{session.program} {flag} {argument} {taken}`" if is_command else ""
    return CommandError("NoCommand", f'no command was given, and {flag} is "{taken}"', hint)


def unknown_command(session: Session, name: str) -> CommandError:
    """The error of a command that there is not."""
    hint = ""
    if not session.is_imgadm:
        from imgctl import advice
        from imgctl.commands import command_names

        hint = advice.elsewhere(name) or advice.hint(
            name, command_names(), f"`{session.program} help` lists the commands"
        )
    return CommandError("UnknownCommand", f'unknown command: "{name}"', hint)


def function_of(name: str) -> Run:
    """The function that a row of the table of commands names."""
    module, _, function = name.partition(":")
    run: Run = getattr(import_module(f"imgctl.run.{module}"), function)
    return run


def _discard_output() -> None:
    """Discards unwritten output, so that the interpreter's last flush does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
