"""Keeps installed images in order: updates their manifests, verifies them, and finds the unused ones."""
