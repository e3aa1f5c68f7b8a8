//! How other threads wake a loop: by a pipe, which the loop watches. On every Unix.

use std::io::{self, PipeReader, PipeWriter, pipe};
use std::os::fd::AsRawFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{ioctl_fionbio, read, write};

pub(crate) struct Wakeup {
    reader: PipeReader,
    writer: PipeWriter,
}

impl Wakeup {
    pub(crate) fn new() -> io::Result<Wakeup> {
        let (reader, writer) = pipe()?;
        ioctl_fionbio(&reader, true)?;
        ioctl_fionbio(&writer, true)?;
        Ok(Wakeup { reader, writer })
    }

    /// The descriptor that is readable once [`notify`](Wakeup::notify) was called.
    pub(crate) fn descriptor(&self) -> Option<i32> {
        Some(self.reader.as_raw_fd())
    }

    pub(crate) fn notify(&self) {
        // Fails harmlessly if the pipe is full: then it is readable.
        let _ = write(&self.writer, &[0]);
    }

    /// Forgets all notifications.
    pub(crate) fn reset(&self) {
        // Fails harmlessly if there was none. More than these bytes are read by the next call.
        let _ = read(&self.reader, &mut [0_u8; 64]);
    }

    /// Blocks until there is a notification, and takes it.
    pub(crate) fn wait(&self) {
        // Interrupted or not, the caller looks at what there is.
        let _ = poll(&mut [PollFd::new(&self.reader, PollFlags::IN)], None);
        self.reset();
    }
}
