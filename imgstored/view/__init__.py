"""Installed images as files."""

from imgstored.view.open import Mode, View, open_view

__all__ = ["Mode", "View", "open_view"]
