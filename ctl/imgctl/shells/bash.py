"""Completion for bash 4 and later, without the package bash-completion."""

#: Nothing that comes from the daemon is ever expanded: it is read line by line, never through `compgen -W`.
BASH = r"""# Completion of @PROGRAM@ in bash, made by `@PROGRAM@ completion bash`.

@TABLES@

_@PROGRAM@() {
    local typed word choices kind=none command= option= prefix= place=0 i
    local -a before=()
    # bash takes words apart at the signs of COMP_WORDBREAKS; here they are parted by spaces only.
    read -ra typed <<< "${COMP_LINE:0:COMP_POINT}"
    [[ ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]] && typed+=("")
    for ((i = 1; i < ${#typed[@]} - 1; i++)); do
        word=${typed[i]}
        if [[ $option ]]; then
            [[ $option == --socket ]] && before=(--socket "$word")
            option=
        elif [[ $word == -* ]]; then
            _@PROGRAM@_option "$command" "$word" && option=$word
            [[ $word == --socket=* ]] && before=("$word")
        elif [[ ! $command ]]; then
            command=$word
        else
            ((place += 1))
        fi
    done
    word=${typed[-1]}
    if [[ $option ]]; then
        _@PROGRAM@_option "$command" "$option"
    elif [[ $word == --*=* ]]; then
        _@PROGRAM@_option "$command" "${word%%=*}"
        prefix=${word%%=*}=
    elif [[ $word == -* ]]; then
        _@PROGRAM@_flags "$command"
    elif [[ ! $command ]]; then
        kind=commands
    else
        _@PROGRAM@_argument "$command" "$place"
    fi
    COMPREPLY=()
    choices=()
    case $kind in
        files)
            compopt -o filenames 2> /dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "${word#"$prefix"}")
            return
            ;;
        commands) _@PROGRAM@_commands; choices=("${choices[@]%%:*}") ;;
        =*) read -ra choices <<< "${kind#=}" ;;
        fields)
            [[ $word == *,* ]] && prefix=$prefix${word%,*},
            compopt -o nospace 2> /dev/null
            _@PROGRAM@_fields
            ;;
        filters)
            compopt -o nospace 2> /dev/null
            _@PROGRAM@_fields
            choices=("${choices[@]/%/=}")
            ;;
        installed | available | jobs | history | pools | sources)
            before=("${typed[0]}" "${before[@]}" __complete "$kind" "${word#"$prefix"}")
            mapfile -t choices < <("${before[@]}" 2> /dev/null)
            choices=("${choices[@]%%$'\t'*}")
            ;;
    esac
    # What is before the last sign that parts words is not replaced; "@" itself is.
    local sign part kept=
    for sign in : = @; do
        if [[ $COMP_WORDBREAKS == *$sign* && $word == *$sign* ]]; then
            part=${word%"${word##*"$sign"}"}
            ((${#part} > ${#kept})) && kept=$part
        fi
    done
    kept=${kept%@}
    for i in "${!choices[@]}"; do
        [[ $prefix${choices[i]} == "$word"* ]] && COMPREPLY+=("${prefix}${choices[i]}")
    done
    COMPREPLY=("${COMPREPLY[@]#"$kept"}")
}

complete -F _@PROGRAM@ @PROGRAM@
"""
