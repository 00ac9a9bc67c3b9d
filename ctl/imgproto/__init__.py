"""The protocol of imgstored's socket as types: parameters, results and events of each operation.

Both programs share this package, and it needs nothing but `typing`. The daemon checks parameters against it,
mypy checks both programs, and tests check docs/protocol.md. `imgctl` names its types in annotations only, so
that the command does not pay for them at start-up.
"""

#: The version that `hello` names.
PROTOCOL_VERSION = 1
