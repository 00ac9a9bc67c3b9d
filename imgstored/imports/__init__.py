"""What is installed, what is being installed, and who wants it."""
