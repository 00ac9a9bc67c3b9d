"""The files that make a shell complete imgctl where it is installed: each asks the imgctl that is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "ctl" / "completions"

BASH = f"""
source {FOLDER}/imgctl
complete -p imgctl
COMP_WORDS=(imgctl comp) COMP_CWORD=1 COMP_LINE='imgctl comp' COMP_POINT=11
_imgctl imgctl comp imgctl
echo "${{COMPREPLY[@]}}"
"""

# As compinit does it, but the widget's own commands, which are there only while somebody types, print.
ZSH = f"""
fpath=({FOLDER} $fpath)
autoload -Uz compinit
compinit -D -u
print -r -- $_comps[imgctl]
compadd() {{ print -rl -- "${{shown[@]}}" }}
words=(imgctl comp) CURRENT=2 PREFIX=comp
_imgctl
"""


def run(*shell: str) -> list[str]:
    path = f"{Path(sys.prefix, 'bin')}:{os.environ['PATH']}"
    return subprocess.run(
        shell,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.splitlines()


@pytest.mark.slow
def test_bash():
    registered, words = run("bash", "--norc", "--noprofile", "-c", BASH)
    assert registered == "complete -F _imgctl imgctl"
    assert words.split() == ["completion"]


@pytest.mark.slow
def test_zsh():
    function, *words = run("zsh", "-f", "-c", ZSH)
    assert function == "_imgctl"
    assert any(word.startswith("completion ") for word in words)
    # Once: the script and this file do not both do it.
    assert len(words) == len(set(words))
