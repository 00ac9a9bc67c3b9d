"""Answers what clients ask about images and the daemon; changes nothing."""
