"""Hooks: programs that the daemon runs when something happens."""
