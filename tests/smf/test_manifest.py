"""smf/imgstored.xml, by the rules of service_bundle(5), and that the method and the document say the same."""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "smf" / "imgstored.xml"
METHOD = ROOT / "smf" / "method" / "imgstored"
RULES = Path(__file__).with_name("service_bundle.rng")
DOCUMENT = (ROOT / "docs" / "smf.md").read_text()


def refused(manifest: str, folder: Path) -> str:
    """What is wrong with it; empty if nothing is."""
    file = folder / "manifest.xml"
    file.write_text(manifest)
    done = subprocess.run(
        ["xmllint", "--noout", "--nonet", "--relaxng", str(RULES), str(file)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stderr if done.returncode else ""


def test_the_manifest_is_valid(tmp_path):
    assert refused(MANIFEST.read_text(), tmp_path) == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('grouping="require_all"', 'grouping="some"'),
        ('timeout_seconds="30"', 'timeout_seconds="soon"'),
        ('version="1"', ""),
        ('<create_default_instance enabled="true"/>', '<create_default_instance enabled="yes"/>'),
        ("svc:/milestone/network", "milestone network"),
        ('type="astring"', 'type="string"'),
        ('exec="/opt', 'exec="opt'),
        ("<stability", "<single_instance/>\n<stability"),
        ("<template>", "<template><description/>"),
    ],
)
def test_the_rules_refuse_what_is_wrong(tmp_path, old, new):
    right = MANIFEST.read_text()
    assert old in right
    assert "fails to validate" in refused(right.replace(old, new), tmp_path)


@cache
def service() -> ET.Element:
    found = ET.parse(MANIFEST).getroot().find("service")
    assert found is not None
    return found


def test_it_is_the_service_that_the_client_names():
    assert service().get("name") == "system/imgstored"
    assert service().find("create_default_instance") is not None


def test_the_methods_are_those_of_the_script():
    methods = service().findall("exec_method")
    assert [method.get("name") for method in methods] == ["start", "stop", "refresh"]
    for method in methods:
        assert method.get("exec") == "/opt/custom/smf/method/imgstored %m"
        assert f"\n    {method.get('name')})\n" in METHOD.read_text()


def test_all_but_the_filesystem_is_only_an_order():
    """A host without a network, or that is no SmartOS, has its images all the same."""
    groups = {
        group.get("name"): (group.get("grouping"), [fmri.get("value") for fmri in group])
        for group in service().findall("dependency")
    }
    assert groups.pop("filesystem") == ("require_all", ["svc:/system/filesystem/local"])
    assert {grouping for grouping, _ in groups.values()} == {"optional_all"}
    assert "svc:/system/smartdc/init" in groups["smartos"][1]


def properties() -> dict[str, str]:
    group = service().find("property_group[@name='config']")
    assert group is not None
    values = {each.get("name", ""): each.get("value", "") for each in group}
    assert values.pop("value_authorization").startswith("solaris.smf.value.")
    return values


def test_the_method_reads_every_property_and_no_other():
    cases = re.findall(r"^ {12}([a-z_]+)\) .*;;$", METHOD.read_text(), re.MULTILINE)
    assert cases == list(properties())


def test_every_property_is_described_in_the_manifest_and_in_the_document():
    patterns = service().findall(".//prop_pattern")
    assert [pattern.get("name") for pattern in patterns] == list(properties())
    assert all("".join(pattern.itertext()).strip() for pattern in patterns)
    rows = re.findall(r"^\| `config/([a-z_]+)` \| (?:`([^`]*)`|none) \|", DOCUMENT, re.MULTILINE)
    assert dict(rows) == properties()


def test_every_privilege_is_explained():
    credential = service().find("method_context/method_credential")
    assert credential is not None
    names = credential.get("privileges", "").split(",")
    assert "all" not in names
    text = MANIFEST.read_text()
    for name in names:
        assert f"`{name}`" in DOCUMENT
        assert name == "basic" or re.search(rf"^ +{name}  ", text, re.MULTILINE)
