"""Completion for zsh."""

ZSH = r"""#compdef @PROGRAM@
# Completion of @PROGRAM@ in zsh, made by `@PROGRAM@ completion zsh`.

@TABLES@

_@PROGRAM@() {
    local word kind=none command= option= place=0 i
    local -a typed=("${words[@]}") before=() found=() shown=()
    local -a choices=()
    for ((i = 2; i < CURRENT; i++)); do
        word=${typed[i]}
        if [[ -n $option ]]; then
            [[ $option == --socket ]] && before=(--socket "$word")
            option=
        elif [[ $word == -* ]]; then
            _@PROGRAM@_option "$command" "$word" && option=$word
            [[ $word == --socket'='* ]] && before=("$word")
        elif [[ -z $command ]]; then
            command=$word
        else
            ((place += 1))
        fi
    done
    if [[ -n $option ]]; then
        _@PROGRAM@_option "$command" "$option"
    elif [[ $PREFIX == --*'='* ]]; then
        _@PROGRAM@_option "$command" "${PREFIX%%=*}"
        compset -P 1 '*='
    elif [[ $PREFIX == -* ]]; then
        _@PROGRAM@_flags "$command"
    elif [[ -z $command ]]; then
        kind=commands
    else
        _@PROGRAM@_argument "$command" "$place"
    fi
    case $kind in
        files) _files ;;
        commands)
            _@PROGRAM@_commands
            _describe -t commands command choices
            ;;
        '='*) compadd -- ${=kind#=} ;;
        fields)
            compset -P '*,'
            _@PROGRAM@_fields
            compadd -S '' -a choices
            ;;
        filters)
            _@PROGRAM@_fields
            compadd -S '=' -a choices
            ;;
        installed|available|jobs|history|pools|sources)
            choices=("${(@f)$("${typed[1]}" "${before[@]}" __complete "$kind" "$PREFIX" 2> /dev/null)}")
            for word in "${choices[@]}"; do
                [[ -n $word ]] || continue
                found+=("${word%%$'\t'*}")
                shown+=("${word/$'\t'/  -- }")
            done
            compadd -l -d shown -a found
            ;;
    esac
}

# As a file in $fpath it is run to complete; read by `source`, it registers itself.
if [[ $funcstack[1] == _@PROGRAM@ ]]; then
    _@PROGRAM@ "$@"
else
    compdef _@PROGRAM@ @PROGRAM@
fi
"""
