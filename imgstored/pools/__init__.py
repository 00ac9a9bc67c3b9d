"""Pools keep images: the contract of a pool, and the kinds of pool."""
