"""libzfs_core by ctypes, for hosts without pyzfs: the C library alone, by its real file name.

Source of the signatures: libzfs_core.h and libnvpair.h, which OpenZFS (since 0.8) and illumos have alike for
what is declared here. All of it is in illumos' usr/src/lib/libzfs_core/common/mapfile-vers, in the versions
ILLUMOS_0.1 to 0.4. Never called is `lzc_receive`: illumos has two of its arguments the other way round.

A list goes to the library and comes from it packed, so that no memory of the library's is walked through
here: `nvlist_unpack` makes the library's list of our bytes, and `nvlist_pack` bytes of the library's list.
"""

from __future__ import annotations

import ctypes
import errno
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from imgstored.errors import StreamError
from imgstored.pools.zfs.core import CallError
from imgstored.zstream.nvlist import pack, unpack_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from imgstored.zstream.fletcher4 import ByteOrder
    from imgstored.zstream.nvlist import Tree

#: Of libzfs_core and of libnvpair, which come together: OpenZFS since 2.0, then illumos and OpenZFS 0.8.
#: Files with these versions in their names are there without the packages that compilers need.
_VERSIONS: Final = (3, 1)

_TEXT: Final = ctypes.c_char_p
_LIST: Final = ctypes.c_void_p
_OUT: Final = ctypes.POINTER(ctypes.c_void_p)
#: `boolean_t`, `enum lzc_send_flags` and descriptors.
_INT: Final = ctypes.c_int
_U64: Final = ctypes.c_uint64
_SIZE: Final = ctypes.c_size_t

_Signatures = dict[str, tuple[Any, ...]]

_CORE: Final[_Signatures] = {
    "libzfs_core_init": (),
    "lzc_channel_program": (_TEXT, _TEXT, _U64, _U64, _LIST, _OUT),
    "lzc_channel_program_nosync": (_TEXT, _TEXT, _U64, _U64, _LIST, _OUT),
    "lzc_clone": (_TEXT, _TEXT, _LIST),
    "lzc_create": (_TEXT, _INT, _LIST, ctypes.c_void_p, ctypes.c_uint),
    "lzc_destroy_snaps": (_LIST, _INT, _OUT),
    "lzc_get_holds": (_TEXT, _OUT),
    "lzc_hold": (_LIST, _INT, _OUT),
    "lzc_receive_resumable": (_TEXT, _LIST, _TEXT, _INT, _INT, _INT),
    "lzc_release": (_LIST, _OUT),
    "lzc_rename": (_TEXT, _TEXT),
    "lzc_rollback_to": (_TEXT, _TEXT),
    "lzc_send": (_TEXT, _TEXT, _INT, _INT),
    "lzc_snapshot": (_LIST, _LIST, _OUT),
}
_NVPAIR: Final[_Signatures] = {
    "nvlist_free": (_LIST,),
    "nvlist_pack": (_LIST, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(_SIZE), _INT, _INT),
    "nvlist_size": (_LIST, ctypes.POINTER(_SIZE), _INT),
    "nvlist_unpack": (ctypes.c_void_p, _SIZE, _OUT, _INT),
}

#: NV_ENCODE_NATIVE, and KM_SLEEP, which is what user programs pass.
_NATIVE: Final = 0
_SLEEP: Final = 0
_FALSE: Final = 0
#: LZC_SEND_FLAG_LARGE_BLOCK of `enum lzc_send_flags`, in illumos and OpenZFS.
_LARGE_BLOCK: Final = 1 << 1
#: LZC_DATSET_TYPE_ZFS of `enum lzc_dataset_type`, and the length of a wrapping key that there is not.
_FILESYSTEM: Final = 2
_NO_KEY: Final = 0
#: No descriptor whose closing would release a hold.
_NO_CLEANUP: Final = -1
#: The key of a result's list under which the kernel counts the errors that it left out.
_MORE: Final = b"N_MORE_ERRORS"

_ORDER: Final[ByteOrder] = "<" if sys.byteorder == "little" else ">"


class Library:
    """The C libraries. See `imgstored.pools.zfs.core.Core`."""

    def __init__(self, load: Callable[[str], ctypes.CDLL] = ctypes.CDLL) -> None:
        """Loads the libraries. Raises `OSError` if one is missing, `AttributeError` if a function is."""
        self._name, core, nvpair = _loaded(load)
        self._calls = {**_declared(core, _CORE), **_declared(nvpair, _NVPAIR)}
        self._calls["nvlist_free"].restype = None
        self._starting = threading.Lock()
        self._started = False

    @property
    def name(self) -> str:
        """The name of the library's file."""
        return self._name

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """Only `CallError`."""
        return (CallError,)

    def channel_program(
        self,
        pool: bytes,
        program: bytes,
        arguments: dict[bytes, Tree],
        *,
        sync: bool,
        instructions: int,
        memory: int,
    ) -> Tree:
        """See `Core`."""
        call = "lzc_channel_program" if sync else "lzc_channel_program_nosync"
        with self._list({b"argv": arguments}) as given, self._result() as result:
            number = self._call(call, pool, program, instructions, memory, given, ctypes.byref(result))
            answer = self._read(result)
        if number:
            said = answer.get(b"error")
            raise CallError(call, number, said if isinstance(said, bytes) else None)
        return answer.get(b"return")

    def receive_resumable(
        self, snapshot: bytes, fd: int, origin: bytes | None, properties: Mapping[bytes, int | bytes]
    ) -> None:
        """See `Core`."""
        call = "lzc_receive_resumable"
        with self._list(dict(properties)) as given:
            self._check(call, self._call(call, snapshot, given, origin, _FALSE, _FALSE, _int(call, fd)))

    def send(self, snapshot: bytes, origin: bytes | None, fd: int) -> None:
        """See `Core`."""
        code = self._call("lzc_send", snapshot, origin, _int("lzc_send", fd), _LARGE_BLOCK)
        self._check("lzc_send", code)

    def create(self, filesystem: bytes, properties: Mapping[bytes, int | bytes]) -> None:
        """See `Core`."""
        with self._list(dict(properties)) as given:
            code = self._call("lzc_create", filesystem, _FILESYSTEM, given, None, _NO_KEY)
            self._check("lzc_create", code)

    def clone(self, filesystem: bytes, origin: bytes, properties: Mapping[bytes, int | bytes]) -> None:
        """See `Core`."""
        with self._list(dict(properties)) as given:
            self._check("lzc_clone", self._call("lzc_clone", filesystem, origin, given))

    def snapshot(self, snapshots: Sequence[bytes], properties: Mapping[bytes, bytes]) -> None:
        """See `Core`."""
        with self._list(dict.fromkeys(snapshots)) as names, self._list(dict(properties)) as given:
            self._change("lzc_snapshot", names, given)

    def destroy_snapshots(self, snapshots: Sequence[bytes]) -> None:
        """See `Core`."""
        with self._list(dict.fromkeys(snapshots)) as names:
            self._change("lzc_destroy_snaps", names, _FALSE)

    def rollback_to(self, dataset: bytes, snapshot: bytes) -> None:
        """See `Core`."""
        self._check("lzc_rollback_to", self._call("lzc_rollback_to", dataset, snapshot))

    def rename(self, source: bytes, target: bytes) -> None:
        """See `Core`."""
        self._check("lzc_rename", self._call("lzc_rename", source, target))

    def hold(self, snapshot: bytes, tag: bytes) -> bool:
        """See `Core`."""
        with self._list({snapshot: tag}) as holds:
            return snapshot not in self._change("lzc_hold", holds, _NO_CLEANUP)

    def release(self, snapshot: bytes, tag: bytes) -> None:
        """See `Core`."""
        with self._list({snapshot: {tag: None}}) as holds:
            self._change("lzc_release", holds)

    def holds(self, snapshot: bytes) -> Iterable[bytes]:
        """See `Core`."""
        with self._result() as result:
            self._check("lzc_get_holds", self._call("lzc_get_holds", snapshot, ctypes.byref(result)))
            return self._read(result)

    # -- calls -----------------------------------------------------------------------------------------------

    def _call(self, name: str, *arguments: Any) -> int:
        """Makes a call; returns its errno. The first one opens /dev/zfs, and nothing closes it again."""
        with self._starting:
            if not self._started:
                self._check("libzfs_core_init", self._calls["libzfs_core_init"]())
                self._started = True
        number: int = self._calls[name](*arguments)
        return number

    def _change(self, name: str, *arguments: Any) -> dict[bytes, Tree]:
        """Makes a call with several names. Raises the error of the first name that failed."""
        with self._result() as result:
            number = self._call(name, *arguments, ctypes.byref(result))
            said = self._read(result)
        each = [value for key, value in said.items() if key != _MORE and isinstance(value, int)]
        self._check(name, each[0] if number and each else number)
        return said

    def _check(self, name: str, number: int) -> None:
        if number:
            raise CallError(name, number)

    # -- lists -----------------------------------------------------------------------------------------------

    @contextmanager
    def _list(self, pairs: dict[bytes, Any]) -> Iterator[ctypes.c_void_p]:
        """The library's list of these pairs, for as long as the context lasts."""
        packed = pack(pairs, _ORDER)
        with self._result() as made:
            buffer = ctypes.create_string_buffer(packed, len(packed))
            number = self._calls["nvlist_unpack"](buffer, len(packed), ctypes.byref(made), _SLEEP)
            self._check("nvlist_unpack", number)
            yield made

    @contextmanager
    def _result(self) -> Iterator[ctypes.c_void_p]:
        """A place for a result list, which the context frees if a call has put one there."""
        place = ctypes.c_void_p()
        try:
            yield place
        finally:
            if place.value is not None:
                self._calls["nvlist_free"](place)

    def _read(self, place: ctypes.c_void_p) -> dict[bytes, Tree]:
        """The pairs of the list there; none if there is no list."""
        if place.value is None:
            return {}
        size = _SIZE()
        self._check("nvlist_size", self._calls["nvlist_size"](place, ctypes.byref(size), _NATIVE))
        buffer = ctypes.create_string_buffer(size.value)
        into = ctypes.c_void_p(ctypes.addressof(buffer))
        number = self._calls["nvlist_pack"](place, ctypes.byref(into), ctypes.byref(size), _NATIVE, _SLEEP)
        self._check("nvlist_pack", number)
        try:
            return unpack_tree(buffer.raw)
        except StreamError as error:
            raise CallError("nvlist_pack", errno.EINVAL, error.message.encode()) from error


def _loaded(load: Callable[[str], ctypes.CDLL]) -> tuple[str, ctypes.CDLL, ctypes.CDLL]:
    """The name of libzfs_core, that library, and libnvpair."""
    causes: list[str] = []
    for version in _VERSIONS:
        name = f"libzfs_core.so.{version}"
        try:
            return name, load(name), load(f"libnvpair.so.{version}")
        except OSError as error:
            causes.append(str(error))
    raise OSError("; ".join(causes))


def _declared(library: ctypes.CDLL, signatures: _Signatures) -> dict[str, Any]:
    calls = {}
    for name, arguments in signatures.items():
        calls[name] = getattr(library, name)
        calls[name].argtypes = arguments
        calls[name].restype = ctypes.c_int
    return calls


def _int(call: str, fd: int) -> int:
    """A descriptor. Raises for other numbers, which ctypes would cut off."""
    if not 0 <= fd < 1 << 31:
        raise CallError(call, errno.EBADF)
    return fd
