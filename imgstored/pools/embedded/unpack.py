"""Container images in the embedded pool: each is a folder with the files of all its layers.

A layer begins as a copy of the tree below it. If the file system shares blocks between files (FICLONE), a
layer takes only the space of its changes; otherwise each tree has its own copy of everything.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

from msgspec import Struct

from imgstored.errors import OriginNotInstalledError
from imgstored.pools.base import BOUNDLESS
from imgstored.pools.embedded.files import Folder, pool_errors
from imgstored.pools.embedded.notes import TREE, ImageNote, write_image
from imgstored.pools.embedded.receive import PARTIAL, discard
from imgstored.pools.embedded.trees import copy_tree, facts_of
from imgstored.pools.unpacking import unpack_layer

if TYPE_CHECKING:
    from imgstored.pools.base import Blocks, Room


class Unpack(Struct, frozen=True):
    """The unpacking of one layer into the folder `root` of the pool named `pool`."""

    root: Folder
    pool: str
    uuid: str
    origin: ImageNote | None
    room: Room = BOUNDLESS

    def run(self, blocks: Blocks) -> ImageNote:
        """Unpacks all of it. Raises as `Pool.unpack` does."""
        if self.origin is not None and self.origin.kind != "tree":
            raise OriginNotInstalledError(
                f'origin image "{self.origin.uuid}" of image "{self.uuid}" is no container image',
                hint="only a container image has layers",
            )
        with contextlib.ExitStack() as stack, self._pool_errors():
            if self.root.status(self.uuid + PARTIAL) is not None:
                discard(self.root, self.uuid + PARTIAL)
            folder = stack.enter_context(self.root.make_folder(self.uuid + PARTIAL))
            tree = stack.enter_context(folder.make_folder(TREE))
            os.fchmod(tree.fd, 0o755)  # a root folder's mode; the pool's own is 0700
            if self.origin is not None:
                below = stack.enter_context(self.root.folder(self.origin.uuid))
                source = stack.enter_context(below.folder(TREE))
                copy_tree(source.fd, tree.fd, self.room)
            unpack_layer(self.uuid, blocks, tree.fd, self.room)
            note = self._note(tree)
            write_image(folder, note)
        return note

    def _note(self, tree: Folder) -> ImageNote:
        # To read holes takes long, but no room: `take` notices a cancellation meanwhile.
        facts = facts_of(tree.fd, lambda _size: self.room.take(0))
        return ImageNote(
            uuid=self.uuid,
            guid=secrets.randbits(63) | 1,
            origin=None if self.origin is None else self.origin.uuid,
            fromguid=0 if self.origin is None else self.origin.guid,
            kind="tree",
            stream_size=facts.size,
            tree_used=facts.used,
            tree_hash=f"{facts.fingerprint.algorithm}:{facts.fingerprint.digest.hex()}",
            dataset=secrets.randbits(63) | 1,
        )

    def _pool_errors(self) -> contextlib.AbstractContextManager[None]:
        return pool_errors(self.pool, f"unpacking image {self.uuid}", self.root.fd)
