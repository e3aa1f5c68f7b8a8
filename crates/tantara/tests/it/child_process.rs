//! Child processes: this program again, started to do one task with events and to exit with the outcome.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tantara::{SharedEvent, all, any};

/// The task of a child process, in the environment: its name and its arguments, one per line.
const TASK: &str = "TANTARA_TEST_TASK";

/// A child process with one task. It is killed if it is dropped before it has ended.
#[derive(Debug)]
pub(crate) struct ChildProcess(pub(crate) Child);

impl ChildProcess {
    pub(crate) fn command<S: AsRef<OsStr>>(task: impl IntoIterator<Item = S>) -> Command {
        let words: Vec<_> = task.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["child_process::child_process", "--exact", "--nocapture", "--test-threads", "1"]);
        command.env(TASK, words.join(OsStr::new("\n"))).stdout(Stdio::null());
        command
    }

    pub(crate) fn start<S: AsRef<OsStr>>(task: impl IntoIterator<Item = S>) -> ChildProcess {
        ChildProcess(ChildProcess::command(task).spawn().unwrap())
    }

    pub(crate) fn end(&mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }

    /// Whether it has answered YES, and not NO. Anything else is a failure.
    pub(crate) fn says_yes(&mut self) -> bool {
        match self.answer() {
            YES => true,
            NO => false,
            other => panic!("the participant failed: {other}"),
        }
    }

    pub(crate) fn answer(&mut self) -> i32 {
        let status = self.end();
        status.code().unwrap_or_else(|| panic!("the participant ended with {status}"))
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) const YES: i32 = 10;
pub(crate) const NO: i32 = 11;
/// The answer for index 0.
pub(crate) const INDEX: i32 = 100;
/// The event was removed.
pub(crate) const REMOVED: i32 = 12;

/// Not a test, but the entry point of child processes.
#[test]
fn child_process() {
    let Ok(task) = env::var(TASK) else { return };
    let mut words = task.split('\n');
    let (action, directory) = (words.next().unwrap(), PathBuf::from(words.next().unwrap()));
    let answer = run(action, &directory, &words.collect::<Vec<_>>());
    std::process::exit(answer);
}

fn run(action: &str, directory: &Path, words: &[&str]) -> i32 {
    let open = |name: &&str| SharedEvent::open_in(directory, name).unwrap();
    let yes_or_no = |yes| if yes { YES } else { NO };
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    match (action, words) {
        ("set", [name]) => open(name).set().unwrap(),
        ("clear", [name]) => open(name).clear().unwrap(),
        ("wait", [name]) => match open(name).wait() {
            Ok(()) => return YES,
            Err(error) if error.is_removed() => return REMOVED,
            Err(error) => panic!("{error}"),
        },
        ("wait_timeout", [timeout, name]) => return yes_or_no(open(name).wait_timeout(duration(timeout)).unwrap()),
        ("wait_async", [timeout, name]) => {
            let event = open(name);
            let wait =
                async { tokio::time::timeout(duration(timeout), event.wait_async()).await.map(Result::unwrap).is_ok() };
            return yes_or_no(runtime().block_on(wait));
        }
        ("any", [timeout, names @ ..]) => {
            let events: Vec<_> = names.iter().map(open).collect();
            return any(&events).wait_timeout(duration(timeout)).map_or(NO, |index| INDEX + index as i32);
        }
        ("any_async", [timeout, names @ ..]) => {
            let events: Vec<_> = names.iter().map(open).collect();
            let wait = async { tokio::time::timeout(duration(timeout), any(&events)).await.ok() };
            return runtime().block_on(wait).map_or(NO, |index| INDEX + index as i32);
        }
        ("all", [timeout, names @ ..]) => {
            let events: Vec<_> = names.iter().map(open).collect();
            return yes_or_no(all(&events).wait_timeout(duration(timeout)));
        }
        ("all_async", [timeout, names @ ..]) => {
            let events: Vec<_> = names.iter().map(open).collect();
            let wait = async { tokio::time::timeout(duration(timeout), all(&events)).await.is_ok() };
            return yes_or_no(runtime().block_on(wait));
        }
        ("storm", words) => crate::storm::participant(directory, words),
        #[cfg(target_arch = "x86_64")]
        ("step", words) => crate::stepper::step(directory, words),
        #[cfg(target_arch = "x86_64")]
        ("stop", words) => crate::naming::stop(directory, words),
        _ => {
            let answer = crate::refused::run(action, directory, words)
                .or_else(|| crate::shared::run(action, directory, words))
                .or_else(|| crate::users::run(action, directory, words))
                .or_else(|| crate::hold::run(action, directory, words))
                .or_else(|| crate::names::run(action, directory, words))
                .or_else(|| crate::notes::run(action, directory, words))
                .or_else(|| crate::shared_many::run(action, directory, words))
                .or_else(|| crate::waiting::run(action, directory, words));
            return answer.unwrap_or_else(|| panic!("unknown task {action:?} with {words:?}"));
        }
    }
    YES
}

fn duration(nanoseconds: &str) -> Duration {
    let nanoseconds: u128 = nanoseconds.parse().unwrap();
    Duration::new((nanoseconds / 1_000_000_000) as u64, (nanoseconds % 1_000_000_000) as u32)
}
