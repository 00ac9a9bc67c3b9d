"""Images as other hosts get them: manifests with their original compressed files, within a size budget."""
