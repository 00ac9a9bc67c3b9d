"""Help, and completion for shells."""

from __future__ import annotations

from imgctl.commands.base import HELP, Command

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
