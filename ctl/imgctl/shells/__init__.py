"""Completion in shells: what each word of a command line may be (`words`), and a script a shell. Pure: no I/O."""
