"""The scripts for completion in bash, zsh and fish. Each gets all words from `__complete`."""

from __future__ import annotations

#: Nothing that comes from the daemon is ever expanded: it is read line by line, never through `compgen -W`.
BASH = r"""# Completion of @PROGRAM@ in bash, made by `@PROGRAM@ completion bash`.

_@PROGRAM@() {
    local word directive sign part kept= i
    local -a typed=() lines=()
    # bash takes words apart at the signs of COMP_WORDBREAKS; here they are parted by spaces only.
    read -ra typed <<< "${COMP_LINE:0:COMP_POINT}"
    [[ ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]] && typed+=("")
    word=${typed[-1]}
    mapfile -t lines < <("${typed[0]}" __complete words "${typed[@]:1}" 2> /dev/null)
    directive=${lines[0]-}
    COMPREPLY=()
    if [[ $directive == :files ]]; then
        compopt -o filenames 2> /dev/null
        [[ $word == --*=* ]] && word=${word#*=}
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
    fi
    [[ $directive == :nospace ]] && compopt -o nospace 2> /dev/null
    # What is before the last sign that parts words is not replaced; "@" itself is.
    for sign in : = @; do
        if [[ $COMP_WORDBREAKS == *$sign* && $word == *$sign* ]]; then
            part=${word%"${word##*"$sign"}"}
            ((${#part} > ${#kept})) && kept=$part
        fi
    done
    kept=${kept%@}
    for ((i = 1; i < ${#lines[@]}; i++)); do
        COMPREPLY+=("${lines[i]%%$'\t'*}")
    done
    COMPREPLY=("${COMPREPLY[@]#"$kept"}")
}

complete -F _@PROGRAM@ @PROGRAM@
"""


ZSH = r"""#compdef @PROGRAM@
# Completion of @PROGRAM@ in zsh, made by `@PROGRAM@ completion zsh`.

_@PROGRAM@() {
    local line
    local -a lines=() found=() shown=() after=()
    lines=("${(@f)$("${words[1]}" __complete words "${(@)words[2,CURRENT-1]}" "$PREFIX" 2> /dev/null)}")
    if [[ ${lines[1]} == :files ]]; then
        [[ $PREFIX == --*'='* ]] && compset -P 1 '*='
        _files
        return
    fi
    [[ ${lines[1]} == :nospace ]] && after=(-S '')
    for line in "${(@)lines[2,-1]}"; do
        found+=("${line%%$'\t'*}")
        shown+=("${line/$'\t'/  -- }")
    done
    compadd "${after[@]}" -l -d shown -a found
}

# As a file in $fpath it is run to complete; read by `source`, it registers itself.
if [[ $funcstack[1] == _@PROGRAM@ ]]; then
    _@PROGRAM@ "$@"
else
    compdef _@PROGRAM@ @PROGRAM@
fi
"""


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


SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def completion_script(shell: str, program: str) -> str:
    """The script that completes the program in a shell of `SHELLS`."""
    return SHELLS[shell].replace("@PROGRAM@", program)
