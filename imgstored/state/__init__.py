"""The folder with what must survive the daemon: whose it is, its schema, and what becomes of an older one."""
