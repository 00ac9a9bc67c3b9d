"""Deltas: the index of an image's file, and what of the file is elsewhere already. No I/O."""
