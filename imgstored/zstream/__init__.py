"""The ZFS send-stream format, without I/O."""
