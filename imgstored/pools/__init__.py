"""Pools of images: the contract, and the kinds of pool."""
