"""Completion as shells do it: the scripts, sourced by real shells, and what they ask the daemon for."""

from __future__ import annotations

import os
import pty
import select
import shlex
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from imgctl.commands import SOCKET, all_commands, find_command
from imgctl.completion import DYNAMIC, argument_kinds, flags, place_of

if TYPE_CHECKING:
    from pathlib import Path

U, V, W = (f"11111111-aaaa-4bbb-8ccc-{number:012}" for number in (1, 2, 3))
SOURCE = "https://images.example.com"


def image(uuid: str, name: str, version: str) -> dict[str, object]:
    return {
        "manifest": {"uuid": uuid, "name": name, "version": version},
        "zpool": "zones",
        "cloneNames": [],
        "clones": 0,
    }


@pytest.fixture
def host(daemon):
    """A host with images, another one at a source, and one that is coming."""
    daemon.store.images = [image(U, "base", "1.0"), image(V, "base", "2.0")]
    daemon.sources.found = {
        "images": [{"manifest": {"uuid": W, "name": "web", "version": "3"}}],
        "problems": [],
    }
    daemon.sources.specs = [{"url": SOURCE, "type": "imgapi", "insecure": False, "channel": None}]
    daemon.queries.past = [
        {"uuid": W, "name": "old", "version": "1", "action": a} for a in ("import", "delete")
    ]
    daemon.store.underway = [{"uuid": W, "name": "web", "version": "3"}]
    return daemon


@pytest.fixture
def environment(imgctl, folder: Path) -> dict[str, str]:
    """In which `imgctl` and `imgadm` are programs."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("imgctl", "imgadm"):
        program = programs / name
        program.write_text(f"#!{sys.executable}\nimport sys\nfrom imgctl.cli import main\nsys.exit(main())\n")
        program.chmod(0o755)
    return {**imgctl.environment, "PATH": f"{programs}:{os.environ['PATH']}", "TERM": "dumb"}


# -- what the shells ask for -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "prefix", "words"),
    [
        ("installed", "", ["base@1.0", "base@2.0", U, V]),
        ("installed", "base@2", ["base@2.0"]),
        ("installed", U[:-1], [U, V]),
        ("available", "", ["web@3", W]),
        ("jobs", "w", ["web@3"]),
        ("history", "", ["old@1", W]),
        ("pools", "", ["zones"]),
        ("pools", "x", []),
        ("sources", "https:", [SOURCE]),
    ],
)
def test_what_there_is(host, imgctl, kind, prefix, words):
    shown = imgctl("__complete", kind, prefix)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert [line.split("\t")[0] for line in shown.stdout.splitlines()] == words


def test_no_source_is_asked_for_what_is_known(host, imgctl):
    host.sources.remembered = [{"uuid": V, "name": "known", "version": "1"}]
    assert imgctl("__complete", "available").stdout == f"known@1\t{V}\n{V}\tknown@1\n"


def test_under_the_name_imgadm_there_are_no_names(host, imgctl):
    shown = imgctl("__complete", "installed", imgadm=True)
    assert shown.stdout == f"{U}\tbase@1.0\n{V}\tbase@2.0\n"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("history", "history"),
        ("list", "filters"),
        ("show", "available"),
        ("watch", "jobs"),
        ("verify", "installed"),
    ],
)
def test_what_a_command_is_about(name, kind):
    arguments, further = argument_kinds(find_command(name))
    assert {*arguments, further} - {""} == {kind}


def test_a_name_that_two_images_have_is_not_offered(host, imgctl):
    host.store.images.append(image(W, "base", "2.0"))
    assert imgctl("__complete", "installed", "base").stdout == f"base@1.0\t{U}\n"


@pytest.mark.parametrize("name", ["$(reboot)", "a b", "a;b", "`x`", "-rf", "é", "a\nb", "~root", "#x", "=ls"])
def test_what_a_shell_would_take_for_something_else_is_not_offered(host, imgctl, name):
    host.store.images = [image(U, name, "1\t2")]
    assert imgctl("__complete", "installed").stdout == f"{U}\t{name}@1\\t2\n".replace("a\nb", "a\\nb")


def test_it_is_silent_without_a_daemon(imgctl, folder):
    for kind in (*DYNAMIC, "bogus"):
        shown = imgctl("--socket", f"{folder}/none", "__complete", kind)
        assert (shown.returncode, shown.stdout, shown.stderr) == (1, "", "")


@pytest.mark.slow
def test_nobody_waits_for_a_daemon_that_hangs(imgctl, folder):
    import socket

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/hangs")
        listening.listen()
        began = time.monotonic()
        shown = imgctl("--socket", f"{folder}/hangs", "__complete", "installed")
    assert (shown.returncode, shown.stdout, shown.stderr) == (1, "", "")
    assert time.monotonic() - began < 10


# -- the tables --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: command.names[0])
def test_images_pools_and_files_of_every_command_are_completed(command):
    named = {option.argument for option in command.options}
    flags_of = [flag for option in command.options if option.argument for flag in option.flags]
    kinds = {place_of([command.names[0], flag, ""]).kind for flag in flags_of}
    assert ("pools" in kinds) == ("POOL" in named)
    assert ("files" in kinds) >= ("FILE" in named or "MANIFEST" in named)
    arguments, further = argument_kinds(command)
    assert command.among in DYNAMIC
    words = command.usage.replace("[", " ").replace("]", " ").replace(".", " ").split()
    assert (command.among in {*arguments, further}) == ("UUID" in words or "IMAGE" in words)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("program", ["imgctl", "imgadm"])
def test_a_script_is_one_that_its_shell_takes(imgctl, shell, program, tmp_path):
    text = imgctl("completion", shell, imgadm=program == "imgadm").stdout
    (tmp_path / "script").write_text(text)
    checked = subprocess.run([shell, "-n", tmp_path / "script"], text=True, capture_output=True, timeout=30)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert f" {program}" in text
    assert "@PROGRAM@" not in text


@pytest.mark.parametrize(
    ("line", "kind", "before", "word"),
    [
        ([], "commands", "", ""),
        (["zst"], "commands", "", "zst"),
        (["-v", "li"], "commands", "", "li"),
        (["--so"], "flags", "", "--so"),
        (["--socket", "/x"], "files", "", "/x"),
        (["list", "--so"], "flags", "", "--so"),
        (["list", "--socket=/x"], "files", "--socket=", "/x"),
        (["get", "-P", "zo"], "pools", "", "zo"),
        (["get", "--pool=zo"], "pools", "--pool=", "zo"),
        (["get", "x", "y", ""], "installed", "", ""),
        (["rm", "x"], "installed", "", "x"),
        (["hold", "x", "y", ""], "installed", "", ""),
        (["list", "-o", "uuid,na"], "fields", "uuid,", "na"),
        (["list", "-s", "uuid,na"], "fields", "uuid,", "na"),
        (["list", "na"], "filters", "", "na"),
        (["sources", "-t", ""], "=imgapi dsapi static oci", "", ""),
        (["get", "-o", ""], "=json yaml", "", ""),
        (["vmadm", "create", "-f", ""], "files", "", ""),
        (["bogus", ""], "", "", ""),
    ],
)
def test_where_a_word_is(line, kind, before, word):
    place = place_of(line)
    assert (place.kind, place.before, place.word) == (kind, before, word if kind else "")


def test_the_socket_that_is_named_is_asked(host, imgctl, folder):
    path = imgctl.environment.pop("IMGSTORED_SOCKET")
    for words in (
        ["--socket", path, "get", ""],
        [f"--socket={path}", "get", ""],
        ["get", "--socket", path, ""],
    ):
        assert f"\n{U}\t" in imgctl("__complete", "words", *words).stdout
    assert imgctl("__complete", "words", "--socket", f"{folder}/none", "get", "").stdout == ":\n"


def test_every_command_and_flag_is_completed_with_what_it_is_for(imgctl):
    names = dict(line.split("\t") for line in imgctl("__complete", "words", "").stdout.splitlines()[1:])
    assert {command.names[0] for command in all_commands()} <= names.keys()
    assert {"pull", "rm", "ls", "search"} <= names.keys()
    for command in all_commands():
        shown = imgctl("__complete", "words", command.names[0], "-").stdout.splitlines()[1:]
        assert [tuple(line.split("\t")) for line in shown] == flags(command)
    assert ("--socket", SOCKET.help) in flags(find_command("list"))


def test_imgadm_is_offered_what_imgadm_has(imgctl):
    def words(*line):
        lines = imgctl("__complete", "words", *line, imgadm=True).stdout.splitlines()[1:]
        return {line.split("\t")[0] for line in lines}

    assert "rm" not in words("")
    assert "--socket" not in words("list", "-")
    assert "--quiet" not in words("list", "-")
    assert "csv" not in words("list", "-o", "")


def test_an_alias_is_a_name_too(host, imgctl):
    host.aliases.there = {"stable": U}
    assert imgctl("__complete", "installed", "st").stdout == f"stable\t{U}\n"
    assert imgctl("__complete", "installed", "st", imgadm=True).stdout == ""


def test_a_shell_that_is_not_known(imgctl):
    shown = imgctl("completion", "tcsh")
    assert shown.returncode == 1
    assert shown.stderr.splitlines() == [
        'imgctl completion: error (Usage): unknown shell: "tcsh"',
        "  usage: imgctl completion bash|zsh|fish",
        "  hint: it may be one of bash, zsh, fish",
    ]


# -- bash --------------------------------------------------------------------------------------------------


def bash(environment: dict[str, str], line: str, *, program: str = "imgctl") -> list[str]:
    """What bash's COMPREPLY has at the end of a line."""
    words = [word for part in line.split(" ") for word in (part,)]
    code = (
        f"source <({program} completion bash); complete -p {program} > /dev/null || exit 9\n"
        f"COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)}\n"
        f"COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}\n"
        f'_{program} {program} "" ""; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("imgctl zst", ["zstream"]),
        ("imgctl --sock", ["--socket"]),
        ("imgctl import --p", ["--pool"]),
        ("imgctl delete ", ["base@1.0", "base@2.0", U, V]),
        ("imgctl destroy -P zones 111", [U, V]),
        ("imgctl delete base@", ["@1.0", "@2.0"]),
        ("imgctl import -P ", ["zones"]),
        ("imgctl import --pool=zo", ["zones"]),
        ("imgctl import w", ["web@3"]),
        ("imgctl hold x we", []),
        ("imgctl ensure x y w", ["web@3"]),
        ("imgctl sources -d ht", [SOURCE]),
        ("imgctl sources -d https:", [SOURCE.removeprefix("https:")]),
        ("imgctl sources -t i", ["imgapi"]),
        ("imgctl list -o uuid,na", ["uuid,name"]),
        ("imgctl list -o cs", ["csv"]),
        ("imgctl list na", ["name="]),
        ("imgctl completion ", ["bash", "zsh", "fish"]),
        ("imgctl help sou", ["sources"]),
        ("imgctl bogus ", []),
    ],
)
def test_bash(host, environment, line, words):
    assert bash(environment, line) == words


def test_bash_files_and_sockets(host, environment, folder):
    (folder / "a.imgmanifest").touch()
    assert bash(environment, f"imgctl install -m {folder}/a.im") == [f"{folder}/a.imgmanifest"]
    assert bash(environment, f"imgctl --socket {folder}/none delete ") == []
    assert bash(environment, f"imgctl --socket={folder}/none delete ") == []


def test_bash_completes_imgadm_under_that_name(host, environment):
    assert bash(environment, "imgadm delete ", program="imgadm") == [U, V]


def typed(shell: list[str], environment: dict[str, str], lines: list[str], wanted: str) -> str:
    """What a shell on a terminal shows for what is typed, until it shows what is wanted."""
    terminal, end = pty.openpty()
    with subprocess.Popen(
        shell, stdin=end, stdout=end, stderr=end, env=environment, start_new_session=True
    ) as run:
        os.close(end)
        shown = ""
        try:
            for number, line in enumerate(lines):
                os.write(terminal, line.encode())
                deadline = time.monotonic() + 20
                until = wanted if number == len(lines) - 1 else f"ready{number}"
                while until not in seen(shown) and time.monotonic() < deadline:
                    if select.select([terminal], [], [], 0.2)[0]:
                        shown += os.read(terminal, 4096).decode(errors="replace")
        finally:
            run.kill()
            os.close(terminal)
    return seen(shown)


def seen(written: str) -> str:
    """What is on the screen of a dumb terminal: backspaces and carriage returns go back, and overwrite."""
    lines: list[list[str]] = [[]]
    at = 0
    for character in written:
        if character == "\n":
            lines.append([])
        elif character == "\b":
            at = max(0, at - 1)
        elif character.isprintable():
            lines[-1][at : at + 1] = character
            at += 1
        if character in "\n\r":
            at = 0
    return "\n".join("".join(line) for line in lines)


@pytest.mark.slow
def test_bash_on_a_terminal(host, environment):
    lines = ["PS1=; source <(imgctl completion bash); echo rea''dy0\n", "imgctl get -P zo\tbase@2\t -x"]
    wanted = "imgctl get -P zones base@2.0  -x"
    assert wanted in typed(["bash", "--norc", "--noprofile", "-i"], environment, lines, wanted)


@pytest.mark.slow
def test_zsh_on_a_terminal(host, environment, folder):
    start = f"autoload -Uz compinit; compinit -D -d {folder}/dump; source <(imgctl completion zsh)"
    words = {
        "imgctl get -P zo\tbase@2\t-x": "get -P zones base@2.0 -x",
        "imgctl zst\t-x": "zstream -x",
        "imgctl --sock\t-x": "--socket -x",
        "imgctl import --pool=zo\tweb\t-x": "--pool=zones web@3 -x",
        "imgctl sources -d ht\t-x": f"-d {SOURCE} -x",
        "imgctl sources -t stat\t-x": "-t static -x",
        "imgctl list -o uuid,na\tx na\tx": "-o uuid,namex name=x",
        f"imgctl --socket {folder}/none get base\t-x": "get base-x",
    }
    shell = ["zsh", "-f", "-i"]
    lines = [f"PS1= PS2= RPS1=; unsetopt beep zle_bracketed_paste; {start}; echo rea''dy0\n"]
    for line, wanted in words.items():
        assert wanted in typed(shell, environment, [*lines, line], wanted)


@pytest.mark.slow
def test_zsh_with_the_script_in_its_folder_for_functions(host, environment, folder):
    functions = folder / "functions"
    functions.mkdir()
    written = f"imgctl completion zsh > {functions}/_imgctl; fpath=({functions} $fpath)"
    start = f"PS1=; {written}; autoload -Uz compinit; compinit -D -u -d {folder}/dump; echo rea''dy0\n"
    for line, wanted in (("imgctl get base@2\t-x", "get base@2.0 -x"), ("imgctl g\t-x", "get -x")):
        assert wanted in typed(["zsh", "-f", "-i"], environment, [start, line], wanted)


# -- fish ----------------------------------------------------------------------------------------------------


def fish(environment: dict[str, str], line: str, folder: Path) -> dict[str, str]:
    """What fish offers at the end of a line, and what it says of each."""
    code = f"imgctl completion fish | source; complete -C {shlex.quote(line)}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", code],
        env={**environment, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    offered = (each.partition("\t") for each in done.stdout.splitlines())
    return {word: meaning for word, _, meaning in offered}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("imgctl zst", ["zstream"]),
        ("imgctl --sock", ["--socket"]),
        ("imgctl import --p", ["--pool"]),
        ("imgctl delete ", ["base@1.0", "base@2.0", U, V]),
        ("imgctl delete base@2", ["base@2.0"]),
        ("imgctl import --pool=zo", ["--pool=zones"]),
        ("imgctl sources -d https:", [SOURCE]),
        ("imgctl list -o uuid,na", ["uuid,name"]),
        ("imgctl list na", ["name="]),
        ("imgctl bogus ", []),
    ],
)
def test_fish(host, environment, folder, line, words):
    assert sorted(fish(environment, line, folder)) == sorted(words)


def test_fish_files_and_meanings(host, environment, folder):
    (folder / "a.imgmanifest").touch()
    files = fish(environment, f"imgctl install -m {folder}/a.im", folder)
    assert [*files] == [f"{folder}/a.imgmanifest"]
    assert fish(environment, "imgctl get base@1", folder) == {"base@1.0": U}
    assert fish(environment, "imgctl zst", folder)["zstream"] == find_command("zstream").summary
