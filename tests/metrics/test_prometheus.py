"""A real Prometheus scrapes a real daemon, and answers the alerts' and the dashboard's queries."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from docs.make.dashboard import dashboard, queries
from tests.e2e.conftest import static_source
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, ImageSite
from tests.support.nginx import Nginx, free_port

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).parents[2] / "docs"
RULES = DOCS / "prometheus-alerts.yml"
DASHBOARD = DOCS / "grafana-dashboard.json"

MISSING = "22222222-aaaa-4bbb-8ccc-0000000000fe"
#: Seconds, however busy the machine is.
TIMEOUT = 120.0


class Prometheus:
    """One that scrapes a target each second, as the job `imgstored`, with our rules."""

    def __init__(self, folder: Path, target: str) -> None:
        folder.mkdir()
        self.port = free_port()
        document = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "imgstored", "static_configs": [{"targets": [target]}]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(document))
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder}/prometheus.yml",
                    f"--storage.tsdb.path={folder}/data",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
            )
        self.log = folder / "log"

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def api(self, path: str, **parameters: str) -> dict:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}", timeout=30) as got:
            answer = json.load(got)
        assert answer["status"] == "success"
        return answer["data"]

    def query(self, text: str) -> list[dict]:
        return self.api("query", query=text)["result"]

    def until(self, text: str, meanwhile: Callable[[], object] = lambda: None) -> list[dict]:
        """The result of a query, once it has one."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                if found := self.query(text):
                    return found
            except OSError:
                pass  # it starts
            assert time.monotonic() < deadline, f"{text}\n{self.log.read_text()}"
            meanwhile()
            time.sleep(0.2)


def test_promtool_has_nothing_to_say_against_the_rules():
    done = subprocess.run(
        ["promtool", "check", "rules", "--lint-fatal", str(RULES)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout


def test_the_dashboard_is_up_to_date():
    assert DASHBOARD.read_text() == dashboard(), "run `python -m docs.make`"
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["title"] for panel in panels}) == len(panels) > 10
    asked = [target["expr"].replace("$instance", ".*") for panel in panels for target in panel["targets"]]
    assert asked == queries()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_prometheus_answers_every_query(tmp_path: Path):
    port = free_port()
    site = ImageSite(tmp_path / "site")
    site.add_fixtures()
    with Nginx(tmp_path / "nginx", root=site.folder) as nginx:
        config = f'{static_source(nginx.url)}[metrics]\nlisten = "127.0.0.1:{port}"\n'
        with (
            Daemon(tmp_path / "store", config=config, view="off") as daemon,
            Prometheus(tmp_path / "prometheus", f"127.0.0.1:{port}") as prometheus,
        ):
            # Before something has happened the counters are 0, and what grows can be seen to grow.
            prometheus.until('up{job="imgstored"} == 1')
            daemon.imgctl("import", BASE, check=True)
            assert daemon.imgctl("import", MISSING).returncode == 1
            daemon.imgctl("import", BASE, check=True)
            prometheus.until("increase(imgstored_imports_total[1h]) > 0")
            for text in queries():
                # Some are about the growth of what is there only since the first request.
                assert prometheus.until(text, lambda: daemon.imgctl("list", check=True)), text
            for group in prometheus.api("rules")["groups"]:
                for rule in group["rules"]:
                    assert rule["health"] in ("ok", "unknown"), rule
            names = set(prometheus.api("label/__name__/values"))
            asked = set(re.findall(r"\b(?:imgstored|process)_[a-z_]+", RULES.read_text()))
            assert asked <= names
            # The first failure of a kind is growth, which a series that began with it would not show.
            assert prometheus.until(
                'increase(imgstored_import_failures_total{code="ActiveImageNotFound"}[1h]) > 0'
            )
            assert prometheus.query('imgstored_import_failures_total{code="NoSpace"} == 0')
            daemon.stop()
            prometheus.until('ALERTS{alertname="ImgstoredDown"}')
