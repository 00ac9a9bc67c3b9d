"""What keeps this host from having its images, and what to do about it: each check a small function."""
