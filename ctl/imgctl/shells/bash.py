"""Completion for bash 4 and later, without the package bash-completion."""

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
