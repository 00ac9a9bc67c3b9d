"""Checks who may read the files that have credentials: the daemon's configuration, imgadm's, keys."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from imgstored.config.specs import secrets
from imgstored.doctor.check import Finding
from imgstored.errors import ConfigError
from imgstored.sources.imgadm_conf import ImgadmConf

if TYPE_CHECKING:
    from imgstored.doctor.check import Subject


def readers(subject: Subject) -> list[Finding]:
    """Reports files with a password, a token or a key that users besides root and the daemon's may read."""
    files = _files(subject)
    findings = [found for path, what in files.items() if (found := _open(path, what)) is not None]
    if findings:
        return findings
    seen = f"only root can read the {len(files)} files with secrets" if files else "no file has secrets"
    return [Finding("secrets", "ok", seen)]


def _files(subject: Subject) -> dict[Path, str]:
    """The kind of secret in each file."""
    settings = subject.settings
    files: dict[Path, str] = {}
    if secrets(settings, {}):
        files |= dict.fromkeys(subject.files, "credentials of image servers")
    conf = ImgadmConf(settings.imgadm_folder / "imgadm.conf")
    try:
        if conf.has_secrets():
            files[conf.path] = "credentials of image servers"
    except ConfigError:
        pass  # a finding of its own
    for table in settings.sources or ():
        if key := table.key_file or table.cert_file:
            files[Path(key)] = "a private key"
    for registry in settings.registries:
        if key := registry.key_file or registry.cert_file:
            files[Path(key)] = "a private key"
        if registry.auth_file is not None:
            files[Path(registry.auth_file)] = "logins at registries"
    return files


def _open(path: Path, what: str) -> Finding | None:
    try:
        status = path.stat()
    except OSError:
        return None  # whoever needs the file says so
    mode = stat.S_IMODE(status.st_mode)
    of_others = mode & 0o007 or (mode & 0o070 and status.st_gid not in (0, os.getegid()))
    foreign = status.st_uid not in (0, os.geteuid())
    if not of_others and not foreign:
        return None
    who = f"uid {status.st_uid}, the file's owner," if foreign else "others"
    hint = f"`chown root {path}; chmod 600 {path}`, and replace what they may have read"
    return Finding("secrets", "warn", f"{path} has {what}, and {who} can read it (mode {mode:04o})", hint)
