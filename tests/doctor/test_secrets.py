"""Who may read the files that have credentials."""

from __future__ import annotations

import json
import os

import pytest

from imgstored.doctor import secrets

SOURCE = '[[sources]]\nurl = "https://h"\nheaders = { Authorization = "Bearer abcdef" }\n'


def only(findings):
    (finding,) = findings
    return finding


def test_no_secrets(examined):
    subject = examined('[[sources]]\nurl = "https://h?channel=dev"\n')
    subject.files[0].chmod(0o644)
    finding = only(secrets.readers(subject))
    assert (finding.status, finding.seen) == ("ok", "no file has secrets")


@pytest.mark.parametrize(("mode", "status"), [(0o600, "ok"), (0o640, "ok"), (0o644, "warn"), (0o604, "warn")])
def test_the_configuration(examined, mode, status):
    subject = examined(SOURCE)
    subject.files[0].chmod(mode)
    finding = only(secrets.readers(subject))
    assert finding.status == status
    if status == "warn":
        assert finding.seen == (
            f"{subject.files[0]} has credentials of image servers, and others can read it (mode {mode:04o})"
        )
        assert "chmod 600" in finding.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(("uid", "gid", "said"), [(0, 1001, "others"), (1001, 0, "uid 1001")])
def test_of_another_group_or_user(examined, uid, gid, said):
    subject = examined(SOURCE)
    subject.files[0].chmod(0o640)
    os.chown(subject.files[0], uid, gid)
    assert said in only(secrets.readers(subject)).seen


def test_imgadms_file_and_keys(examined, tmp_path):
    key = tmp_path / "key.pem"
    key.touch(mode=0o644)
    source = f'[[sources]]\nurl = "https://h"\ncert_file = "/absent"\nkey_file = "{key}"\n'
    subject = examined(source, top=f'imgadm = "{tmp_path}/imgadm"')
    conf = tmp_path / "imgadm" / "imgadm.conf"
    conf.parent.mkdir()
    conf.write_text(json.dumps({"sources": [{"type": "imgapi", "url": "http://h?token=abcdef"}]}))
    key.chmod(0o644)
    conf.chmod(0o644)
    assert {finding.seen.split(",")[0] for finding in secrets.readers(subject)} == {
        f"{conf} has credentials of image servers",
        f"{key} has a private key",
    }
    conf.chmod(0o600)
    key.chmod(0o400)
    assert only(secrets.readers(subject)).seen == "only root can read the 2 files with secrets"


def test_logins_and_keys_of_registries(examined, tmp_path):
    key, logins = tmp_path / "key.pem", tmp_path / "logins.json"
    for file in (key, logins):
        file.touch()
        file.chmod(0o644)
    subject = examined(
        f'[[registries]]\nhost = "r.example"\ncert_file = "/absent"\nkey_file = "{key}"\n'
        f'auth_file = "{logins}"\n'
    )
    assert {finding.seen.split(",")[0] for finding in secrets.readers(subject)} == {
        f"{key} has a private key",
        f"{logins} has logins at registries",
    }
    logins.chmod(0o600)
    key.chmod(0o600)
    assert only(secrets.readers(subject)).status == "ok"
