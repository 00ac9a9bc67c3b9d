"""Slips of the keyboard: what imgctl says of a command, option, field or name that there is not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from imgctl import advice
from imgctl.commands import command_names, find_command

from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from tests.ctl.conftest import Command
    from tests.ctl.fake_daemon import FakeDaemon

EXPECTATIONS = Path(__file__).parents[2] / "docs/expectations.md"

U, V = (f"11111111-aaaa-4bbb-8ccc-{number:012}" for number in (1, 2))


def image(uuid: str, name: str, **fields: Any) -> dict[str, Any]:
    manifest = {"v": 2, "uuid": uuid, "name": name, "version": "1.0", "os": "smartos", **fields}
    return {"manifest": manifest, "zpool": "zones", "cloneNames": [], "clones": 0}


@pytest.fixture
def images(daemon: FakeDaemon) -> None:
    daemon.store.images = [image(U, "base-64"), image(V, "web", shoe_size=7)]
    daemon.sources.remembered = [{"uuid": "f" * 36, "name": "postgres", "version": "16"}]


# -- what was perhaps meant ----------------------------------------------------------------------------------


def test_the_closest_word_comes_first_and_nothing_is_made_up():
    assert advice.close("lsit", ["list", "get", "install"])[0] == "list"
    assert advice.close("BASE-46", ["web", "base-64"]) == ["base-64"]
    assert advice.did_you_mean("xyzzy", ["list", "get"]) == ""
    assert advice.hint("xyzzy", ["list"], "see help") == "see help"
    assert advice.did_you_mean("a\x1b", ["b\x1b", "a\x9b\x1b"]).isprintable()


def test_a_very_long_word_costs_nothing():
    assert advice.close("x" * 200_000, ["x" * 199_999, "list"]) == []


# -- commands and options ------------------------------------------------------------------------------------


def test_a_command_that_is_nearly_one(imgctl: Command):
    shown = imgctl("lsit")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == (
        'imgctl lsit: error (UnknownCommand): unknown command: "lsit"\n'
        '  hint: did you mean "list" or "ls"? `imgctl help` lists the commands\n'
    )
    assert '  hint: did you mean "import"?' in imgctl("help", "improt").stderr
    assert json.loads(imgctl("-E", "lsit").stderr)["err"]["hint"].startswith('did you mean "list" or "ls"?')


def test_the_words_of_other_tools_are_answered(imgctl: Command):
    for word, said in advice.ELSEWHERE.items():
        assert find_command(word) is None, word
        assert imgctl(word).stderr.splitlines() == [
            f'imgctl {word}: error (UnknownCommand): unknown command: "{word}"',
            f"  hint: {said}",
        ]
        for command in re.findall("`imgctl ([a-z-]+)", said):
            assert command == "--version" or find_command(command) is not None, word
        assert re.search(rf"`(docker|incus|podman)[^`]* {word}\b", EXPECTATIONS.read_text()), word
    assert "jobs" not in imgctl("ps", imgadm=True).stderr


def test_a_host_that_was_forgotten(imgctl: Command):
    shown = imgctl("-H", "list")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.splitlines() == [
        'imgctl: error (NoCommand): no command was given, and -H is "list"',
        "  hint: -H takes an argument: `imgctl -H HOST list`",
    ]
    assert "`imgctl --socket PATH list`" in imgctl("--socket", "list").stderr
    (only,) = imgctl("-H", "web1").stderr.splitlines()
    assert only == 'imgctl: error (NoCommand): no command was given, and -H is "web1"'


def test_help_takes_what_a_command_is_to_do(imgctl: Command):
    for words in (("config", "show"), ("keys", "make")):
        assert imgctl("help", *words[:1]).stdout == imgctl("help", *words).stdout
        assert imgctl("help", *words).returncode == 0
    refused = imgctl("help", "list", "get")
    assert (refused.returncode, 'too many arguments: "list get"' in refused.stderr) == (1, True)
    assert "incorrect number of args (2)" in imgctl("help", "sources", "x", imgadm=True).stderr


def test_a_file_without_a_manifest(imgctl: Command):
    hint = imgctl("install", "-f", "my web.tar").stderr.splitlines()[-1]
    assert hint.startswith("  hint: what `imgctl export -o -` wrote has its manifest in it: ")
    assert "`imgctl install -f - < 'my web.tar'`" in hint
    assert "hint" not in imgctl("install", "-f", "web.tar", imgadm=True).stderr


def test_an_option_that_is_nearly_one(imgctl: Command):
    assert imgctl("import", "--pol", "zones", U).stderr.splitlines() == [
        'imgctl import: error (Option): unknown option: "--pol"',
        "  usage: imgctl import [OPTIONS] IMAGE...",
        '  hint: did you mean "--pool"?',
    ]


def test_a_usage_error_says_the_usage(imgctl: Command):
    assert imgctl("get").stderr.splitlines() == [
        "imgctl get: error (Usage): an argument is missing",
        "  usage: imgctl get [-P POOL] [-r] [-j] [-o FORM] IMAGE...",
    ]


@pytest.mark.parametrize("line", [["lsit"], ["get"], ["import", "--pol", U], ["list", "foo"]])
def test_imgadm_says_none_of_it(imgctl: Command, line: list[str]):
    (only,) = imgctl(*line, imgadm=True).stderr.splitlines()
    assert "error (" in only


# -- names of other tools ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "name"), [("pull", "import"), ("ls", "list"), ("rm", "delete"), ("search", "avail")]
)
def test_names_that_people_know_from_other_tools(imgctl: Command, alias: str, name: str):
    command = find_command(name)
    assert find_command(alias) is command
    assert alias in command_names()
    assert alias in imgctl("help", name).stdout
    # To imgadm they are as unknown as they were.
    assert find_command(alias, imgadm=True) is None
    assert imgctl(alias, imgadm=True).stderr == (
        f'imgadm {alias}: error (UnknownCommand): unknown command: "{alias}"\n'
    )
    assert f" {alias}" not in imgctl("help", name, imgadm=True).stdout


def test_a_word_is_looked_for_in_names(daemon: FakeDaemon, imgctl: Command, images):
    daemon.sources.found["images"] = [{"manifest": each["manifest"]} for each in daemon.store.images]
    for command in ("ls", "search"):
        assert imgctl(command, "-H", "-o", "name", "ase").stdout == "base-64\n"
    assert 'invalid filter: "ase"' in imgctl("list", "ase", imgadm=True).stderr


def test_help_says_where_a_name_will_do(imgctl: Command):
    assert "imgctl delete [-P POOL] [-j] IMAGE..." in imgctl("help", "delete").stdout
    shown = imgctl("help", "delete", imgadm=True).stdout
    assert "imgadm delete [-P POOL] UUID\n" in shown
    assert "--json" not in shown
    assert "IMAGE" not in shown + imgctl("help", imgadm=True).stdout


# -- fields --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (["-o", "uuid,nmae"], "nmae"),
        (["-s", "-nmae"], "nmae"),
        (["nmae=web"], "nmae"),
        (["nmae.x=~web"], "nmae.x"),
        (["-j", "nmae=web"], "nmae"),
    ],
)
def test_a_field_that_no_image_has_is_told(imgctl: Command, images, line: list[str], field: str):
    shown = imgctl("list", *line)
    assert shown.returncode == 0
    assert shown.stderr.startswith(f'imgctl list: warning: no image has the field "{field}"')
    assert "." in field or shown.stderr.endswith(': did you mean "name"?\n')
    assert imgctl("list", *line, imgadm=True).stderr == ""


@pytest.mark.parametrize(
    "line",
    [["-o", "uuid,origin,pinned,held,urn"], ["owner=x"], ["-s", "shoe_size"], ["shoe_size=7"], ["clones=1"]],
)
def test_a_field_that_an_image_could_have_is_no_slip(imgctl: Command, images, line: list[str]):
    assert imgctl("list", *line).stderr == ""


def test_without_images_no_field_is_known_to_be_wrong(imgctl: Command):
    assert imgctl("list", "foo=bar").stderr == ""


# -- names of images -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (["get", "base-46"], 'did you mean "base-64"?'),
        (["delete", "wbe"], 'did you mean "web"?'),
        (["get", "postgres"], "`imgctl import postgres` installs it, if a source has it"),
        (["get", "postgres@16"], "`imgctl import postgres@16` installs it, if a source has it"),
        (["get", "postgers"], 'did you mean "postgres"? (a source has that)'),
        (["get", "postgers@16"], 'did you mean "postgres@16"? (a source has that)'),
        (
            ["get", "nosuch"],
            "`imgctl list` lists the installed images, and `imgctl avail` those of the sources",
        ),
        (["import", "postgers"], 'did you mean "postgres"?'),
        (["cancel", "nosuch"], "`imgctl jobs` lists the imports under way"),
    ],
)
def test_a_name_that_nothing_has(imgctl: Command, images, line: list[str], hint: str):
    shown = imgctl(*line)
    assert shown.returncode in (1, 3)
    assert shown.stderr.splitlines()[-1] == f"  hint: {hint}"


# -- the socket ----------------------------------------------------------------------------------------------


def test_the_socket_may_be_named_after_the_command(imgctl: Command, images, folder: Path):
    path = imgctl.environment.pop("IMGSTORED_SOCKET")
    for line in (["--socket", path, "list"], ["list", "--socket", path], ["list", f"--socket={path}", "-H"]):
        assert U in imgctl(*line).stdout
    # The one that comes last counts.
    assert U in imgctl("--socket", f"{folder}/none", "list", "--socket", path).stdout
    refused = imgctl("list", "--socket", path, imgadm=True)
    assert 'error (Option): unknown option: "--socket"' in refused.stderr


# -- on a terminal -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [100, 40])
@pytest.mark.parametrize("plain", [False, True])
def test_a_slip_on_a_terminal(imgctl: Command, images, columns: int, plain: bool):
    environment = {**imgctl.environment, "TERM": "xterm"}
    if plain:
        environment |= {"NO_COLOR": "1", "PYTHONIOENCODING": "ascii"}
    with Terminal(imgctl.line("get", "base-46"), environment, size=(24, columns)) as terminal:
        assert terminal.end() == 3
        lines = terminal.shown.decode().splitlines()
    hint = '  hint: did you mean "base-64"?'
    assert lines[-1] == (hint if plain else f"\x1b[2m{hint}\x1b[m")


@pytest.mark.parametrize(
    ("typed", "usage"), [("rm", "rm [-P POOL] [-j] IMAGE..."), ("pull", "pull [OPTIONS] IMAGE...")]
)
def test_a_usage_has_the_command_as_it_was_typed(imgctl: Command, typed: str, usage: str):
    assert f"  usage: imgctl {usage}\n" in imgctl(typed).stderr
