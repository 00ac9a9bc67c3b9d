"""In a process of its own: what the heap is told holds for all of its process."""

from __future__ import annotations

import subprocess
import sys

_START = """
import ctypes, resource, threading
from imgstored.host import heap

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def in_a_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
"""


def printed(code: str) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", _START + code], capture_output=True, text=True, check=True, timeout=60
    )
    return [int(word) for word in done.stdout.split()]


def test_blocks_that_come_and_go_cost_no_page_faults() -> None:
    """As an import has them: some wait, and the oldest is freed."""
    (faults,) = printed("""
heap.keep_what_is_freed()

def come_and_go(times):
    waiting = []
    for _ in range(times):
        waiting.append(bytearray(1 << 20))
        del waiting[:-4]

def work():
    come_and_go(20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    come_and_go(200)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

in_a_thread(work)
""")
    assert faults < 20 * 256, "200 blocks of 256 pages"


def test_what_is_free_goes_back() -> None:
    before, kept, after = printed("""
heap.keep_what_is_freed()

def work():
    blocks = [bytearray(1 << 20) for _ in range(20)]
    for block in blocks:
        block[::4096] = bytes(256)
    print(resident())

in_a_thread(work)
print(resident())
heap.give_back()
print(resident())
""")
    assert kept > before - (4 << 20)
    assert after < before - (16 << 20)


def test_all_threads_have_one_heap() -> None:
    """Of another one the kernel would not get back what is at its end."""
    (heaps,) = printed("""
heap.keep_what_is_freed()
for _ in range(4):
    in_a_thread(lambda: [bytearray(1 << 16) for _ in range(16)])
threads = [threading.Thread(target=lambda: [bytearray(1 << 16) for _ in range(64)]) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with open("/proc/self/maps") as file:
    # Every heap but the first begins at a multiple of 64 MiB.
    starts = [int(line.split("-")[0], 16) for line in file if " rw-p " in line]
print(sum(start % (64 << 20) == 0 for start in starts))
""")
    assert heaps == 0


def test_another_c_library_is_left_alone(monkeypatch) -> None:
    from imgstored.host import heap

    heap._function.cache_clear()
    monkeypatch.setattr(sys, "platform", "sunos5")
    try:
        heap.keep_what_is_freed()
        heap.give_back()
        assert heap._function("mallopt") is None
    finally:
        heap._function.cache_clear()
