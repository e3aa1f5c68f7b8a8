# Completions of tantara for fish: tantara completions fish > ~/.config/fish/completions/tantara.fish
function __tantara_complete
    set -l words (commandline --current-process --tokenize --cut-at-cursor)
    set -l current (commandline --current-token --cut-at-cursor)
    set -l answer (TANTARA_COMPLETE=fish command tantara -- $words (string trim --left --chars '"\'' -- "$current") 2>/dev/null)
    switch "$answer[1]"
        case words
            printf '%s\n' $answer[2..]
        case files
            # Of --file=PATH, the path.
            set -l option (string match --regex -- '^--[^=]*=' "$current")
            for path in (__fish_complete_path (string replace -- "$option" '' "$current"))
                echo "$option$path"
            end
        case directories
            set -l option (string match --regex -- '^--[^=]*=' "$current")
            for path in (__fish_complete_directories (string replace -- "$option" '' "$current"))
                echo "$option$path"
            end
        case 'command *'
            set -l first (math (string replace 'command ' '' $answer[1]) + 1)
            set -l line
            test (count $words) -ge $first; and set line (string escape -- $words[$first..])
            complete --do-complete (string join ' ' -- $line "$current")
    end
end
complete --command tantara --no-files --keep-order --arguments '(__tantara_complete)'
