"""Completion for zsh."""

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
