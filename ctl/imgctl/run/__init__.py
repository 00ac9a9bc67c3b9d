"""The commands, each a function of a `Session` and its `Arguments`."""
