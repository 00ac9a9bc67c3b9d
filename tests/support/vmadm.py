"""A stand-in for vmadm and for the machines behind it: programs in a folder, and what they know in a file.

When a machine is started that has an operator script, that runs in the folder that is the machine's root, as
a process of its own, with `mdata-put` and `shutdown` as machines have them.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_PROGRAM = """#!{python} -IS
import fcntl, json, os, subprocess, sys

FOLDER = {folder!r}

def changed(change):
    with open(FOLDER + "/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(FOLDER + "/machines.json") as file:
            machines = json.load(file)
        said = change(machines)
        with open(FOLDER + "/machines.new", "w") as file:
            json.dump(machines, file)
        os.replace(FOLDER + "/machines.new", FOLDER + "/machines.json")
        return said

def main(command, uuid, *rest):
    with open(FOLDER + "/calls", "a") as file:
        file.write(" ".join((command, uuid, *rest)) + "\\n")
    if command in json.load(open(FOLDER + "/broken.json")):
        sys.exit("vmadm: " + command + " is broken")
    if uuid not in changed(lambda machines: list(machines)):
        sys.exit("zoneadm: " + uuid + ": No such zone configured")
    if command == "get":
        print(json.dumps(changed(lambda machines: machines[uuid])))
    elif command == "start":
        if changed(lambda machines: machines[uuid]["state"]) != "stopped":
            sys.exit("VM is not stopped")
        machine = changed(lambda machines: machines[uuid].update(state="running") or machines[uuid])
        script = machine["internal_metadata"].get("operator-script")
        if script is not None:
            environment = {{"PATH": FOLDER + "/bin-" + uuid + ":/usr/bin:/bin"}}
            subprocess.Popen(["/bin/sh", "-c", script], cwd=machine["root"], env=environment,
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, start_new_session=True)
    elif command == "stop":
        changed(lambda machines: machines[uuid].update(state="stopped"))
    elif command == "update":
        given = json.load(sys.stdin)
        def update(machines):
            for kind in ("internal", "customer"):
                metadata = machines[uuid][kind + "_metadata"]
                metadata.update(given.get("set_" + kind + "_metadata", {{}}))
                for key in given.get("remove_" + kind + "_metadata", []):
                    metadata.pop(key, None)
        changed(update)
    elif command == "mdata-put":
        changed(lambda machines: machines[uuid]["customer_metadata"].update([rest]))
    else:
        sys.exit("vmadm: no such command: " + command)

main(*sys.argv[1:])
"""

#: What a prepare script does that does all that it should.
PREPARE = """
mdata-put prepare-image:state running
echo prepared > prepared
mdata-put prepare-image:state success
shutdown
"""
FAILS = """
mdata-put prepare-image:state running
echo broken > prepared
mdata-put prepare-image:error 'no disk for this'
mdata-put prepare-image:state error
"""


class StandIn:
    """vmadm in `folder`, as `program`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.program = folder / "vmadm"
        self._script(self.program, _PROGRAM.format(python=sys.executable, folder=str(folder)))
        (folder / "machines.json").write_text("{}")
        self.broken()

    def add(self, uuid: str, root: Path, **fields: Any) -> None:
        """A machine whose root is a folder."""
        machines = self._machines()
        metadata = {"internal_metadata": {}, "customer_metadata": {"user-script": "true"}}
        machines[uuid] = {"uuid": uuid, "state": "stopped", "brand": "joyent", "root": str(root)}
        machines[uuid] |= {**metadata, **fields}
        (self.folder / "machines.json").write_text(json.dumps(machines))
        programs = self.folder / f"bin-{uuid}"
        programs.mkdir(exist_ok=True)
        for name, line in (("mdata-put", "mdata-put UUID"), ("shutdown", "stop UUID")):
            command = f'exec {self.program} {line.replace("UUID", uuid)} "$@"'
            self._script(programs / name, f"#!/bin/sh\n{command}\n")

    def broken(self, *commands: str) -> None:
        """From now on these commands fail."""
        (self.folder / "broken.json").write_text(json.dumps(commands))

    def machine(self, uuid: str) -> dict[str, Any]:
        machine: dict[str, Any] = self._machines()[uuid]
        return machine

    def calls(self) -> list[str]:
        """The commands that were run, but for looks."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [line for line in lines if not line.startswith(("get", "mdata-put"))]

    def _machines(self) -> dict[str, Any]:
        while True:
            try:
                machines: dict[str, Any] = json.loads((self.folder / "machines.json").read_text())
            except FileNotFoundError:
                time.sleep(0.01)
            else:
                return machines

    @staticmethod
    def _script(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)
