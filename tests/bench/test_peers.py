from __future__ import annotations

import gzip
import hashlib
import stat
from typing import TYPE_CHECKING

import pytest

from bench.inputs import Input
from bench.peers import Peers
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = b"what is in the image " * 50_000


@pytest.mark.parametrize("tls", [False, True])
def test_every_pipeline_brings_the_whole_stream(tmp_path: Path, monkeypatch, tls: bool) -> None:
    """Each side of a comparison does all of the work that it is measured with."""
    file = gzip.compress(CONTENT)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "file").write_bytes(file)
    described = {"size": len(file), "sha1": hashlib.sha1(file).hexdigest(), "compression": "gzip"}
    image = Input({"uuid": "any", "files": [described]}, tmp_path / "site" / "file")
    came = []
    monkeypatch.setattr(
        "bench.peers.shutil.rmtree",
        lambda folder, **_: came.append((folder / "out").read_bytes()) if folder.exists() else None,
    )
    with Nginx(tmp_path / "nginx", root=tmp_path / "site", tls=tls) as server:
        ca = server.ca_file if tls else None
        for number in range(len(Peers(tmp_path / "names", "", image).all())):
            peers = Peers(tmp_path / f"peer-{number}", f"{server.url}/file", image, ca=ca).all()
            name, pipeline = list(peers.items())[number]
            assert pipeline() > 0
            assert came[-1] == CONTENT, name


def test_only_programs_that_are_installed(tmp_path: Path, monkeypatch) -> None:
    image = Input({"uuid": "any", "files": [{"size": 1, "sha1": "", "compression": "gzip"}]}, tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("gzip", "pigz"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    assert set(Peers(tmp_path / "peer", "http://127.0.0.1:9/file", image).all()) == {
        "imgadm's way",
        "curl \\| gzip -dc",
        "aria2c -x8, gzip -dc",
        "aria2c -x8, pigz -dc",
    }
