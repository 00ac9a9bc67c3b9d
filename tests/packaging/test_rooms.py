"""The table of `make coverage`."""

from __future__ import annotations

from tests.rooms import room, table


def file(statements: int, missing: int) -> dict[str, object]:
    return {"summary": {"num_statements": statements, "missing_lines": missing}}


def test_a_file_belongs_to_its_room():
    assert room("imgstored/imports/plan.py") == "imgstored/imports"
    assert room("imgstored/pools/zfs/lzc.py") == "imgstored/pools"
    assert room("ctl/imgproto/operations.py") == "ctl/imgproto"
    assert room("imgstored/app.py") == "imgstored"
    assert room("ctl/imgctl/run/vmadm.py") == "ctl/imgctl"


def test_a_room_is_the_sum_of_its_files():
    files = {
        "imgstored/imports/plan.py": file(100, 10),
        "imgstored/imports/manager.py": file(100, 0),
        "imgstored/app.py": file(50, 40),
        "imgstored/rpc/__init__.py": file(0, 0),
    }
    assert [line.split() for line in table(files)][1:] == [
        ["imgstored", "50", "40", "20.0%"],
        ["imgstored/imports", "200", "10", "95.0%"],
        ["imgstored/rpc", "0", "0", "100.0%"],
        ["all", "250", "50", "80.0%"],
    ]
