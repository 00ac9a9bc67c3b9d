"""trio's event loop on this host, and a trial of it."""
