"""What starting imgctl costs."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import imgctl
import pytest

import imgstored

#: What is slow to import, or has no business here.
HEAVY = {
    "argparse", "asyncio", "dataclasses", "imgstored", "inspect", "json", "logging", "pathlib", "ssl",
    "subprocess", "tqdm", "trio", "unittest", "urllib", "uuid",
}  # fmt: skip


def modules(code: str) -> set[str]:
    """The modules that the code imports, in an interpreter without site-packages but for msgpack."""
    folder = Path(__file__).parents[2] / "ctl"
    import msgpack

    packages = Path(msgpack.__file__).parents[1]
    code = f"import sys; sys.path += [{str(folder)!r}, {str(packages)!r}]; {code}; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    return set(result.stdout.split())


@pytest.mark.parametrize("run", ["completion", "help", "images", "imports", "sources", "status", "programs"])
def test_it_imports_the_standard_library_and_msgpack(run):
    loaded = {name.partition(".")[0] for name in modules(f"import imgctl.cli, imgctl.run.{run}")}
    ours = {"__main__", "imgctl", "imgproto", "msgpack", "cython_runtime"}
    assert loaded - set(sys.stdlib_module_names) <= ours | {
        name for name in loaded if name.startswith("_cython")
    }
    assert loaded & HEAVY == set()


def test_a_listing_imports_nothing_that_only_types_or_options_need():
    loaded = modules("import imgctl.cli, imgctl.run.images, imgctl.commands.images")
    assert loaded & {"typing", "re", "getopt", "gettext", "dataclasses"} == set()
    # `socket` brings enum and selectors, `contextlib` brings functools: a third of the whole command.
    assert loaded & {"socket", "enum", "selectors", "array", "contextlib", "functools"} == set()
    assert {name for name in loaded if name.startswith("imgproto.")} == set()


def test_the_versions_are_one():
    assert imgctl.__version__ == imgstored.__version__


def processor_seconds(command: list[str], environment: dict[str, str]) -> float:
    """What a command uses of the processors; `python -m bench` measures the time."""

    def used() -> float:
        so_far = resource.getrusage(resource.RUSAGE_CHILDREN)
        return so_far.ru_utime + so_far.ru_stime

    before = used()
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=30)
    return used() - before


@pytest.mark.alone
def test_a_list_of_a_thousand_images_takes_about_two_starts(daemon, imgctl, tmp_path):
    daemon.store.images = [
        {
            "manifest": {
                "v": 2,
                "uuid": f"11111111-aaaa-4bbb-8ccc-{number:012}",
                "owner": "00000000-0000-0000-0000-000000000000",
                "name": f"image-{number % 50}",
                "version": f"1.{number}.0",
                "state": "active",
                "disabled": False,
                "public": True,
                "published_at": f"2026-{number % 12 + 1:02}-24T00:00:09.000Z",
                "type": "zone-dataset",
                "os": "smartos",
                "description": "An image of the usual size, with a sentence or two about what is in it. " * 3,
                "requirements": {"min_platform": {"7.0": "20210826T002459Z"}, "networks": [{"name": "net0"}]},
                "files": [{"sha1": "0" * 40, "size": 100_000_000, "compression": "gzip"}],
                "tags": {"role": "os", "group": "base-64-lts"},
            },
            "zpool": "zones",
            "source": "https://images.example.com",
            "cloneNames": [],
            "clones": 0,
        }
        for number in range(1000)
    ]
    environment = {**imgctl.environment, "PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    bare, listing = [sys.executable, "-c", "import argparse, msgpack"], imgctl.line("list")
    processor_seconds(listing, environment)
    # In turn, and the best of each: what else the machine does is no matter here.
    times = [
        (processor_seconds(listing, environment), processor_seconds(bare, environment)) for _ in range(12)
    ]
    assert min(ours for ours, _ in times) <= 2.2 * min(theirs for _, theirs in times)
