"""Events of the daemon, for clients, the history and the metrics."""
