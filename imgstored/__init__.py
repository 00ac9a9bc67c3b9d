"""imgstored: the daemon that owns a host's images."""

from imgstored.eventloop import kqueue_by_poll

__version__ = "0.1.0"

# Here, because whatever of ours imports trio has imported this before.
kqueue_by_poll.install_where_needed()
