"""Image servers: which images there are, their manifests, and where their bytes are."""
