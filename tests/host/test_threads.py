from __future__ import annotations

import threading
from pathlib import Path

from imgstored.host import threads


def test_the_system_shows_the_name() -> None:
    seen = []

    def work() -> None:
        threads.show_name()
        seen.append(Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text())

    for name in ("decompress_0", "a name that is longer than fifteen bytes"):
        thread = threading.Thread(target=work, name=name)
        thread.start()
        thread.join()
    assert seen == ["decompress_0\n", "a name that is \n"]


def test_a_c_library_without_names(monkeypatch) -> None:
    def none(name: str | None) -> object:
        return object()

    threads._function.cache_clear()
    monkeypatch.setattr(threads.ctypes, "CDLL", none)
    try:
        threads.show_name()
    finally:
        threads._function.cache_clear()
