"""Completion for fish 3 and later."""

FISH = r"""# Completion of @PROGRAM@ in fish, made by `@PROGRAM@ completion fish`.

function __@PROGRAM@_complete
    set -l typed (commandline -opc)
    set -l word (commandline -ct)
    set -l lines ($typed[1] __complete words $typed[2..-1] "$word" 2>/dev/null)
    if test "$lines[1]" = :files
        set -l option (string match -r -- '^--[^=]*=' "$word")
        for path in (complete -C "'' "(string escape -- (string replace -- "$option" '' "$word")))
            printf '%s%s\n' "$option" $path
        end
    else
        printf '%s\n' $lines[2..-1]
    end
end

complete -c @PROGRAM@ -f -a '(__@PROGRAM@_complete)'
"""
