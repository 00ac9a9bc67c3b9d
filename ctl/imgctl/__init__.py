"""imgctl: the command-line client of imgstored, and the `Client` class for other programs.

Imports nothing of imgstored; docs/protocol.md is the contract between the two. Importing it costs msgpack and
what that imports, and nothing else.
"""

from imgctl.errors import NotConnectedError, RemoteError

__version__ = "0.1.0"

# Below the version, which the client tells the daemon.
from imgctl.client import Client

__all__ = ["Client", "NotConnectedError", "RemoteError", "__version__"]
