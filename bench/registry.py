"""How long an import from a registry takes, against programs for registries, and against nginx."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bench.inputs import Kind
from bench.ours import Ours, source
from bench.servers import PacedNginx
from bench.table import Row, compared
from bench.timing import in_turn, timed
from tests.support.docker_registry import DockerRegistry
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.context import Bench
    from bench.inputs import Input

_OURS = "imgctl import"

#: Compresses a stream as `imgctl export -c zstd` does: frames of 64 MiB, which become layers.
_FRAMES = (
    "import sys; from imgstored.create.compress import compressed;"
    ' blocks = iter(lambda: sys.stdin.buffer.read(1 << 20), b"");'
    ' [sys.stdout.buffer.write(piece) for piece in compressed(blocks, "zstd")]'
)

#: With the whole of the image in files, and each of its layers by itself.
_SKOPEO = (
    "skopeo --insecure-policy copy -q --src-tls-verify=false"
    " docker://{host}/images:{uuid} dir:{folder}/image;"
    " for layer in {layers}; do cat {folder}/image/$layer; done | {program} -dc > {out}"
)
_CURL = (
    "for layer in {layers}; do curl -sSf {url}/v2/images/blobs/sha256:$layer; done | {program} -dc > {out}"
)


def registry(bench: Bench) -> list[Row]:
    """In layers of zstd, and in one of gzip, as fast as loopback goes."""
    layers = _rows(bench, _layers(bench), "in layers of zstd")
    return [*layers, *_rows(bench, bench.gzip, "one layer of gzip")]


def paced(bench: Bench) -> list[Row]:
    """In layers of zstd, with a line of 20 MB/s for each connection."""
    return _rows(bench, _layers(bench), "in layers of zstd", rate=bench.scale.rate)


def _layers(bench: Bench) -> Kind:
    return Kind("layers", "zstd", (sys.executable, "-c", _FRAMES), bench.scale.stream)


def _rows(bench: Bench, kind: Kind, what: str, *, rate: int | None = None) -> list[Row]:
    image = bench.inputs.get(kind)
    speed = "unlimited" if rate is None else f"{rate / 1e6:g} MB/s a connection"
    case = f"from a registry, {what}, {speed}"
    with ExitStack() as stack:
        behind = stack.enter_context(DockerRegistry(bench.folder("registry")))
        _publish(bench, image, behind)
        here = behind if rate is None else stack.enter_context(_in_front(bench, behind, rate))
        server = stack.enter_context(_nginx(bench, rate))
        layers = _layers_of(behind, image)
        ours = stack.enter_context(
            Ours(bench.folder("ours"), config=f'[[sources]]\nurl = "{here.url}"\ntype = "oci"\n', timeout=120)
        )
        plain = stack.enter_context(Ours(bench.folder("ours-nginx"), config=source(server.url), timeout=120))
        peers = _Peers(bench.folder("peer"), here.url, image.uuid, layers, kind.compression)
        sides: dict[str, Callable[[], float]] = {
            _OURS: lambda: ours.timed_import(image),
            "from nginx": lambda: plain.timed_import(image),
            "skopeo copy, then unpacking": lambda: peers.timed(_SKOPEO),
            f"curl \\| {kind.compression} -dc": lambda: peers.timed(_CURL),
        }
        taken = in_turn(case, bench.runs, sides, timeout=bench.scale.quiet_seconds)
    shutil.rmtree(bench.folder("registry"))
    goals = {"skopeo copy, then unpacking": 0.4, "from nginx": 1.15}
    return [
        compared(case, taken[_OURS], name, taken[name], at_most=goals.get(name))
        for name in taken
        if name != _OURS
    ]


def _publish(bench: Bench, image: Input, registry: DockerRegistry) -> None:
    path = bench.folder("manifest.json")
    path.write_text(json.dumps(image.manifest))
    with Ours(bench.folder("publisher"), timeout=120) as daemon:
        daemon.timed_imgctl(
            "publish", "-q", "-m", str(path), "-f", str(image.path), f"oci://{registry.host}/images"
        )


def _layers_of(registry: DockerRegistry, image: Input) -> list[str]:
    made = json.loads(registry.request("GET", f"/v2/images/manifests/{image.uuid}").content)
    return [layer["digest"].partition(":")[2] for layer in made["layers"]]


def _in_front(bench: Bench, registry: DockerRegistry, rate: int) -> Nginx:
    """What paces the registry's connections."""
    location = {"/v2/": f"proxy_pass {registry.url}; proxy_buffering off; proxy_http_version 1.1;"}
    return PacedNginx(
        bench.folder("nginx-registry"), root=bench.inputs.folder, rate=rate, workers=2, locations=location
    )


def _nginx(bench: Bench, rate: int | None) -> Nginx:
    if rate is None:
        return Nginx(bench.folder("nginx"), root=bench.inputs.folder, workers=2)
    return PacedNginx(bench.folder("nginx"), root=bench.inputs.folder, rate=rate, workers=2)


class _Peers:
    """Pipelines in a folder of their own. `cat > OUT`, on the same disk, receives."""

    def __init__(self, folder: Path, url: str, uuid: str, layers: list[str], program: str) -> None:
        self._folder = folder
        self._names = {
            "url": url,
            "host": url.partition("://")[2],
            "uuid": uuid,
            "program": program,
            "folder": shlex.quote(str(folder)),
            "out": shlex.quote(str(folder / "out")),
            "layers": " ".join(layers),
        }

    def timed(self, pipeline: str) -> float:
        """Seconds that a pipeline takes."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        taken = timed(["bash", "-o", "errexit", "-o", "pipefail", "-c", pipeline.format(**self._names)])
        shutil.rmtree(self._folder)
        return taken
