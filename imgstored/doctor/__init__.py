"""Checks of a host, one small function each, with hints for every problem."""
