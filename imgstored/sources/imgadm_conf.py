"""imgadm's own configuration file: the store reads and changes its sources.

`/var/imgadm/imgadm.conf` is JSON, indented by 2: `{sources: [{type, url, insecure?, channel?}], …}`. Keys
that we do not know are kept as they are, and so are sources of a type that we cannot ask (docker).
"""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

from imgstored.errors import ClientError, ConfigError
from imgstored.host import shortage
from imgstored.host.filesystem import make_folder, replace_file
from imgstored.http.credentials import of_source
from imgstored.sources.base import SourceSpec
from imgstored.sources.spec import check_type, checked, identity, normalised

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from imgstored.sources.spec import Identity

#: Bytes; a file of a thousand sources has a tenth of that.
_MAX_BYTES = 1 << 20

_HINT = "correct the file, or move it away; imgstored does not overwrite what it cannot read"

#: One element of `sources`, as it is in the file.
Entry = dict[str, Any]


class ImgadmConf:
    """The file. All methods block; those that change it must not run at the same time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def sources(self) -> list[SourceSpec] | None:
        """The sources, without those that only imgadm can ask. None where the file says nothing of sources.

        Raises `ConfigError`.
        """
        entries = self._entries(self._read())
        if entries is None:
            return None
        specs = (self._spec(entry) for entry in entries)
        return [spec for spec in specs if spec is not None]

    def has_secrets(self) -> bool:
        """True if a URL in the file has a password or a token. Raises `ConfigError`."""
        return bool(secrets_in(self._read()))

    def add(self, spec: SourceSpec, *, default: SourceSpec | None) -> bool:
        """Adds a source at the end; False where it is there already.

        Where the file says nothing of sources, the default, which held until now, is written down first.
        Raises `ConfigError`.
        """

        def change(entries: list[Entry]) -> list[Entry]:
            known = {identity(known) for entry in entries if (known := self._spec(entry)) is not None}
            return entries if identity(spec) in known else [*entries, _entry(spec)]

        before, after = self._change(change, default)
        return len(after) > len(before)

    def delete(self, url: str, *, default: SourceSpec | None) -> list[SourceSpec]:
        """Removes the sources with this URL (in normal form), of whatever kind; returns them.

        Raises `ConfigError`.
        """
        deleted: list[Entry] = []

        def change(entries: list[Entry]) -> list[Entry]:
            deleted.extend(entry for entry in entries if self._url(entry) == url)
            return [entry for entry in entries if self._url(entry) != url]

        self._change(change, default)
        return [self._spec_of(entry) for entry in deleted]

    def replace(self, specs: Sequence[SourceSpec], *, default: SourceSpec | None) -> None:
        """Replaces all sources by these, in this order. Those that only imgadm can ask stay.

        Raises `ConfigError`.
        """

        def change(entries: list[Entry]) -> list[Entry]:
            known: dict[Identity, Entry] = {}
            others = []
            for entry in entries:
                spec = self._spec(entry)
                if spec is None:
                    others.append(entry)
                else:
                    known.setdefault(identity(spec), entry)
            return [known.get(identity(spec), _entry(spec)) for spec in specs] + others

        self._change(change, default)

    # -- the file --------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, Any]:
        try:
            with self.path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._unusable(f"cannot be read: {error.strerror or error}") from error
        if len(data) > _MAX_BYTES:
            raise self._unusable(f"is larger than {_MAX_BYTES} bytes")
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self._unusable(f"is not valid JSON: {error}") from error
        if not isinstance(content, dict):
            raise self._unusable("is not valid: not a JSON object")
        return content

    def _change(
        self, change: Callable[[list[Entry]], list[Entry]], default: SourceSpec | None
    ) -> tuple[list[Entry], list[Entry]]:
        """Applies a change to the sources, and writes it if it is one; returns them before and after."""
        content = self._read()
        before = self._entries(content)
        if before is None:
            before = [] if default is None else [_entry(default)]
        after = change(before)
        if after != before:
            self._write({**content, "sources": after})
        return before, after

    def _write(self, content: dict[str, Any]) -> None:
        # Without a newline at the end, as imgadm writes it; with ASCII alone, which has no half characters.
        data = json.dumps(content, indent=2).encode()
        try:
            path = self.path.resolve()  # the file may be a link to where it persists
            make_folder(path.parent, mode=0o755)
            # imgadm runs as root alone, and writes into the file that is there, so this mode stays.
            mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
            if secrets_in(content):
                mode &= 0o700
            replace_file(path, data, mode=mode)
        except OSError as error:
            raise self._unusable(f"cannot be written: {shortage.why(error)}", hint="") from error

    # -- its entries -----------------------------------------------------------------------------------------

    def _entries(self, content: dict[str, Any]) -> list[Entry] | None:
        entries = content.get("sources")
        if entries is None:
            return None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise self._unusable('is not valid: "sources" is not an array of objects')
        for entry in entries:
            self._check(entry)
        return entries

    def _check(self, entry: Entry) -> None:
        wanted = (("url", str, "a text"), ("insecure", bool, "true or false"), ("channel", str, "a text"))
        for key, kind, words in wanted:
            value = entry.get(key)
            if not isinstance(value, kind) and (value is not None or key == "url"):
                raise self._unusable(f'is not valid: the "{key}" of a source is not {words}')
        if _type(entry) != "docker":
            check_type(_type(entry), entry["url"])
            try:
                normalised(entry["url"])
                checked(self._spec_of(entry))
            except ClientError as error:
                raise self._unusable(f"is not valid: {error.message}") from error

    def _spec(self, entry: Entry) -> SourceSpec | None:
        """The source of an entry that was checked; None where only imgadm knows its kind."""
        return None if _type(entry) == "docker" else self._spec_of(entry)

    def _spec_of(self, entry: Entry) -> SourceSpec:
        return SourceSpec(
            url=self._url(entry),
            type=_type(entry),
            insecure=entry.get("insecure") is True,
            channel=entry.get("channel") or None,
        )

    def _url(self, entry: Entry) -> str:
        try:
            return normalised(entry["url"])
        except ClientError:  # only of a kind that we do not ask
            return str(entry["url"])

    def _unusable(self, why: str, *, hint: str = _HINT) -> ConfigError:
        return ConfigError(f'config file "{self.path}" {why}', hint=hint)


def secrets_in(content: Mapping[str, Any]) -> set[str]:
    """The secrets in the file's content: those in URLs, also of sources that only imgadm can ask."""
    entries = content.get("sources")
    urls = (
        [entry.get("url") for entry in entries if isinstance(entry, dict)]
        if isinstance(entries, list)
        else []
    )
    return {secret for url in urls if isinstance(url, str) for secret in of_source(url)}


def _type(entry: Entry) -> Any:
    """The type; where there is none, as imgadm works it out."""
    kind = entry.get("type")
    if kind is None:
        return "dsapi" if entry["url"].rstrip("/").endswith("/datasets") else "imgapi"
    return kind


def _entry(spec: SourceSpec) -> Entry:
    entry: Entry = {"type": spec.type, "url": spec.url}
    if spec.insecure:
        entry["insecure"] = True
    if spec.channel is not None:
        entry["channel"] = spec.channel
    return entry
