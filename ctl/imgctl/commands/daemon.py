"""The state of the daemon, checks of its host, help, and what shells and other hosts run."""

from __future__ import annotations

from imgctl.arguments import Option
from imgctl.commands.base import DOCUMENT_FORM, HELP, JSON, Command

_COMPLETION = """\
Completes commands, options, and names from the daemon: images by uuid and name,
pools, sources. For the current shell, or for all new shells:

    source <(imgctl completion bash)
    imgctl completion bash > /etc/bash_completion.d/imgctl
    imgctl completion zsh > /usr/local/share/zsh/site-functions/_imgctl
    imgctl completion fish > /etc/fish/completions/imgctl.fish

Run under the name imgadm, the script is for imgadm."""

COMMANDS = (
    Command(
        ("status",),
        "status [-j] [-o FORM]",
        "show the state of the daemon, its pools, sources and imports",
        "status:status",
        (HELP, JSON, DOCUMENT_FORM),
        "Sends no request to a source, but shows its last answer. The exit status is 1 if\n"
        "a pool or a source needs attention, and 0 if all is well.",
        examples=(
            ("status", "an overview"),
            ("status -j", "the same as JSON, for monitoring; the exit status says whether all is well"),
        ),
    ),
    Command(
        ("top",),
        "top [-d SECONDS] [-n COUNT] [-j]",
        "watch imports: the speed of each, and what limits it",
        "status:top",
        (
            HELP,
            Option(("-d",), "SECONDS", "Seconds between two updates. Default is 1."),
            Option(("-n",), "COUNT", "Exit after this many updates. Default is to run until q or Ctrl-C."),
            Option(JSON.flags, JSON.argument, "Print each update as a line of JSON."),
        ),
        "LIMIT is what an image waits for: the stages network, checksum, decompress and\n"
        "pool; its turn to download; its origin; or the lock of another program on the\n"
        "image. It is measured over the last seconds. On a terminal each update redraws\n"
        "the screen; elsewhere the updates follow one another.",
        examples=(
            ("top", "follow imports, until q"),
            ("top -j -n 10 -d 5", "for scripts: ten updates in JSON, one every five seconds"),
        ),
    ),
    Command(
        ("events",),
        "events [-j] [--since NUMBER] [--no-follow]",
        "print what happens: imports, deletions, holds, sources, the daemon",
        "history:events",
        (
            HELP,
            Option(
                ("--since",),
                "NUMBER",
                "Begin after the event with this number; 0 for all that are kept. Default is to begin now.",
            ),
            Option(("--no-follow",), "", "Print what has happened, and exit."),
            Option(JSON.flags, JSON.argument, "Print each event as a line of JSON."),
        ),
        "Prints a line for each thing that happens, until you interrupt it, and nothing while\n"
        "nothing happens. Each event has a number, and a restart does not begin anew at 1: a\n"
        "program that remembers the last number continues with --since. When the daemon is\n"
        "restarted, the command waits for it and goes on. If events are not kept any more, it\n"
        "says so; the daemon keeps the newest 10,000.",
        examples=(
            ("events", "follow what happens, until Ctrl-C"),
            ("events --since 0 --no-follow", "all that is kept"),
            ("events -j --since 4711", "for programs: what happened after event 4711, and then what happens"),
        ),
    ),
    Command(
        ("doctor",),
        "doctor [-j] [--config FILE]",
        "check the host, and say what to do about each problem",
        "doctor:doctor",
        (
            HELP,
            JSON,
            Option(
                ("--config",),
                "FILE",
                "The configuration to check if the daemon does not run. Default is the system's path.",
            ),
        ),
        "Checks the daemon, its configuration, privileges and pools, the image sources (with\n"
        "a request to each), the clock, free space, the view, imgadm's files, and installed\n"
        "images. If no daemon answers, it checks the host by itself (`imgstored --check`).\n"
        "It changes nothing. The exit status is 1 if a check fails, and 0 if not.",
        examples=(
            ("doctor", "all checks; run it as root to see what the daemon sees"),
            ("doctor -j", "the same as JSON, for monitoring"),
            ("doctor --config /etc/imgstored.toml", "why does the daemon not start?"),
        ),
    ),
    Command(
        ("config",),
        "config show|check [-j] [--config FILE]",
        "show the configuration that holds, or check it",
        "doctor:config",
        (
            HELP,
            Option(JSON.flags, JSON.argument, "With show: as JSON, {key, value, from}."),
            Option(
                ("--config",),
                "FILE",
                "Default is the running daemon's, or else the system's. May be given again.",
            ),
        ),
        "`show` prints TOML with every key, and the file and line of each value, or that it\n"
        "is a default. Secrets are hidden. `check` names all that would keep a daemon from\n"
        "starting: faults of the file, and what the host lacks. Both read the files as they\n"
        "are now (`imgstored --show`, `--check`), and need the right to read them.",
        examples=(
            ("config show", "all keys, with where each value is from"),
            ("config check --config /etc/imgstored.toml", "before a restart"),
        ),
    ),
    Command(
        ("help", "?"),
        "help [COMMAND]",
        "help on commands",
        "help:show_help",
        (HELP,),
        examples=(("help import", "what `import` does, and its options"),),
    ),
    Command(
        ("completion",),
        "completion bash|zsh|fish",
        "print a script for completion in a shell",
        "completion:script",
        (HELP,),
        _COMPLETION,
        examples=(("completion bash > /etc/bash_completion.d/imgctl", "for all users of bash"),),
    ),
    Command(
        ("__complete",),
        "__complete words WORD... | KIND [PREFIX]",
        "list the completions of a word",
        "completion:complete",
        (HELP,),
        mixed=False,
        examples=(
            ("__complete words get -P zo", "what `get -P zo` can go on with"),
            ("__complete installed base", 'installed images that start with "base"'),
        ),
    ),
    Command(
        ("__bridge",),
        "__bridge",
        "connect standard input and output with the daemon's socket",
        "bridge:bridge",
        (HELP,),
        "What `imgctl -H` runs on the other host.",
        examples=(("__bridge", "for an imgctl at the other end of ssh"),),
    ),
)
