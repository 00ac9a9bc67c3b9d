"""The event loop: the system call that trio waits by on this host, and a trial of it."""
