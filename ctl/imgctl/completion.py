"""Completion in shells: what each word can be, by the tables of commands, and the scripts. Pure: no I/O.

A *kind* is one that the daemon is asked for (`DYNAMIC`), "commands", "flags", "files", "fields", "filters",
or `=` and the words themselves; "" is a word that nothing is known of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from imgctl.commands import GLOBAL_OPTIONS, IMGADMS_GLOBAL_OPTIONS, SOCKET, all_commands, find_command
from imgctl.image_fields import FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgctl.arguments import Option
    from imgctl.commands import Command

__all__ = ["DYNAMIC", "FIELDS", "SHELLS", "argument_kinds", "completion_script", "flags", "place_of"]

#: What the daemon is asked for.
DYNAMIC = ("installed", "available", "jobs", "history", "pools", "sources")

#: What the names of arguments mean. UUID is the command's own (`Command.among`).
_KINDS = {
    "POOL": "pools",
    "URL": "sources",
    "FILE": "files",
    "MANIFEST": "files",
    "PATH": "files",
    "DISK": "files",
    "DIR": "files",
    "SCRIPT": "files",
    "FORM": "=json yaml",
    "SOURCE": "files",
    "FORMAT": "=stream raw qcow2",
    "FIELD,...": "fields",
    "FILTERS": "filters",
    "FIELD=VALUE": "filters",
    "TYPE": "=imgapi dsapi static oci",
    "COMPRESSION": "=none gzip bzip2 xz zstd",
}

#: How usages call an image.
_IMAGE = ("UUID", "IMAGE")


def options_of(command: Command | None, *, imgadm: bool = False) -> Sequence[Option]:
    """The options that may be typed. None: those before a command."""
    if command is None:
        return IMGADMS_GLOBAL_OPTIONS if imgadm else GLOBAL_OPTIONS
    if imgadm or not command.mixed:
        return command.imgadms_options if imgadm else command.options
    return (*command.options, SOCKET)


def flags(command: Command | None, *, imgadm: bool = False) -> list[tuple[str, str]]:
    """All flags with what each is for. None: those before a command."""
    return [(flag, option.help) for option in options_of(command, imgadm=imgadm) for flag in option.flags]


class Place(NamedTuple):
    """The place of the typed word on a command line. `kind` is that of its candidates."""

    kind: str
    command: Command | None
    socket: str | None  #: the socket that was named so far
    before: str = ""  #: the part of the word that stays, as `--pool=` or `uuid,`
    word: str = ""  #: the rest of it


def place_of(words: Sequence[str], *, imgadm: bool = False) -> Place:
    """The place of the last one of the words that follow the program's name."""
    *typed, word = words or [""]
    command: Command | None = None
    unknown = False
    socket = waiting = None
    count = 0
    for each in typed:
        kinds = _with_argument(command, imgadm=imgadm)
        if waiting is not None:
            socket = _socket(waiting, each) or socket
            waiting = None
        elif each.startswith("-") and each != "-":
            flag, equals, value = each.partition("=")
            if equals:
                socket = _socket(flag, value) or socket
            elif flag in kinds:
                waiting = flag
        elif command is None and not unknown:
            command = find_command(each, imgadm=imgadm)
            unknown = command is None
        else:
            count += 1
    return _place(command, word, socket, waiting, count, unknown=unknown, imgadm=imgadm)


def _socket(flag: str, value: str) -> str | None:
    """The socket that an option names."""
    if flag in ("-H", "--host"):
        return f"ssh://{value.removeprefix('ssh://')}"
    return value if flag == "--socket" else None


def _place(
    command: Command | None,
    word: str,
    socket: str | None,
    waiting: str | None,
    count: int,
    *,
    unknown: bool,
    imgadm: bool,
) -> Place:
    if unknown:
        return Place("", None, socket)
    before = ""
    flag, equals, value = word.partition("=")
    if waiting is not None:
        kind = _with_argument(command, imgadm=imgadm)[waiting]
    elif equals and flag.startswith("--"):
        kind = _with_argument(command, imgadm=imgadm).get(flag, "")
        before, word = f"{flag}=", value
    elif word.startswith("-"):
        kind = "flags"
    elif command is None:
        kind = "commands"
    else:
        kinds, further = argument_kinds(command)
        kind = kinds[count] if count < len(kinds) else further
    if kind == "fields" and "," in word:
        head, comma, word = word.rpartition(",")
        before += head + comma
    return Place(kind, command, socket, before, word)


def _with_argument(command: Command | None, *, imgadm: bool) -> dict[str, str]:
    """The flags that take an argument, and its kind."""
    return {
        flag: _kind(command, option.argument)
        for option in options_of(command, imgadm=imgadm)
        if option.argument
        for flag in option.flags
    }


def argument_kinds(command: Command) -> tuple[list[str], str]:
    """The kinds of the arguments by their places, and that of all further ones."""
    kinds: list[str] = []
    # What comes after another program's own command is mostly a file.
    further = "" if command.mixed else "files"
    for word in _argument_names(command):
        kind = _kind(command, word.removesuffix("..."))
        if word.endswith("...") or kind == "filters":
            further = further or kind
        else:
            kinds.append(kind)
    return kinds, further


def _argument_names(command: Command) -> Iterator[str]:
    """The words of the usage that are neither options nor their arguments."""
    with_argument = {flag for option in command.options if option.argument for flag in option.flags}
    skip = False
    for word in command.usage.split()[1:]:
        bare = word.strip("[]")
        if skip or bare in ("OPTIONS", "|"):
            skip = False
        elif bare.startswith("-"):
            skip = bare in with_argument
        elif bare:
            yield bare


def _kind(command: Command | None, name: str) -> str:
    if command is not None and name in _IMAGE:
        return command.among
    if name == "COMMAND" and (command is None or command.mixed):
        return "=" + " ".join(known for each in all_commands() for known in each.names if known[0].isalpha())
    if "|" in name:
        return "=" + " ".join(word for word in name.split("|") if word.isascii() and word.isalnum())
    return _KINDS.get(name, "")


# -- the scripts ---------------------------------------------------------------------------------------------

#: Nothing that comes from the daemon is ever expanded: it is read line by line, never through `compgen -W`.
BASH = r"""# Completion of @PROGRAM@ in bash, made by `@PROGRAM@ completion bash`.

_@PROGRAM@() {
    local word directive sign part kept= i
    local -a typed=() lines=()
    # bash takes words apart at the signs of COMP_WORDBREAKS; here they are parted by spaces only.
    read -ra typed <<< "${COMP_LINE:0:COMP_POINT}"
    [[ ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]] && typed+=("")
    word=${typed[-1]}
    mapfile -t lines < <("${typed[0]}" __complete words "${typed[@]:1}" 2> /dev/null)
    directive=${lines[0]-}
    COMPREPLY=()
    if [[ $directive == :files ]]; then
        compopt -o filenames 2> /dev/null
        [[ $word == --*=* ]] && word=${word#*=}
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
    fi
    [[ $directive == :nospace ]] && compopt -o nospace 2> /dev/null
    # What is before the last sign that parts words is not replaced; "@" itself is.
    for sign in : = @; do
        if [[ $COMP_WORDBREAKS == *$sign* && $word == *$sign* ]]; then
            part=${word%"${word##*"$sign"}"}
            ((${#part} > ${#kept})) && kept=$part
        fi
    done
    kept=${kept%@}
    for ((i = 1; i < ${#lines[@]}; i++)); do
        COMPREPLY+=("${lines[i]%%$'\t'*}")
    done
    COMPREPLY=("${COMPREPLY[@]#"$kept"}")
}

complete -F _@PROGRAM@ @PROGRAM@
"""


ZSH = r"""#compdef @PROGRAM@
# Completion of @PROGRAM@ in zsh, made by `@PROGRAM@ completion zsh`.

_@PROGRAM@() {
    local line
    local -a lines=() found=() shown=() after=()
    lines=("${(@f)$("${words[1]}" __complete words "${(@)words[2,CURRENT-1]}" "$PREFIX" 2> /dev/null)}")
    if [[ ${lines[1]} == :files ]]; then
        [[ $PREFIX == --*'='* ]] && compset -P 1 '*='
        _files
        return
    fi
    [[ ${lines[1]} == :nospace ]] && after=(-S '')
    for line in "${(@)lines[2,-1]}"; do
        found+=("${line%%$'\t'*}")
        shown+=("${line/$'\t'/  -- }")
    done
    compadd "${after[@]}" -l -d shown -a found
}

# As a file in $fpath it is run to complete; read by `source`, it registers itself.
if [[ $funcstack[1] == _@PROGRAM@ ]]; then
    _@PROGRAM@ "$@"
else
    compdef _@PROGRAM@ @PROGRAM@
fi
"""


FISH = r"""# Completion of @PROGRAM@ in fish, made by `@PROGRAM@ completion fish`.

function __@PROGRAM@_complete
    set -l typed (commandline -opc)
    set -l word (commandline -ct)
    set -l lines ($typed[1] __complete words $typed[2..-1] "$word" 2>/dev/null)
    if test "$lines[1]" = :files
        set -l option (string match -r -- '^--[^=]*=' "$word")
        for path in (complete -C "'' "(string escape -- (string replace -- "$option" '' "$word")))
            printf '%s%s\n' "$option" $path
        end
    else
        printf '%s\n' $lines[2..-1]
    end
end

complete -c @PROGRAM@ -f -a '(__@PROGRAM@_complete)'
"""


SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def completion_script(shell: str, program: str) -> str:
    """The script that completes the program in a shell of `SHELLS`."""
    return SHELLS[shell].replace("@PROGRAM@", program)
