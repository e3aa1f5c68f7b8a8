//! The observer of processes that end and of files that appear: conditions of a wait beside events. One thread sleeps
//! for all of them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::files::{Files, NAP};
use crate::failure::Failure;

/// A descriptor of the process. `None` if there is no such process.
fn open(number: u32) -> Result<Option<OwnedFd>, Failure> {
    // An invalid ID belongs to no process.
    let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => Ok(Some(process)),
        Err(Errno::SRCH) => Ok(None),
        Err(Errno::INVAL | Errno::NOENT) => {
            Err(Failure::usage(format!("--pid {number}: this is a thread; give the ID of its process")))
        }
        Err(Errno::NOSYS) => Err(Failure::internal("--pid needs Linux 5.3 or later")),
        Err(error) => Err(Failure::internal(format!("cannot wait for process {number}: {error}"))),
    }
}

/// Sleeps until processes end and files appear.
pub(crate) struct Observer {
    /// The processes that have not ended. Each has the caller's index, as the files do.
    processes: Vec<(usize, OwnedFd)>,
    files: Option<Files>,
    /// Called with the index of what has happened.
    happened: Box<dyn Fn(usize) + Send>,
}

impl Observer {
    /// Begins to observe, and checks once.
    pub(crate) fn new(
        processes: Vec<(usize, u32)>,
        files: Vec<(usize, PathBuf)>,
        happened: impl Fn(usize) + Send + 'static,
    ) -> Result<Observer, Failure> {
        let mut running = Vec::new();
        for (index, pid) in processes {
            match open(pid)? {
                Some(process) => running.push((index, process)),
                None => happened(index),
            }
        }
        let files = if files.is_empty() { None } else { Some(Files::new(files.into_iter())?) };
        let mut observer = Observer { processes: running, files, happened: Box::new(happened) };
        observer.look_for_files()?;
        observer.sleep_for(Some(Duration::ZERO))?;
        Ok(observer)
    }

    /// Whether all processes have ended and all files exist.
    pub(crate) fn is_done(&self) -> bool {
        self.processes.is_empty() && self.files.is_none()
    }

    /// Sleeps until something may have happened, and reports what has.
    pub(crate) fn sleep(&mut self) -> Result<(), Failure> {
        self.sleep_for(self.files.as_ref().map(|_| NAP))
    }

    /// Sleeps until something has happened, or for as long as this; then it looks for files in any case.
    fn sleep_for(&mut self, longest: Option<Duration>) -> Result<(), Failure> {
        let longest = longest.and_then(|longest| Timespec::try_from(longest).ok());
        let mut sources: Vec<PollFd<'_>> =
            self.processes.iter().map(|(_, process)| PollFd::new(process, PollFlags::IN)).collect();
        if let Some(files) = &self.files {
            sources.push(PollFd::new(&files.notices, PollFlags::IN));
            sources
                .extend(files.mounts.as_ref().map(|mounts| PollFd::from_borrowed_fd(mounts.as_fd(), PollFlags::PRI)));
        }
        let is_timeout = match poll(&mut sources, longest.as_ref()) {
            Ok(count) => count == 0,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(Failure::internal(format!("cannot wait for conditions: {error}"))),
        };
        let has_happened: Vec<bool> = sources.iter().map(|source| !source.revents().is_empty()).collect();
        let of_files = &has_happened[self.processes.len()..];
        // The second one is that of the mounts.
        let is_look_due = self.files.as_ref().is_some_and(|files| {
            let has_changed = of_files.first() == Some(&true) && files.has_changed();
            is_timeout || has_changed || of_files.get(1) == Some(&true)
        });
        let mut ended = has_happened.iter();
        let Observer { processes, happened, .. } = self;
        processes.retain(|(index, _)| {
            let has_ended = ended.next() == Some(&true);
            if has_ended {
                happened(*index);
            }
            !has_ended
        });
        if is_look_due { self.look_for_files() } else { Ok(()) }
    }

    fn look_for_files(&mut self) -> Result<(), Failure> {
        let Some(files) = &mut self.files else { return Ok(()) };
        for index in files.look()? {
            (self.happened)(index);
        }
        if files.is_empty() {
            self.files = None;
        }
        Ok(())
    }
}
