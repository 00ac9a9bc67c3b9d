"""Databases that cannot be opened: what is said of them, and whether a later start may help."""

from __future__ import annotations

import errno
import os

import pytest

from imgstored.errors import ConfigError
from imgstored.state.schema import open_database
from tests.support.full import small

PAGE = 4096


@pytest.mark.parametrize("left", [0, 1, 4, 8, 12], ids="{} pages left".format)
def test_a_database_on_a_full_disk_is_no_wrong_configuration(tmp_path, left):
    with small(tmp_path / "state") as folder:
        file = folder / "some.sqlite"
        open_database(file, "CREATE TABLE some (id INTEGER);", hint="move it away").close()
        with (folder / "ballast").open("wb", buffering=0) as ballast:
            while (status := os.statvfs(folder)).f_bavail * status.f_frsize > left * PAGE:
                ballast.write(bytes(PAGE))
        with pytest.raises(ConfigError) as caught:
            open_database(file, "", hint="move it away", then="INSERT INTO some SELECT randomblob(40000)")
        assert caught.value.hint == "free space on its file system"
        cause = caught.value.__cause__
        assert isinstance(cause, OSError)
        assert cause.errno == errno.ENOSPC
