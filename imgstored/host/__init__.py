"""What an operating system and its file systems offer, and what some of them lack."""
