"""Layers of container images: what is in one, and how it becomes part of a tree of files."""
