//! Completions, as a user of each shell sees them: typed on a terminal.
#![cfg(all(target_os = "linux", in_repository))]

mod scratch;
mod signals;
mod terminal;

use std::fs;
use std::path::Path;
use std::process::Command;

use scratch::Events;
use terminal::Terminal;

const PROMPT: &str = "ready> ";
/// Where Debian's package has the completions of other commands, and how they complete a command after another one.
const OF_OTHERS: &str = "/usr/share/bash-completion/bash_completion";

/// A shell with the completions of the command, on a terminal. `None` if it is not installed.
struct Shell {
    name: &'static str,
    terminal: Terminal,
    /// How many lines were entered.
    entered: usize,
}

impl Shell {
    fn start(events: &Events, name: &'static str, before: &str) -> Option<Shell> {
        if !Command::new("sh").args(["-c", "command -v \"$0\" > /dev/null", name]).status().unwrap().success() {
            println!("completions in {name} are left out: {name} is not installed");
            return None;
        }
        let home = events.home().join(format!("home-of-{name}"));
        let write = |file: &str, text: String| {
            let path = home.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let mut command = events.program(name, &[]);
        command.env("HOME", &home).env("TERM", "xterm").env("LC_ALL", "C.UTF-8");
        // As the help texts say it.
        match name {
            "bash" => {
                write("rc", format!("PS1='{PROMPT}'\n{before}\nsource <(tantara completions bash)\n"));
                command.arg("--rcfile").arg(home.join("rc")).args(["--noprofile", "-i"]);
            }
            "zsh" => {
                let setup = "autoload -U compinit; compinit -u -D";
                write(".zshrc", format!("PS1='{PROMPT}'\n{setup}\n{before}\nsource <(tantara completions zsh)\n"));
                command.env("ZDOTDIR", &home).args(["-d", "-i"]);
            }
            _ => {
                write("fish/completions/tantara.fish", events.done(&["completions", "fish"]));
                let prompt = format!("function fish_prompt; echo -n '{PROMPT}'; end; set -g fish_greeting");
                write("fish/config.fish", format!("{prompt}\nset -g fish_autosuggestion_enabled 0\n{before}\n"));
                command.env("XDG_CONFIG_HOME", &home).env("XDG_DATA_HOME", &home).arg("-i");
            }
        }
        let shell = Shell { name, terminal: Terminal::start(200, &command), entered: 0 };
        shell.terminal.until_shown(PROMPT);
        Some(shell)
    }

    /// Types a line with tabs in it, and returns the words that it then consists of, without slashes at their ends.
    /// Nothing runs the line: it becomes arguments of `printf`.
    fn words_of(&mut self, keys: &str) -> Vec<String> {
        self.entered += 1;
        self.terminal.type_keys(keys);
        // To the begin of the line.
        self.terminal.type_keys(&format!("\u{1}printf '<%s>' end{} \u{5} :end\r", self.entered));
        let begin = format!("<end{}>", self.entered);
        let words = self.terminal.until(|shown| {
            let printed = &shown[shown.find(&begin)? + begin.len()..];
            printed.split_once("<:end>").map(|(words, _)| words.to_owned())
        });
        // zsh removes the slash behind a directory if another word follows.
        words.trim_matches(['<', '>']).split("><").map(|word| word.trim_end_matches('/').to_owned()).collect()
    }

    /// Types the begin of a line, and returns once these words are shown after it.
    fn offers(mut self, begin: &str, words: &[&str]) {
        let before = self.terminal.shown().len();
        self.terminal.type_keys(begin);
        // The second one makes bash list them.
        self.terminal.type_keys(if self.name == "bash" { "\t\t" } else { "\t" });
        self.terminal.until(|shown| words.iter().all(|word| shown[before..].contains(word)).then_some(()));
    }
}

/// Names of every form, options, their values, files, and commands with their files.
fn everything_completes(events: &Events, shell: &mut Shell) {
    let home = events.home();
    fs::create_dir_all(home.join("some folder")).unwrap();
    fs::create_dir_all(home.join("data.d/below")).unwrap();
    fs::write(home.join("data.csv"), "").unwrap();
    fs::write(home.join("list-of-customers.csv"), "name,type\n").unwrap();
    events.done(&[
        "set",
        "db-ready",
        "db:5432:up",
        "job=7",
        "job=8",
        "mail@host,a+b%c",
        "ausgeführt",
        "one-of-two",
        "one-or-two",
    ]);
    for (typed, expected) in [
        ("tantara wai\tdb-\t", &["tantara", "wait", "db-ready"][..]),
        ("tantara wait db:\t", &["tantara", "wait", "db:5432:up"]),
        ("tantara wait db:5432:u\t", &["tantara", "wait", "db:5432:up"]),
        ("tantara wait x job=7\tdb:5\t", &["tantara", "wait", "x", "job=7", "db:5432:up"]),
        ("tantara wait jo\t8", &["tantara", "wait", "job=8"]),
        ("tantara set mail@\t", &["tantara", "set", "mail@host,a+b%c"]),
        ("tantara wait \"db:5\t", &["tantara", "wait", "db:5432:up"]),
        ("tantara clear ausg\t", &["tantara", "clear", "ausgeführt"]),
        ("tantara set x --else db-\t", &["tantara", "set", "x", "--else", "db-ready"]),
        ("tantara bank --rea\ttas\t", &["tantara", "bank", "--reach", "tasks"]),
        ("tantara bank --reach=tas\t", &["tantara", "bank", "--reach=tasks"]),
        ("tantara wait --uns\t", &["tantara", "wait", "--unset"]),
        // Files, and directories alone.
        ("tantara wait --file list\t", &["tantara", "wait", "--file", "list-of-customers.csv"]),
        ("tantara wait --file=list\t", &["tantara", "wait", "--file=list-of-customers.csv"]),
        ("tantara bank --customers list\t", &["tantara", "bank", "--customers", "list-of-customers.csv"]),
        ("tantara --dir some\t", &["tantara", "--dir", "some folder"]),
        ("tantara --dir dat\t", &["tantara", "--dir", "data.d"]),
        ("tantara --dir=data\tbel\t", &["tantara", "--dir=data.d/below"]),
        // The command after `--`, and its files.
        ("tantara wait db-ready -- sets\t--fork", &["tantara", "wait", "db-ready", "--", "setsid", "--fork"]),
        (
            "tantara hold x --timeout=3 -- cat list\t",
            &["tantara", "hold", "x", "--timeout=3", "--", "cat", "list-of-customers.csv"],
        ),
        ("tantara set a:b -- cat x list\t", &["tantara", "set", "a:b", "--", "cat", "x", "list-of-customers.csv"]),
    ] {
        assert_eq!(shell.words_of(typed), expected, "{typed:?}");
    }
    // A directory on the line, also below the home directory.
    let other = Path::new("elsewhere");
    events.done(&["--dir", "elsewhere", "set", "other:one"]);
    let of_home = shell.words_of("~");
    fs::create_dir_all(&of_home[0]).unwrap();
    fs::rename(home.join(other), Path::new(&of_home[0]).join("else where")).unwrap();
    assert_eq!(
        shell.words_of("tantara --dir=/nowhere --dir ~/'else where' wait other:\t").last().unwrap(),
        "other:one"
    );
    // Options would hide the names, so they are offered only if one is begun.
    assert_eq!(shell.words_of("tantara --dir ~/'else where' wait \t").last().unwrap(), "other:one");
}

fn everything_completes_in(name: &'static str, before: &str) {
    let events = Events::new();
    let start = || Shell::start(&events, name, before);
    let Some(mut shell) = start() else { return };
    everything_completes(&events, &mut shell);
    let options = ["--any", "--unset", "--pid", "--tcp", "--timeout", "--etcd", "--cacert"];
    for (begin, words) in [("tantara wait one-o", &["one-of-two", "one-or-two"][..]), ("tantara wait --", &options)] {
        start().unwrap().offers(begin, words);
    }
}

#[test]
fn events_of_a_cluster_complete_where_it_can_be_reached() {
    let (events, here) = (Events::in_a_cluster(), Events::new());
    events.done(&["set", "job:7"]);
    for name in ["bash", "zsh", "fish"] {
        let Some(mut shell) = Shell::start(&here, name, "") else { continue };
        let line = format!("tantara --etcd {} --namespace=tantara wait jo\t", events.endpoints());
        assert_eq!(shell.words_of(&line).last().unwrap(), "job:7");
        // A cluster that is not there is given up after a moment.
        assert_eq!(shell.words_of("tantara wait --etcd=127.0.0.1:1 jo\t").last().unwrap(), "jo");
    }
}

#[test]
fn everything_completes_in_bash() {
    everything_completes_in("bash", "");
}

#[test]
fn everything_completes_in_bash_with_the_completions_of_others() {
    if Path::new(OF_OTHERS).exists() {
        everything_completes_in("bash", &format!("source {OF_OTHERS}"));
    } else {
        println!("left out: bash-completion is not installed");
    }
}

#[test]
fn everything_completes_in_zsh() {
    everything_completes_in("zsh", "");
}

#[test]
fn everything_completes_in_fish() {
    everything_completes_in("fish", "");
}
