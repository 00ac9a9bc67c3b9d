"""Maintains installed images: updates their manifests, verifies them, and finds the unused ones."""
