"""The hooks for git: each runs what tests/setup.sh installs, so that a commit fetches nothing."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import yaml

FILE = Path(__file__).parents[2] / ".pre-commit-config.yaml"
HOOKS = [(repo["repo"], hook) for repo in yaml.safe_load(FILE.read_text())["repos"] for hook in repo["hooks"]]


@pytest.mark.parametrize(("repo", "hook"), HOOKS, ids=[hook["id"] for _, hook in HOOKS])
def test_a_hook_is_what_is_here(repo: str, hook: dict[str, str]):
    assert (repo, hook["language"]) == ("local", "system")
    program = hook["entry"].split()[0]
    here = program.replace(".venv/bin", str(Path(sys.prefix, "bin")))
    assert shutil.which(here), f"tests/setup.sh installs no {program}"
