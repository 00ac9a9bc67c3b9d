"""The state folder, which survives the daemon: its owner, its schema, and its migrations."""
