"""The real daemon, its mount and its sources, and a doctor that sees what is done to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.e2e.conftest import static_source
from tests.support.daemon import Daemon
from tests.support.image_site import BASE

#: Seconds, however busy the machine is.
TIMEOUT = 60


def doctor(daemon, *arguments):
    """The findings by their checks (the first that is not ok, if there is one), and the exit status."""
    shown = daemon.imgctl("doctor", "-j", *arguments, timeout=TIMEOUT)
    found = {}
    for finding in json.loads(shown.stdout)["findings"]:
        if found.get(finding["check"], {"status": "ok"})["status"] == "ok":
            found[finding["check"]] = finding
    return found, shown.returncode


def check_json(daemon):
    done = subprocess.run(
        [sys.executable, "-m", "imgstored", "--config", str(daemon.config_file), "--check", "--json"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return json.loads(done.stdout), done.returncode


def statuses(found):
    return {check: finding["status"] for check, finding in found.items()}


def test_a_host_that_is_well_and_what_is_done_to_it(daemon, served):
    daemon.imgctl("import", BASE, check=True)
    found, status = doctor(daemon)
    assert (set(statuses(found).values()) - {"warn"}, status) == ({"ok"}, 0)
    assert found["manifests"]["seen"].startswith("1 in ")
    assert found["view"]["seen"] == f"plain files in {daemon.images}"
    assert found["clock"]["seen"].startswith("right")

    imgadm = daemon.folder / "state" / "imgadm"
    (imgadm / "images" / f"zones-{BASE}.json").write_text("{")
    (imgadm / "imgadm.conf").write_text("{")
    daemon.config_file.write_text(daemon.config_file.read_text() + "[limits]\ntries = 0\n")
    served.nginx.stop()
    found, status = doctor(daemon)
    bad = {check for check, finding in found.items() if finding["status"] == "fail"}
    assert (bad, status) == ({"configuration", "sources", "imgadm.conf", "manifests"}, 1)
    assert all(found[check]["hint"] for check in bad)
    # It goes on all the same.
    assert BASE in daemon.imgctl("list").stdout


def test_a_mount_that_is_gone(served, tmp_path):
    with Daemon(tmp_path / "fuse", view="fuse", config=static_source(served.url)) as daemon:
        found, status = doctor(daemon)
        assert (found["view"]["seen"], status) == (
            f"mounted at {daemon.images} (fuse.imgstored), and answers",
            0,
        )
        subprocess.run(["/usr/bin/fusermount3", "-u", "-z", str(daemon.images)], check=True)
        found, status = doctor(daemon)
        assert (found["view"]["status"], status) == ("fail", 1)
        assert "mounts it again by itself" in found["view"]["hint"]


def test_after_kill_9_the_client_looks_by_itself(served, tmp_path):
    with Daemon(tmp_path / "fuse", view="fuse", config=static_source(served.url)) as daemon:
        daemon.imgctl("import", BASE, check=True)
        before = sorted(path.name for path in (daemon.folder / "state").iterdir())
        daemon.kill()
        found, status = doctor(daemon, "--config", str(daemon.config_file))
        assert status == 1
        assert statuses(found)["daemon"] == "fail"
        assert "nobody listens" in found["daemon"]["seen"]
        assert found["view"]["status"] == "warn"
        assert "daemon that is gone" in found["view"]["seen"]
        assert found["manifests"]["seen"].startswith("1 in ")
        # Nothing is changed by looking, but for what SQLite keeps beside a database that is open.
        after = sorted(path.name for path in (daemon.folder / "state").iterdir())
        assert {name for name in after if not name.endswith(("-wal", "-shm"))} == {
            name for name in before if not name.endswith(("-wal", "-shm"))
        }
        daemon.start()
        assert BASE in daemon.imgctl("list").stdout


def test_check_json_starts_nothing(served, daemon):
    """Beside a daemon that runs, too."""
    found, status = check_json(daemon)
    assert found["running"] is False
    assert status == int(any(each["status"] == "fail" for each in found["findings"]))
    assert daemon.imgctl("list").returncode == 0


def test_check_json_with_a_wrong_configuration(daemon):
    daemon.config_file.write_text("nonsense = 1\n")
    found, status = check_json(daemon)
    assert (found["findings"][0]["check"], found["findings"][0]["status"], status) == (
        "configuration",
        "fail",
        1,
    )


def test_faults_of_the_configuration_hide_no_others(daemon):
    """A value that is refused; what cannot be read at all leaves only what every daemon needs."""
    daemon.config_file.write_text(
        '[[pool]]\ntype = "zfs"\nname = "nosuch"\n[[sources]]\nurl = "https://user:pw@images.example.com"\n'
    )
    found, status = check_json(daemon)
    failing = {each["check"]: each["seen"] for each in found["findings"] if each["status"] == "fail"}
    assert "a user in a URL is not allowed" in failing["configuration"]
    assert "pool nosuch" in failing
    assert status == 1
    assert not any("fault in imgstored" in each["seen"] for each in found["findings"])
    daemon.config_file.write_text("nonsense = 1\n")
    found, status = check_json(daemon)
    assert {each["check"] for each in found["findings"]} == {"configuration", "python", "extras"}
    assert status == 1


def test_somebody_who_may_only_read(daemon):
    """Only root can become somebody else; others are the daemon's own user, who may."""
    nobody = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    shown = subprocess.run(
        [sys.executable, "-m", "imgctl", "--socket", str(daemon.socket), "doctor"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        **nobody,
    )
    assert ("use sudo" in shown.stdout) == bool(nobody)


def test_a_python_in_which_trio_does_not_run_is_a_finding():
    program = (
        "import runpy, select, sys; del select.epoll, select.poll; sys.platform = 'sunos5';"
        "sys.argv[0] = 'imgstored'; runpy.run_module('imgstored', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--check", "--json"],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    (finding,) = json.loads(done.stdout)["findings"]
    assert (finding["check"], finding["status"], done.returncode) == ("python", "fail", 1)
    assert "trio cannot be imported: NotImplementedError" in finding["seen"]
    assert "select.poll" in finding["hint"]
