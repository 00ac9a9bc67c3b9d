"""Completion for shells: the candidates for each word (`words`), and the scripts. Pure: no I/O."""
