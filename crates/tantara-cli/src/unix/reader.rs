//! The reader of standard output: its end is noticed without a write.

use std::io::stdout;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;

use crate::output;

/// From now on, this process ends as by a write once nobody reads standard output any more. Without that, a process
/// that seldom writes would outlive the rest of a pipeline.
pub(crate) fn end_with_reader() {
    // A file or a terminal has no reader that could end.
    let kind = fstat(stdout()).map(|file| FileType::from_raw_mode(file.st_mode));
    if matches!(kind, Ok(FileType::Fifo | FileType::Socket)) {
        // Without the thread, the next write tells.
        let _ = thread::Builder::new().name("reader".into()).spawn(sleep_until_unread);
    }
}

fn sleep_until_unread() {
    let stdout = stdout();
    loop {
        // Its errors and its end are reported in any case.
        let mut sources = [PollFd::new(&stdout, PollFlags::empty())];
        match poll(&mut sources, None) {
            Ok(_) if sources[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => output::end_without_reader(),
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}
