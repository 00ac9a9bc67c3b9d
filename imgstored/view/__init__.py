"""Installed images as files."""
