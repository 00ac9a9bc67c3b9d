"""Image manifests: v2, v1 and dsmanifest in, v2 out, every fault named. Pure: no I/O.

bytes ── document.parse ──► JSON ── upgrade ──► v2 ── rules.faults ──► Manifest
         size, depth, numbers      v1, DSAPI         what decides is strict

docs/manifests.md has a table of what a manifest may be, and what happens then.
"""

from imgstored.manifest.document import (
    MAX_DEPTH,
    MAX_LIST,
    MAX_MANIFEST,
    Damaged,
    decoded,
    is_larger,
    parse,
    parse_entries,
    parse_list,
)
from imgstored.manifest.model import FileIndex, Manifest, ManifestFile, load, unchecked, with_index
from imgstored.manifest.rules import Rules
from imgstored.manifest.upgrade import upgrade
from imgstored.manifest.values import (
    NIL_UUID,
    check_uuid,
    in_lower_case,
    is_uuid,
    shown_text,
    text_of,
    timestamp,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_LIST",
    "MAX_MANIFEST",
    "NIL_UUID",
    "Damaged",
    "FileIndex",
    "Manifest",
    "ManifestFile",
    "Rules",
    "check_uuid",
    "decoded",
    "in_lower_case",
    "is_larger",
    "is_uuid",
    "load",
    "parse",
    "parse_entries",
    "parse_list",
    "shown_text",
    "text_of",
    "timestamp",
    "unchecked",
    "upgrade",
    "with_index",
]
