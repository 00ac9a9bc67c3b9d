"""Where images live: what a pool must do, and the kinds of pool."""
