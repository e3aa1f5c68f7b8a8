# Completions of tantara for bash: source <(tantara completions bash)
_tantara() {
    local rest=${COMP_LINE:0:COMP_POINT} quotes="[\"'\\\\]" kind= words=() starts=() index word line
    # Bash splits words at the characters of COMP_WORDBREAKS, such as : and =. Join what no space separates.
    for ((index = 0; index <= COMP_CWORD; index++)); do
        line=${rest#"${rest%%[![:space:]]*}"}
        word=${COMP_WORDS[index]}
        # Up to the cursor.
        ((${#word} > ${#line})) && word=$line
        if ((index > 0)) && [[ $line == "$rest" ]]; then
            words[${#words[@]} - 1]+=$word
        else
            words+=("$word")
            starts+=("$index")
        fi
        rest=${line#"$word"}
    done
    # Bash replaces only what follows the last of these characters.
    local current=${words[${#words[@]} - 1]//$quotes/}
    local kept=${current%"${2//$quotes/}"}
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ -z $kind ]]; then kind=$line; else COMPREPLY+=("${line#"$kept"}"); fi
    done < <(TANTARA_COMPLETE=bash command tantara -- "${words[@]//$quotes/}" 2> /dev/null)
    case $kind in
        files) compopt -o default 2> /dev/null ;;
        directories) compopt -o dirnames 2> /dev/null ;;
        command\ *)
            word=${kind#command }
            index=${starts[word]}
            if declare -F _comp_command_offset > /dev/null; then
                _comp_command_offset "$index"
            elif declare -F _command_offset > /dev/null; then
                _command_offset "$index"
            elif ((word == ${#words[@]} - 1)); then
                while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -c -- "$2")
            else
                compopt -o default 2> /dev/null
            fi
            ;;
    esac
}
complete -F _tantara tantara
