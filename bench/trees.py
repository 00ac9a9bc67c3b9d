"""`python -m bench.trees`: two real trees, this machine's /usr before and after an upgrade of its packages.

The files of packages for which apt offers newer ones, and of so many others that the upgrade changes the part
of the files that is asked for. apt downloads the newer packages; nothing on this machine changes. In the work
folder are then `old.tar` and `new.tar`, and `upgrade.tar` and `gone`, which make the one the other. With
`bench/trees.sh` real ZFS makes streams of them, which `python -m bench.deltas` takes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.progress import say

if TYPE_CHECKING:
    from collections.abc import Iterable

_LISTS = Path("/var/lib/dpkg/info")
#: Packages with more bytes are left out: a few would be most of the tree.
_MOST = 8_000_000


@dataclass(slots=True)
class Package:
    """An installed package, and what an upgrade makes of it."""

    name: str
    old: dict[str, Path]  #: the files and links below /usr, by their paths in the tree
    new: dict[str, Path] = field(default_factory=dict)  #: empty: there is no upgrade
    changed: int = 0  #: files of the newer one that are not the same
    changed_bytes: int = 0

    @property
    def bytes(self) -> int:
        """Of the installed files."""
        return sum(path.lstat().st_size for path in self.old.values())


def main() -> int:
    """Makes the trees, and prints what they are; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.trees", description="Makes two trees of /usr.")
    parser.add_argument("--work", type=Path, default=Path("build/bench/trees"))
    parser.add_argument("--part", type=float, default=13.0, help="of the files that change, in percent")
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    packages = _installed()
    newer = _downloaded(work / "packages")
    for name, path in newer.items():
        if name in packages and packages[name].bytes <= _MOST:
            _unpack(packages[name], path, work / "unpacked" / name)
    chosen = _chosen(packages.values(), arguments.part / 100)
    _write(work, chosen)
    _describe(chosen)
    return 0


def _installed() -> dict[str, Package]:
    """The installed packages that have anything below /usr."""
    found = {}
    for listed in sorted(_LISTS.glob("*.list")):
        name = listed.stem.split(":")[0]
        paths = {line[1:]: Path(line) for line in listed.read_text().splitlines() if line.startswith("/usr/")}
        old = {inside: path for inside, path in paths.items() if path.is_symlink() or path.is_file()}
        if old:
            found[name] = Package(name, old)
    return found


def _downloaded(folder: Path) -> dict[str, Path]:
    """The newer packages of what is installed, by their names."""
    folder.mkdir(exist_ok=True)
    planned = subprocess.run(
        ["apt-get", "--simulate", "dist-upgrade"], capture_output=True, text=True, check=True
    )
    wanted = {}
    for line in planned.stdout.splitlines():
        words = line.split()
        if words[:1] == ["Inst"] and words[2].startswith("["):
            wanted[words[1]] = words[3].removeprefix("(")
    have = {path.name.split("_")[0]: path for path in folder.glob("*.deb")}
    if missing := [f"{name}={version}" for name, version in wanted.items() if name not in have]:
        say(f"downloading {len(missing)} packages")
        # As the user who asks: apt's own may not see the folder.
        command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *missing]
        subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    return {path.name.split("_")[0]: path for path in folder.glob("*.deb")}


def _unpack(package: Package, archive: Path, folder: Path) -> None:
    """Adds what the newer package has."""
    if not folder.exists():
        folder.mkdir(parents=True)
        subprocess.run(["dpkg-deb", "--extract", str(archive), str(folder)], check=True)
    for parent, folders, names in os.walk(folder / "usr"):
        for name in [*names, *(each for each in folders if Path(parent, each).is_symlink())]:
            path = Path(parent, name)
            package.new[str(path.relative_to(folder))] = path
    for inside, path in package.new.items():
        if path.is_symlink():
            continue
        before = package.old.get(inside)
        if before is None or _digest(before) != _digest(path):
            package.changed += 1
            package.changed_bytes += path.stat().st_size


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _chosen(packages: Iterable[Package], part: float) -> list[Package]:
    """All that change, and of the others, by the hashes of their names, as many as make that part."""
    small = [package for package in packages if package.bytes <= _MOST]
    small.sort(key=lambda package: hashlib.sha1(package.name.encode()).digest())
    chosen = [package for package in small if package.new]
    changed = sum(package.changed for package in chosen)
    files = sum(len(package.old) for package in chosen)
    for package in small:
        if not package.new and (files + len(package.old)) * part <= changed:
            chosen.append(package)
            files += len(package.old)
    return sorted(chosen, key=lambda package: package.name)


def _write(work: Path, chosen: list[Package]) -> None:
    with (
        tarfile.open(work / "old.tar", "w") as old,
        tarfile.open(work / "new.tar", "w") as new,
        tarfile.open(work / "upgrade.tar", "w") as upgrade,
    ):
        for package in chosen:
            _add(old, package.old)
            _add(new, package.new or package.old)
            # A package manager replaces all files of a package, those that are the same, too.
            _add(upgrade, package.new)
    gone = {
        inside
        for package in chosen
        if package.new
        for inside in package.old.keys() - {name for each in chosen for name in each.new}
    }
    (work / "gone").write_text("".join(f"{inside}\n" for inside in sorted(gone)))
    shutil.rmtree(work / "unpacked")


def _add(archive: tarfile.TarFile, files: dict[str, Path]) -> None:
    for inside, path in files.items():
        archive.add(path, inside, recursive=False)


def _describe(chosen: list[Package]) -> None:
    upgraded = [package for package in chosen if package.new]
    files, size = sum(len(each.old) for each in chosen), sum(each.bytes for each in chosen)
    changed, changed_bytes = (
        sum(each.changed for each in chosen),
        sum(each.changed_bytes for each in chosen),
    )
    print(
        f"{len(chosen)} packages, {files} files, {size / 1e6:.0f} MB; {len(upgraded)} packages are upgraded:"
        f" {changed} files ({100 * changed / files:.1f} %) with {changed_bytes / 1e6:.1f} MB"
        f" ({100 * changed_bytes / size:.1f} %) are others"
    )


if __name__ == "__main__":
    sys.exit(main())
