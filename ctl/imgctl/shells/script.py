"""The scripts: each asks `__complete` for the words, and knows none itself."""

from __future__ import annotations

from imgctl.shells.bash import BASH
from imgctl.shells.fish import FISH
from imgctl.shells.zsh import ZSH

SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def completion_script(shell: str, program: str) -> str:
    """The script that completes the program in a shell of `SHELLS`."""
    return SHELLS[shell].replace("@PROGRAM@", program)
