"""Tests in this folder run in the guest only, where run.sh starts them."""

import os

collect_ignore_glob = [] if os.environ.get("IMGSTORE_GUEST") else ["test_*.py"]
