"""What trio waits by on this host, and whether it works."""
