"""A pool without ZFS: a folder. It is for trials, CI, and mirrors.

FOLDER/lock                one process at a time
FOLDER/UUID/               an image
    image.json             what it is
    holds.json             the tags that hold it, once there was one
    stream.zfs             a filesystem: its stream, as it came
    disk.raw               a volume: its disk, sparse; qemu can boot it
    skeleton.zfs           a volume: its stream without what is on the disk
FOLDER/UUID-partial/       an image that is being received
    checkpoint             where the receive can go on
FOLDER/.trash-UUID-N/      an image that is being deleted
"""

from imgstored.pools.embedded.pool import EmbeddedPool

__all__ = ["EmbeddedPool"]
