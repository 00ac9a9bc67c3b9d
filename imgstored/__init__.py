"""imgstored: the daemon that owns a host's images."""

__version__ = "0.1.0"
