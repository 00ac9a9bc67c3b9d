"""The daemon's Unix socket: MessagePack-RPC, as docs/protocol.md describes it."""
