"""The pool of a ZFS host, through libzfs_core alone: the program `zfs` never runs.

POOL/UUID@final          an image, as imgadm and vmadm know it
POOL/UUID-partial        an image that is being received, or with @final one that is not published yet
    receive_resume_token where the receive can go on, after a crash too

The pool keeps nothing else: `images` returns what the kernel has at that moment, and so sees images that
imgadm installs or deletes.
"""

from imgstored.pools.zfs.pool import ZfsPool

__all__ = ["ZfsPool"]
