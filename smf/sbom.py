"""Writes a software bill of materials (CycloneDX 1.5, JSON) of what pip has installed, as its report says.

usage: python smf/sbom.py NAME VERSION REPORT     (REPORT is that of `pip install --report`)

Each component has its version, licence, package URL and the SHA-256 of the very file that was installed. The
same report makes the same document.
"""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import Any


def document(name: str, version: str, report: dict[str, Any]) -> dict[str, Any]:
    """The document for a program of that name; it is not among its own components."""
    components = sorted(
        (_component(each) for each in report["install"] if each["metadata"]["name"] != name),
        key=lambda each: str(each["name"]),
    )
    root = f"pkg:pypi/{name}@{version}"
    content = json.dumps([root, components], sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, content).urn,
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": name,
                "version": version,
                "purl": root,
            }
        },
        "components": components,
        "dependencies": [{"ref": root, "dependsOn": [each["bom-ref"] for each in components]}],
    }


def _component(installed: dict[str, Any]) -> dict[str, Any]:
    metadata, source = installed["metadata"], installed["download_info"]
    url = f"pkg:pypi/{metadata['name'].lower().replace('_', '-')}@{metadata['version']}"
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": url,
        "name": metadata["name"],
        "version": metadata["version"],
        "purl": url,
    }
    hashes = source.get("archive_info", {}).get("hashes", {})
    if "sha256" in hashes:
        found["hashes"] = [{"alg": "SHA-256", "content": hashes["sha256"]}]
    licence = metadata.get("license_expression")
    if licence:
        found["licenses"] = [{"expression": licence}]
    elif metadata.get("license") and len(metadata["license"]) < 100:
        found["licenses"] = [{"license": {"name": metadata["license"]}}]
    return found


if __name__ == "__main__":
    _, name, version, path = sys.argv
    made = document(name, version, json.loads(Path(path).read_text(encoding="utf-8")))
    sys.stdout.write(json.dumps(made, indent=1) + "\n")
