"""Where imgadm takes a manifest, so do we: its own validation's verdicts on 3,200 of them.

tests/data/README.md says how the verdicts came about.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from imgstored.errors import InvalidManifestError, ManifestValidationError
from imgstored.manifest import Rules, load

DATA = Path(__file__).parent.parent / "data"
RECORDED = json.loads((DATA / "imgadm-verdicts.json").read_text())
VALUES: list[Any] = RECORDED["values"]

#: What decides which bytes are meant, and where they go. Here imgadm's checks come later than its validation
#: (a size that is no number is that of no file), or fail in the middle (an array with a uuid in it).
DECIDING = ("uuid", "origin", "files", "files[0].size", "files[0].sha1")


def changed(base: dict[str, Any], target: str, value: Any) -> dict[str, Any]:
    outer, _, inner = target.partition(".")
    match outer:
        case "files[0]":
            return {**base, "files": [{**base["files"][0], inner: value}]}
        case "requirements" if inner:
            return {**base, "requirements": {inner: value}}
        case _:
            return {**base, outer: value}


def takes(document: dict[str, Any], rules: Rules) -> bool:
    try:
        load(document, rules=rules)
    except (InvalidManifestError, ManifestValidationError):
        return False
    return True


def test_all_values_have_a_verdict():
    assert {len(verdicts) for verdicts in RECORDED["verdicts"].values()} == {len(VALUES)}
    assert sum(map(len, RECORDED["verdicts"].values())) == 52 * len(VALUES) == 3224


@pytest.mark.parametrize("target", RECORDED["verdicts"])
def test_what_imgadm_installs_we_install(base, target):
    verdicts = zip(VALUES, RECORDED["verdicts"][target], strict=True)
    taken = [value for value, verdict in verdicts if verdict == "t"]
    refused = [value for value in taken if not takes(changed(base, target, value), "install")]
    assert refused == [] or target in DECIDING


@pytest.mark.parametrize("target", RECORDED["verdicts"])
def test_what_imgadm_imports_we_import(base, target):
    """It validates nothing there, but upgrades the manifest."""
    verdicts = zip(VALUES, RECORDED["verdicts"][target], strict=True)
    taken = [value for value, verdict in verdicts if verdict != "u"]
    refused = [value for value in taken if not takes(changed(base, target, value), "import")]
    assert refused == [] or target in DECIDING


@pytest.mark.parametrize("field", RECORDED["absent"])
def test_what_may_be_absent(base, field):
    del base[field]
    if field not in ("v", "uuid"):
        assert takes(base, "install")
        assert takes(base, "import") == (field != "files")
    else:
        assert not takes(base, "install")
        assert not takes(base, "import")


@pytest.mark.parametrize("target", ["v", "uuid"])
def test_what_imgadm_cannot_read_or_name_we_refuse(base, target):
    verdicts = zip(VALUES, RECORDED["verdicts"][target], strict=True)
    upper = "11111111-AAAA-4BBB-8CCC-0000000000FF"  # names the same dataset
    taken = [
        value
        for value, verdict in verdicts
        if verdict in "ur" and takes(changed(base, target, value), "install")
    ]
    assert taken == ([upper] if target == "uuid" else [])
