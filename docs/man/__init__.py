"""The manual pages, made from the tables of commands and from docs/configuration.md."""
