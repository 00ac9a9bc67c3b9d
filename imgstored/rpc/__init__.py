"""MessagePack-RPC on a Unix socket."""
