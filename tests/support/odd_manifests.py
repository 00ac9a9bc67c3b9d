"""Manifests that imgadm's own tools, other servers or people made, and that its own validation would refuse.

`SERVED` is what an image server may give; `ON_DISK` what imgadm may have left in its own file of an image.
Each has the name and the version that people are shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: In place of a value: the field is not there.
ABSENT: Any = object()


@dataclass(frozen=True)
class Odd:
    """What differs from a good manifest, by field; `file` of its first file."""

    fields: dict[str, Any] = field(default_factory=dict)
    file: dict[str, Any] = field(default_factory=dict)
    name: str | None = None  #: as it is shown, where that is not the good one's
    version: str | None = None

    def of(self, good: dict[str, Any]) -> dict[str, Any]:
        """The odd manifest."""
        odd = _changed(good, self.fields)
        if self.file:
            odd["files"] = [_changed(odd["files"][0], self.file), *odd["files"][1:]]
        return odd


def _changed(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**document, **changes}.items() if value is not ABSENT}


def _sha1_in_upper_case(good: dict[str, Any]) -> str:
    return str(good["files"][0]["sha1"]).upper()


class _Upper(Odd):
    def of(self, good: dict[str, Any]) -> dict[str, Any]:
        file = {**good["files"][0], "sha1": _sha1_in_upper_case(good)}
        return {**good, "uuid": good["uuid"].upper(), "files": [file]}


LONG = "long" * 250

SERVED: dict[str, Odd] = {
    "version-number": Odd({"version": 1}, version="1"),
    "version-float": Odd({"version": 1.5}, version="1.5"),
    "version-true": Odd({"version": True}, version="true"),
    "name-number": Odd({"name": 5}, name="5"),
    "name-object": Odd({"name": {"a": [1]}}, name='{"a":[1]}'),
    "name-other-characters": Odd({"name": "größe (2) «日本»"}, name="größe (2) «日本»"),
    "name-path": Odd({"name": "../../etc/passwd"}, name="../../etc/passwd"),
    "name-dots": Odd({"name": "..", "version": "."}, name="..", version="."),
    "name-control": Odd({"name": "a\x1b]0;x\x07\nb"}, name="a?]0;x??b"),
    "name-empty": Odd({"name": "", "version": ""}, name="", version=""),
    "name-long": Odd({"name": LONG}, name=LONG),
    "name-absent": Odd({"name": ABSENT, "version": ABSENT}, name="-", version="-"),
    "name-null": Odd({"name": None}, name="-"),
    "version-space": Odd({"version": "1.0 (beta), ~x"}, version="1.0 (beta), ~x"),
    "v-text": Odd({"v": "2"}),
    "v-float": Odd({"v": 2.0}),
    "v-newer": Odd({"v": 3}),
    "os-other": Odd({"os": "QEMU"}),
    "os-absent": Odd({"os": ABSENT, "type": ABSENT}),
    "type-other": Odd({"type": "vm"}),
    "type-object": Odd({"type": {"a": 1}, "os": ["x"]}),
    "requirements-array": Odd({"requirements": []}),
    "requirements-text": Odd({"requirements": "none"}),
    "requirements-unknown": Odd({"requirements": {"cpus": 4, "min_ram": "64", "networks": 1}}),
    "min-platform-undefined": Odd({"requirements": {"min_platform": {"undefined": "20990101T000000Z"}}}),
    "min-platform-text": Odd({"requirements": {"min_platform": "7.0", "max_platform": {"7.0": 1}}}),
    "sha1-absent": Odd(file={"sha1": ABSENT}),
    "sha1-empty": Odd(file={"sha1": ""}),
    "compression-absent": Odd(file={"compression": ABSENT}),
    "compression-unknown": Odd(file={"compression": "brotli"}),
    "compression-number": Odd(file={"compression": 7, "dataset_guid": {"x": 1}, "more": []}),
    "upper-case": _Upper(),
    "description-number": Odd({"description": 12, "homepage": "none", "eula": False}),
    "description-long": Odd({"description": "x" * 20_000}),
    "booleans-as-text": Odd({"disabled": "false", "public": "true", "generate_passwords": "true"}),
    "booleans-as-numbers": Odd({"disabled": 0, "public": 1, "activated": 1, "icon": "yes"}),
    "published-number": Odd({"published_at": 1335873600}),
    "published-object": Odd({"published_at": {"at": 1}}),
    "published-finer": Odd({"published_at": "2013-05-01T12:00:00.123456789+02:00"}),
    "unknown-fields": Odd({"x-vendor": {"deep": [[{}]]}, "": 1, "a.b": None, "channels": "dev"}),
    "odd-lists": Odd({"acl": "everybody", "users": {}, "billing_tags": [1], "traits": [], "tags": "x"}),
    "odd-drivers": Odd({"nic_driver": 1, "disk_driver": "virtio", "cpu_type": [], "image_size": "large"}),
    "origin-empty": Odd({"origin": ""}),
    "origin-false": Odd({"origin": False}),
    "large-numbers": Odd({"owner": 1 << 63, "urn": 1e300, "acl": [-(1 << 63)]}),
    "file-more": Odd(file={"digest": 1, "stor": {"a": 1}}),
}

ON_DISK: dict[str, Odd] = {
    **{name: odd for name, odd in SERVED.items() if name != "upper-case"},
    "upper-case": _Upper(),
    "no-v": Odd({"v": ABSENT}),
    "v-nonsense": Odd({"v": ["x"]}),
    "v1": Odd({"v": ABSENT, "creator_uuid": "352971aa-31ba-496c-9ade-a379feaecd52", "owner": ABSENT}),
    "v1-and-v2": Odd({"v": 1, "creator_uuid": "352971aa-31ba-496c-9ade-a379feaecd52"}),
    "no-files": Odd({"files": ABSENT}),
    "files-nonsense": Odd({"files": {"a": 1}}),
    "files-of-nothing": Odd({"files": [None]}),
    "origin-that-is-none": Odd({"origin": "33333333-aaaa-4bbb-8ccc-000000000001"}),
    "origin-nonsense": Odd({"origin": ["x"]}),
    "type-docker": Odd({"type": "docker", "tags": {"docker:id": 5, "docker:repo": [], "docker:tag:x": True}}),
    "state-nonsense": Odd({"state": {"x": 1}, "disabled": "yes"}),
}
