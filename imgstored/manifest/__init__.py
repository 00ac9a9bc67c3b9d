"""Image manifests: v2, v1 and dsmanifest in, v2 out, every fault named. Pure: no I/O.

bytes ── document.parse ──► JSON ── upgrade ──► v2 ── rules.faults ──► Manifest
         size, depth, numbers      v1, DSAPI         what is asked of each field
"""

from imgstored.manifest.document import MAX_DEPTH, MAX_LIST, MAX_MANIFEST, parse, parse_list
from imgstored.manifest.model import Manifest, ManifestFile, load, unchecked
from imgstored.manifest.names import check_uuid
from imgstored.manifest.rules import Rules
from imgstored.manifest.upgrade import upgrade

__all__ = [
    "MAX_DEPTH",
    "MAX_LIST",
    "MAX_MANIFEST",
    "Manifest",
    "ManifestFile",
    "Rules",
    "check_uuid",
    "load",
    "parse",
    "parse_list",
    "unchecked",
    "upgrade",
]
