"""What happens in the daemon, as clients, the history and the metrics hear of it."""
