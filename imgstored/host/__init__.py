"""Services of operating systems and file systems, and stand-ins for what some of them lack."""
