"""The library's images elsewhere and from elsewhere: static sites, and mirrored images."""
