"""Real ZFS is only in the guest: tests/guest/run.sh runs these tests there."""

import os

collect_ignore = [] if os.environ.get("IMGSTORE_GUEST") else ["test_zfs.py", "test_zfs_bindings.py"]
