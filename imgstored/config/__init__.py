"""The configuration: its keys, its files, and the settings of each room."""
