"""The pool of a ZFS host, through libzfs_core alone: the program `zfs` never runs.

POOL/UUID@final          an image, as imgadm and vmadm know it
POOL/UUID-partial        an image that is being received, or with @final one that is not published yet
    receive_resume_token where the receive can go on, after a crash too

Nothing else is kept: what `images` tells is what the kernel says at that moment, so that images that imgadm
installs or deletes are seen.
"""

from imgstored.pools.zfs.pool import ZfsPool

__all__ = ["ZfsPool"]
