# Completion of imgctl in fish: the installed imgctl knows its own commands.
imgctl completion fish | source
