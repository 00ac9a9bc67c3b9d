"""`python -m bench.zfs`, in a guest with real ZFS (bench/guest.sh boots one): ours against imgadm's way."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import shutil
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine import described
from bench.ours import Ours, source
from bench.progress import say
from bench.restart import installed, kill_when, until
from bench.servers import PacedNginx
from bench.stages import summed, watched
from bench.table import Row, bounded, compared, markdown, mib, seconds
from bench.timing import in_turn, timed
from bench.zfs_image import ZfsInput, zfs_image
from tests.guest.zpool import Zpool, run
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_MIB = 1 << 20
_MB = 1_000_000
_POOL = "bench"
_OURS, _IMGADM = "imgctl import", "imgadm's way"
#: Emulation makes ISA-L's vector instructions so slow that zlib is twice as fast; on a processor it is half.
_WITH_ZLIB = "zlib instead of ISA-L"
#: Seconds that the daemon may take to start, under emulation.
_TIMEOUT = 120.0
#: Seconds between two looks at the daemon's threads; each takes some milliseconds here.
_LOOKS = 0.1
_PROGRAMS = "programs"
#: The process that all of the kernel's own threads are children of.
_KTHREADD = "2"
#: Most bytes that ZFS may cache: the pool's disk, the server's files and the spool are in memory, too.
_ARC = 512 << 20

#: imgadm's own sequence: by one connection to a file, with SHA-1 on the way; then it decompresses into a
#: receive, and renames the dataset. The snapshot has the right name already.
_PIPELINE = (
    "curl -sSf {url} | tee {file} | sha1sum > {sum}; gzip -cd {file} | zfs receive {dataset}-partial;"
    " zfs rename {dataset}-partial {dataset}"
)


@dataclass(frozen=True, slots=True)
class Scale:
    """The sizes and numbers of a run."""

    mib: int  #: of files in the image
    rate: int  #: bytes a second of a connection, in the case with a limit


_FULL = Scale(mib=300, rate=10 * _MB)
_QUICK = Scale(mib=24, rate=2 * _MB)


class ZfsBench:
    """One image, one pool, and a folder in the guest's memory."""

    def __init__(self, folder: Path, pool: Zpool, image: ZfsInput, *, runs: int, timeout: float) -> None:
        self._folder = folder
        self._pool = pool
        self._image = image
        self._runs = runs
        self._timeout = timeout
        self._dataset = f"{_POOL}/{image.uuid}"

    # -- how long it takes -----------------------------------------------------------------------------------

    def unlimited(self) -> list[Row]:
        """As fast as loopback goes."""
        return self._speed("gzip, unlimited", self._server(), at_most=0.55)

    def paced(self, rate: int) -> list[Row]:
        """With a line of that many bytes a second for each connection."""
        server = PacedNginx(self._folder / "nginx", root=self._folder / "site", rate=rate, workers=2)
        return self._speed(f"gzip, {rate / _MB:g} MB/s a connection", server, at_most=0.45)

    def _speed(self, case: str, server: Nginx, *, at_most: float) -> list[Row]:
        with server, self._ours(server) as ours, self._ours_with_zlib(server) as with_zlib:
            taken = in_turn(
                case,
                self._runs,
                {
                    _OURS: lambda: self._timed_import(ours),
                    _WITH_ZLIB: lambda: self._timed_import(with_zlib),
                    _IMGADM: lambda: self._timed_imgadm(server),
                },
                timeout=self._timeout,
            )
        return [
            compared(case, taken[_OURS], _IMGADM, taken[_IMGADM], at_most=at_most),
            compared(f"{case}; {_WITH_ZLIB}", taken[_WITH_ZLIB], _IMGADM, taken[_IMGADM], at_most=at_most),
        ]

    def _timed_import(self, ours: Ours) -> float:
        busy = _processor_seconds(ours.pid)
        taken = ours.timed_import(self._image)
        say(f"{taken:.1f} s, the daemon's threads {_processor_seconds(ours.pid) - busy:.1f} s")
        return taken

    def _timed_imgadm(self, server: Nginx) -> float:
        """Seconds of imgadm's way; what it made is destroyed again."""
        taken = self._imgadm(server)
        self._destroy()
        return taken

    def _destroy(self) -> None:
        run("zfs", "destroy", "-r", self._dataset)

    def _imgadm(self, server: Nginx) -> float:
        """Seconds of imgadm's way."""
        folder = self._folder / "peer"
        folder.mkdir()
        names = {
            "url": self._image.url(server.url),
            "file": str(folder / "file"),
            "sum": str(folder / "sum"),
            "dataset": self._dataset,
        }
        pipeline = _PIPELINE.format(**{name: shlex.quote(value) for name, value in names.items()})
        try:
            return timed(["bash", "-o", "errexit", "-o", "pipefail", "-c", pipeline])
        finally:
            shutil.rmtree(folder)

    # -- where the work is -----------------------------------------------------------------------------------

    def stages(self) -> list[Row]:
        """Seconds of the processors, by stages, of an import, and of imgadm's way and its programs."""
        taken: dict[str, list[float]] = {}

        def note(name: str, parts: Mapping[str, float]) -> None:
            for part, ran in {**parts, "in all": sum(parts.values())}.items():
                taken.setdefault(f"{name}: {part}", []).append(ran)

        with self._server() as server, self._ours(server) as ours, self._ours_with_zlib(server) as with_zlib:
            daemons = {"ours": ours, f"ours; {_WITH_ZLIB}": with_zlib}
            for daemon in daemons.values():
                self._timed_import(daemon)  # what only the first one has to load is no part of a stage
            for turn in range(1, self._runs + 1):
                for name, daemon in daemons.items():
                    with watched(daemon.pid, interval=_LOOKS) as threads, _used() as used:
                        daemon.timed_imgctl("import", self._image.uuid)
                    daemon.timed_imgctl("delete", self._image.uuid)
                    stages = {stage: ran for stage, (ran, _) in summed(threads).items()}
                    note(name, {**stages, "client": used.pop(_PROGRAMS), **used})
                with _used() as used:
                    self._imgadm(server)
                note("imgadm's way", used)
                self._destroy()
                for name, command in self._programs(server).items():
                    with _used() as used:
                        timed(["sh", "-c", command])
                    taken.setdefault(f"by itself: {name}", []).append(sum(used.values()))
                self._destroy()
                say(f"stages {turn}/{self._runs}: {taken}")
        return [self._part(name, ran) for name, ran in taken.items()]

    def _programs(self, server: Nginx) -> dict[str, str]:
        """Each program of imgadm's way, by itself."""
        stream, file = self._folder / "stream", shlex.quote(str(self._image.path))
        return {
            "curl, and the server": f"curl -sSf {self._image.url(server.url)} > /dev/null",
            "sha1sum": f"sha1sum {file} > /dev/null",
            "gzip": f"gzip -cd {file} > {stream}",
            "zfs receive": f"zfs receive {self._dataset} < {stream} && rm {stream}",
        }

    def _part(self, name: str, ran: Sequence[float]) -> Row:
        per_byte = 1e9 * statistics.median(ran) / self._image.stream_size
        return Row(name, seconds(ran), f"{per_byte:.1f} ns a byte of the stream")

    # -- what a kill costs -----------------------------------------------------------------------------------

    def killed(self) -> list[Row]:
        """Bytes of stream that the second daemon gives to ZFS, after a kill -9 at 90 % of the receive."""
        most = 0.15 * self._image.stream_size / _MIB
        with self._server() as server:
            written = [self._written_after_kill(server) / _MIB for _ in range(self._runs)]
        case = "kill -9 at 90 % of the receive: written into the pool after it"
        return [bounded(case, written, f"≤ {most:.1f} MiB: 15 % of the stream", at_most=most)]

    def _written_after_kill(self, server: Nginx) -> int:
        """An upper bound: all that the daemon wrote, to whatever, but for what it still had to download."""
        enough = 0.9 * self._image.stream_size
        with self._ours(server) as ours:
            kill_when(ours, self._image, lambda job: job["received"] >= enough)
            ours.start()
            until(lambda: installed(ours, self._image))
            written = _written_by(ours.pid)
            (resumed,) = _logged(ours, "resuming")
            goes_on = [record["offset"] for record in _logged(ours, "goes on with a receive")]
            ours.timed_imgctl("delete", self._image.uuid)
        downloaded = self._image.size - resumed["present"]
        say(
            f"killed: the receive goes on at {goes_on} of {self._image.stream_size};"
            f" written {written / _MIB:.1f} MiB, of it downloaded {downloaded / _MIB:.1f} MiB"
        )
        return written - downloaded

    # -- what it takes beside the dataset --------------------------------------------------------------------

    def space(self) -> list[Row]:
        """The most that the daemon's folder has on disk during an import."""
        spools, others = [], []
        with self._server() as server, self._ours(server) as ours:
            for _ in range(self._runs):
                with _watched(ours.folder / "state") as most:
                    ours.timed_imgctl("import", self._image.uuid)
                ours.timed_imgctl("delete", self._image.uuid)
                spools.append(most["spool"] / _MIB)
                others.append(most["other"] / _MIB)
        # In whole blocks, as files are.
        bound = -(-self._image.size // 4096) * 4096 / _MIB
        return [
            bounded(
                "space beside the dataset: the spool",
                spools,
                f"≤ {bound:.1f} MiB: the compressed file",
                at_most=bound,
            ),
            Row("space beside the dataset: the journal", mib(others)),
        ]

    # -- in common -------------------------------------------------------------------------------------------

    def _server(self) -> Nginx:
        return Nginx(self._folder / "nginx", root=self._folder / "site", workers=2)

    @contextmanager
    def _ours_with_zlib(self, server: Nginx) -> Iterator[Ours]:
        """A second daemon on the same pool, as imgadm would be, for which ISA-L is not installed."""
        hidden = self._folder / "hidden" / "isal"
        hidden.mkdir(parents=True, exist_ok=True)
        (hidden / "__init__.py").write_text('raise ImportError("hidden by the bench")\n')
        ours = self._ours(server, "ours-with-zlib")
        os.environ["PYTHONPATH"] = str(hidden.parent)
        try:
            ours.start()
        finally:
            del os.environ["PYTHONPATH"]
        try:
            yield ours
        finally:
            ours.__exit__(None, None, None)

    def _ours(self, server: Nginx, folder: str = "ours") -> Ours:
        config = f'[pool]\ntype = "zfs"\nname = "{_POOL}"\n{source(server.url)}'
        return Ours(self._folder / folder, config=config, timeout=_TIMEOUT)


@contextmanager
def _used() -> Iterator[dict[str, float]]:
    """Processor seconds while the block lasts, in the dictionary at its end, by who used them.

    Programs are those that the block starts. What the disk still gets belongs to it.
    """
    found: dict[str, float] = {}
    before, ended = _others(), resource.getrusage(resource.RUSAGE_CHILDREN)
    yield found
    os.sync()
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    found[_PROGRAMS] = now.ru_utime + now.ru_stime - ended.ru_utime - ended.ru_stime
    for pid, (kind, ran) in _others().items():
        found[kind] = found.get(kind, 0.0) + ran - before.get(pid, (kind, 0.0))[1]


def _others() -> dict[int, tuple[str, float]]:
    """Each process of nginx and each of the kernel's own threads, by number: which it is, and its seconds."""
    found: dict[int, tuple[str, float]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            head, _, tail = path.read_text().rpartition(")")
            fields, name = tail.split(), head.partition("(")[2]
            kind = "kernel's own threads" if fields[1] == _KTHREADD else "server" if name == "nginx" else ""
            if kind:
                ticks = int(fields[11]) + int(fields[12])
                found[int(path.parent.name)] = kind, ticks / os.sysconf("SC_CLK_TCK")
    return found


def _processor_seconds(pid: int) -> float:
    """Time that a process had on the processors so far: proc(5), /proc/PID/stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _written_by(pid: int) -> int:
    """Bytes that a process gave to write(2) so far: proc(5), /proc/PID/io."""
    lines = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(lines["wchar"])


def _logged(ours: Ours, event: str) -> list[dict[str, Any]]:
    lines = ours.log.read_text().splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    return [record for record in records if record.get("event") == event]


@contextmanager
def _watched(state: Path) -> Iterator[dict[str, int]]:
    """Looks again and again, while the block lasts, at what is on disk; gives the most that there was."""
    most = {"spool": 0, "other": 0}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            now = {"spool": 0, "other": 0}
            for path in state.rglob("*"):
                kind = "spool" if path.parent.name == "spool" else "other"
                try:
                    now[kind] += path.stat().st_blocks * 512
                except FileNotFoundError:  # gone since the folder was listed
                    continue
            most.update({kind: max(size, most[kind]) for kind, size in now.items()})

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def main() -> None:
    """Prints the table. Ends with status 0 also when a goal was missed: the table says so."""
    parser = argparse.ArgumentParser(prog="python -m bench.zfs", description="Measures imgstore on ZFS.")
    parser.add_argument("--runs", type=int, help="runs of each side (default: 3; with --quick 1)")
    parser.add_argument(
        "--only", action="append", choices=("unlimited", "paced", "stages", "killed", "space")
    )
    parser.add_argument("--mib", type=int, help="of files in the image (default: 300; with --quick 24)")
    parser.add_argument("--quick", action="store_true", help="a small image, to see that everything works")
    parser.add_argument("--work", type=Path, required=True, help="folder where the image is kept")
    arguments = parser.parse_args()
    scale = _QUICK if arguments.quick else _FULL
    mib_of_files = arguments.mib or scale.mib
    runs = arguments.runs or (1 if arguments.quick else 3)
    load = os.getloadavg()[0]
    Path("/sys/module/zfs/parameters/zfs_arc_max").write_text(str(_ARC))
    rows: list[Row] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-zfs-")))
        # Whatever user nginx's workers are.
        folder.chmod(0o755)
        image = zfs_image(arguments.work.resolve(), folder / "site", mib_of_files)
        pool = stack.enter_context(Zpool(_POOL, f"{4 * mib_of_files + 128}M"))
        run("zpool", "set", "autotrim=on", _POOL)
        bench = ZfsBench(folder, pool, image, runs=runs, timeout=0 if arguments.quick else 30)
        say(f"the image: {image.stream_size / _MB:.0f} MB of stream, {image.size / _MB:.0f} MB compressed")
        cases = {
            "unlimited": bench.unlimited,
            "paced": lambda: bench.paced(scale.rate),
            "stages": bench.stages,
            "killed": bench.killed,
            "space": bench.space,
        }
        for name in arguments.only or cases:
            begun = time.monotonic()
            rows += cases[name]()
            say(f"case {name} took {time.monotonic() - begun:.0f} s")
    print(markdown(rows))
    quick = " Quick: the figures mean little." if arguments.quick else ""
    print(
        f"\nRuns of each side: {runs}, in turn; an image of {image.stream_size / _MB:.0f} MB of stream,"
        f" {image.size / _MB:.0f} MB compressed.{quick}"
        " In a guest without hardware virtualisation: compare ratios, and not seconds.\n"
    )
    print(described(arguments.work, load))
    version = Path("/sys/module/zfs/version").read_text().strip()
    print(f"- OpenZFS {version}; the pool's disk, the server's files and the spool are in memory")


if __name__ == "__main__":
    sys.exit(main())
