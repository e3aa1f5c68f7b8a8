#compdef tantara
# Completions of tantara for zsh: source <(tantara completions zsh)
_tantara() {
    local -a answer items
    local line help
    answer=("${(@f)$(TANTARA_COMPLETE=zsh command tantara -- "${(@Q)words[1,CURRENT-1]}" "${(Q)PREFIX}" 2> /dev/null)}")
    case $answer[1] in
        words)
            for line in "${(@)answer[2,-1]}"; do
                help=${line#*$'\t'}
                line=${line%%$'\t'*}
                items+=("${${line//\\/\\\\}//:/\\:}${help:+:$help}")
            done
            _describe -V tantara items
            ;;
        files) compset -P '--[^=]#='; _files ;;
        directories) compset -P '--[^=]#='; _files -/ ;;
        command\ *)
            line=${answer[1]#command }
            shift $line words
            ((CURRENT -= line))
            _normal
            ;;
    esac
}
if [[ $funcstack[1] == _tantara ]]; then _tantara "$@"; else compdef _tantara tantara; fi
