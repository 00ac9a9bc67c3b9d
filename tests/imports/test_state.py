"""The phases of an import, and what its end keeps."""

from __future__ import annotations

from typing import get_args

import pytest
from imgproto.documents import Phase

from imgstored.errors import (
    CancelledError,
    DamagedLayerError,
    DownloadError,
    LayerError,
    NoSpaceError,
    PoolError,
    StreamError,
    UncompressionError,
)
from imgstored.imports.state import KEPT, TRANSITIONS, End, check_transition, end_after, final_phase
from imgstored.transfer.digest import WrongFileError
from imgstored.transfer.mirror import ChangedError

PHASES = set(get_args(Phase)) - {"verifying"}  # an image's that is verified, not an import's
FINAL = {"installed", "failed", "cancelled"}


def test_every_phase_is_in_the_table_and_can_be_reached():
    assert TRANSITIONS.keys() == PHASES
    reached = {"waiting"}
    for _ in PHASES:
        reached |= {after for phase in reached for after in TRANSITIONS[phase]}
    assert reached == PHASES
    assert {phase for phase, after in TRANSITIONS.items() if not after} == FINAL


def test_every_import_can_end():
    for phase in PHASES - FINAL:
        assert "failed" in TRANSITIONS[phase]
        assert "installed" in TRANSITIONS[phase]


def test_a_commit_cannot_be_cancelled():
    with pytest.raises(ValueError, match="from installing to cancelled"):
        check_transition("installing", "cancelled")
    check_transition("receiving", "installing")


@pytest.mark.parametrize(
    ("error", "phase"),
    [(None, "installed"), (CancelledError("x"), "cancelled"), (DownloadError("x"), "failed")],
)
def test_how_it_ends(error, phase):
    assert final_phase(error) == phase


def test_every_end_has_its_row_and_only_a_stop_keeps_the_partial():
    assert KEPT.keys() == set(End)
    ends = KEPT.keys() - {End.INSTALLED}
    assert {end for end in ends if KEPT[end].partial} == {End.STOPPED}
    assert {end for end in End if KEPT[end].wanted} == {End.STOPPED, End.WRONG_BYTES}
    for kept in KEPT.values():
        assert kept.journal or not kept.wanted


@pytest.mark.parametrize("error", [DownloadError("x"), PoolError("x"), CancelledError("x")])
def test_what_was_downloaded_is_kept_after_a_failure(error):
    assert end_after(error, local_file=False, done=1) is End.FAILED
    assert end_after(error, local_file=False, done=0) is End.SPOILED
    assert end_after(error, local_file=True, done=1) is End.SPOILED


@pytest.mark.parametrize(
    "error",
    [
        WrongFileError("x"),
        ChangedError("x"),
        UncompressionError("x"),
        StreamError("x"),
        DamagedLayerError("x"),
    ],
)
def test_wrong_bytes_keep_nothing(error):
    assert end_after(error, local_file=False, done=1) is End.SPOILED


def test_a_layer_that_this_host_cannot_have_is_no_wrong_one():
    assert end_after(LayerError("x"), local_file=False, done=1) is End.FAILED


def test_a_full_disk_keeps_no_download_and_a_full_pool_does():
    error = NoSpaceError("x")
    assert end_after(error, local_file=False, done=1, by_download=True) is End.SPOILED
    assert end_after(error, local_file=False, done=1) is End.FAILED
    assert end_after(DownloadError("x"), local_file=False, done=1, by_download=True) is End.FAILED
