"""OCI registries: references, documents, authentication, and a client for pulling and pushing."""
