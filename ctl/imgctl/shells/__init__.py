"""Completion in shells: what each word of a command line may be (`words`), and the scripts. Pure: no I/O."""
