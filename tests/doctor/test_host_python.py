"""Python, and what its process may have."""

from __future__ import annotations

import resource
import sys

import pytest

from imgstored.config import specs
from imgstored.doctor import host
from imgstored.errors import ConfigError
from imgstored.eventloop import trial


def test_trio_is_tried(examined):
    (found,) = host.python(examined())
    assert (found.status, sys.executable in found.seen) == ("ok", True)
    assert found.seen.endswith(f"; trio waits by {trial.waits_by()}")


def test_what_failed_is_said(examined, monkeypatch):
    def fails():
        raise ConfigError("trio cannot be imported: ImportError: no", hint="install it")

    monkeypatch.setattr(trial, "waits_by", fails)
    (found,) = host.python(examined())
    assert (found.status, found.seen, found.hint) == (
        "fail",
        "trio cannot be imported: ImportError: no",
        "install it",
    )


@pytest.mark.parametrize(
    ("hard", "status", "said"),
    [
        (65536, "ok", "65,536 files may be open; at most 1,000 are needed"),
        (resource.RLIM_INFINITY, "ok", "any number of files may be open"),
        (999, "warn", "999 files may be open, but 1,000 may be needed"),
        (1000, "ok", "1,000 files may be open"),
    ],
)
def test_descriptors(examined, monkeypatch, hard, status, said):
    subject = examined()
    assert specs.descriptors(subject.settings) == 1000
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, hard))
    (found,) = host.descriptors(subject)
    assert (found.status, said in found.seen) == (status, True)
    assert bool(found.hint) == (status == "warn")
