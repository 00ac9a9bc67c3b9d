"""Every command in the documents is run: one page is one session. What cannot be run says why."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tempfile
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from imgctl.arguments import parse
from imgctl.commands import GLOBAL_OPTIONS, all_commands, find_command

from imgstored.config.loading import parse as parse_configuration
from tests.docs.pages import NO_SOURCE, PAGES, ROOT, Block, Command, blocks, commands, matches, server_of
from tests.docs.sandbox import Sandbox

#: Why a block may be not run. Where something else runs the same, that test is named, too: "REASON; TEST".
REASONS = {
    "needs SmartOS",
    "needs ZFS",
    "needs systemd",
    "installs packages",
    "changes this machine",
    "needs the network",
    "takes minutes",
    "is this test",
    "needs a clone of the project",
    "needs another host",
    "needs a terminal",
    "waits for ever",
}
LANGUAGES = {"console", "toml", "json", "python", "text", "yaml"}

ALL = [block for page in PAGES for block in blocks(page)]
NOT_RUN = [block for block in ALL if block.reason is not None]
SESSIONS = sorted(
    {block.page for block in ALL if block.language in ("console", "python") and not block.reason}
)


def place(block: Block) -> str:
    return block.place


# -- what is run ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("page", SESSIONS)
def test_a_pages_session(page: str):
    with (
        # Below a short path: that of a socket has 107 bytes.
        tempfile.TemporaryDirectory(prefix="docs-") as folder,
        Sandbox(
            Path(folder), with_source=NO_SOURCE not in PAGES[page], images=server_of(PAGES[page])
        ) as sandbox,
    ):
        for block in blocks(page):
            if block.reason is not None:
                continue
            if block.language == "python":
                check(sandbox, Command(block.place, f"python - <<'END'\n{block.text}\nEND", None))
            elif block.language == "console":
                for command in commands(block):
                    check(sandbox, command)


def check(sandbox: Sandbox, command: Command) -> None:
    """Runs a command. It must succeed, unless an error is what the page shows, and print what that shows."""
    status, printed = sandbox.run(command.text)
    told = f"{command.place}: $ {command.text}\nexit status {status}, and it printed:\n{printed}"
    if wanted := re.search(r"# exit status (\d+)$", command.text):
        assert status == int(wanted[1]), told
    else:
        assert (status != 0) == (": error (" in (command.output or "")), told
    if command.output is not None:
        assert matches(command.output, printed), f"{told}\nand not:\n{command.output}"


# -- what is not ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", NOT_RUN, ids=place)
def test_what_is_not_run_has_a_reason(block: Block):
    reason, _, test = (block.reason or "").partition("; ")
    assert reason in REASONS, f"{block.place}: not among the reasons: {reason}"
    if test:
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text(), f"{block.place}: there is no test {test}"


@pytest.mark.parametrize("block", [each for each in NOT_RUN if each.language == "console"], ids=place)
def test_what_is_not_run_could_be(block: Block):
    """It is a shell's, its imgctl is given what that takes, and its make has such a target."""
    makefile = (ROOT / "Makefile").read_text()
    for command in commands(block):
        subprocess.run(["/bin/bash", "-n"], input=command.text, text=True, check=True, timeout=30)
        for target in re.findall(r"^make (\w[\w-]*)", command.text):
            assert f"\n{target}:" in makefile, f"{command.place}: make has no target {target}"
        for line in re.findall(r"(?:^|[|;&(] *|sudo )imgctl ([^|;&)>\n]+)", command.text):
            taken(command.place, line)


def taken(where: str, line: str) -> None:
    """Fails unless imgctl takes such arguments."""
    name, *rest = parse(GLOBAL_OPTIONS, shlex.split(line.partition(" #")[0]), mixed=False).rest
    command = find_command(name)
    assert command is not None, where
    parse(command.options, rest, mixed=command.mixed)


# -- the rest of what is between fences, or in a line -------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str):
    assert {block.language for block in blocks(page)} <= LANGUAGES
    lines = ["", *re.sub(r"(?ms)^( *)```.*?^\1```$", "", PAGES[page]).splitlines()]
    indented = [
        line for before, line in pairwise(lines) if re.match(r" {4}(?! *[-*\d])", line) and not before.strip()
    ]
    assert indented == [], "a block of code has fences, and says what it is"


@pytest.mark.parametrize("block", [each for each in ALL if each.language == "toml"], ids=place)
def test_every_configuration_is_one(block: Block):
    if block.reason is None:
        parse_configuration(block.text)
    else:
        tomllib.loads(block.text)


@pytest.mark.parametrize("block", [each for each in ALL if each.language == "json"], ids=place)
def test_all_json_is_json(block: Block):
    json.loads(block.text)


@pytest.mark.parametrize("page", PAGES)
def test_imgctl_has_every_command_and_option_that_is_named(page: str):
    known = {name: command for command in all_commands() for name in command.names}
    for line in re.findall(r"`imgctl ([^`]+)`", PAGES[page]):
        words = line.split()
        if words[0].isupper() or words[0].startswith("-") or words[0] == "help":
            continue
        assert words[0] in known, f"{page}: imgctl {line}"
        flags = {flag for option in (*known[words[0]].options, *GLOBAL_OPTIONS) for flag in option.flags}
        own = re.split(r" -- | \\?\| ", line)[0]  # not another program's behind a pipe
        named = set(re.findall(r"(?<![\w-])(?:--[a-z][a-z-]*|-[A-Za-z](?!\w))", own))
        if known[words[0]].mixed:
            assert named <= flags | {"--help", "-h"}, f"{page}: imgctl {line}"


# -- what a page may show ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a b", "a b", True),
        ("a b", "a c", False),
        ("a ... c", "a b c", True),
        ("a\n...\nd", "a\nb\nc\nd", True),
        ("a\n...\nd", "a\nb\nc", False),
        ("it took 1.5 s", "it took 23 s", True),
        ("1.5 MiB", "2.5 MiB", False),
        ("a.b", "axb", False),
        ("2026-11-29  import", "2027-01-02  import", True),
        ("published 2026-11-29", "published 2027-01-02", False),
    ],
)
def test_what_may_differ(shown: str, printed: str, same: bool):
    assert matches(shown, printed) is same


@pytest.mark.parametrize("page", ["docs/expectations.md"])
def test_commands_within_a_table_exist_with_their_options(page: str):
    """What stands in the column of ours is a command line that imgctl takes."""
    found = re.findall(r"`imgctl ([^`|]+)`", PAGES[page])
    assert len(found) > 30
    for line in found:
        words = shlex.split(line)
        rest = parse(GLOBAL_OPTIONS, words, mixed=False).rest
        if not rest or rest[0].isupper():
            continue
        command = find_command(rest[0])
        assert command is not None, line
        if command.mixed:
            parse(command.options, rest[1:])
