"""imgctl: the command-line client of imgstored, and the `Client` class for other programs."""
