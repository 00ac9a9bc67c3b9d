"""Beside imports: names, history, what would be done, what images occupy, and whether they are whole."""
