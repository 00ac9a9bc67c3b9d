"""`make demo`: the main job with real parts, each command and its true output.

nginx on loopback is the image server, the daemon has an embedded pool in a temporary folder, and the
view is a FUSE mount (or plain files where this machine has no FUSE). Exits non-zero at the first step
that goes wrong, and leaves nothing running or mounted.

`make demo-server` is only the image server, which stays until Ctrl-C: docs/first-session.md uses it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.image_site import BASE, INCREMENTAL, ImageSite
from tests.support.nginx import Nginx


class StepFailedError(Exception):
    """A step did not end as it should."""


def say(text: str) -> None:
    print(f"\n\033[1m# {text}\033[0m" if sys.stdout.isatty() else f"\n# {text}", flush=True)


def show(daemon: Daemon, command: str, *, status: int = 0) -> str:
    """Runs a command line, prints it and what it says, and checks its exit status."""
    print(f"$ {command}", flush=True)
    words = shlex.split(command)
    environment = {
        "IMGSTORED_SOCKET": str(daemon.socket),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    }
    done = subprocess.run(
        words,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    print(done.stdout, end="", flush=True)
    if done.returncode != status:
        raise StepFailedError(f"`{command}` ended with status {done.returncode} instead of {status}")
    return done.stdout


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise StepFailedError(what)


def main_job(daemon: Daemon, url: str) -> None:
    """The steps of the demo."""
    say("where images come from")
    show(daemon, f"imgctl sources -a {url} -t static")
    show(daemon, "imgctl sources")
    say("what there is")
    expect(INCREMENTAL in show(daemon, "imgctl avail"), "the image is not listed as available")
    say("import an incremental image: its origin comes along, both download together")
    show(daemon, f"imgctl import {INCREMENTAL}")
    say("what is installed")
    expect(BASE in show(daemon, "imgctl list"), "the origin is not listed as installed")
    say("the same as files")
    mount = daemon.images
    manifest = json.loads(show(daemon, f"cat {mount}/{INCREMENTAL}/manifest.json"))
    expect(manifest["uuid"] == INCREMENTAL, "the file in the view is another image's manifest")
    show(daemon, f"ls -l {mount} {mount}/{INCREMENTAL} {mount}/by-name/incremental")
    if str(mount) in Path("/proc/mounts").read_text():
        show(daemon, f"grep {mount} /proc/mounts")
    else:
        say("this machine has no FUSE: these are plain read-only files")
    say("what the store knows of it")
    show(daemon, f"imgctl get {INCREMENTAL}")
    say("an image in use cannot be deleted")
    show(daemon, f"imgctl delete {BASE}", status=1)
    say("top first, then its origin")
    show(daemon, f"imgctl delete {INCREMENTAL}")
    show(daemon, f"imgctl delete {BASE}")
    expect(show(daemon, "imgctl list") == "", "something is still installed")


def serve(port: int) -> int:
    """The image server alone, until it is interrupted."""
    with tempfile.TemporaryDirectory(prefix="imgstore-demo-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        site = ImageSite(folder / "site")
        site.add_fixtures()
        with (
            Nginx(folder / "nginx", root=site.folder, port=port) as nginx,
            contextlib.suppress(KeyboardInterrupt),
        ):
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            # Whoever reads this may end it at once.
            print(f"three images at {nginx.url} (type static), until Ctrl-C", flush=True)
            signal.pause()
    print("stopped")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description="The main job with real parts.")
    parser.add_argument("--serve", action="store_true", help="only the image server, until Ctrl-C")
    parser.add_argument("--port", type=int, default=8480, help="where it listens, on loopback (8480)")
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.port)
    with tempfile.TemporaryDirectory(prefix="imgstore-demo-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        site = ImageSite(folder / "site")
        site.add_fixtures()
        say(f"nginx serves three images from {site.folder}; imgstored has an embedded pool in {folder}")
        nginx = stack.enter_context(Nginx(folder / "nginx", root=site.folder))
        daemon = stack.enter_context(Daemon(folder / "store", view="auto", top="sources = []"))
        try:
            main_job(daemon, nginx.url)
        except StepFailedError as error:
            print(f"\ndemo: {error}\nimgstored's log:\n{daemon.log.read_text()}", file=sys.stderr)
            return 1
        say("stop")
        status = daemon.stop()
        expect(status == 0, f"imgstored exited with status {status}")
        expect(str(folder) not in Path("/proc/mounts").read_text(), "something is still mounted")
    print("nothing is left running or mounted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
