//! Who holds an event: each holder has a write lock on a byte of the event's file, which the kernel
//! removes when the holder dies. The state word says whether it is worth looking for one: see
//! [`word`](crate::protocol::word).

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::protocol::layout::{ENDING, HOLDS, Page};
use crate::protocol::signal;
use crate::protocol::word::Word;
use crate::shared::file::EventFile;
use crate::sync::sleep;
use crate::sys::files::{self, Range};
use crate::sys::process;
use crate::sys::unforked::Unforked;

/// How many holds one process can have on an event.
const PLACES: u32 = 1 << 10;
const NAMESPACE_AT: u32 = 10;
const PROCESS_AT: u32 = 19;

/// How often to try to end a hold while another process ends one, and for how long to pause in
/// between.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_micros(200);

/// Whether a process holds the event, by the locks that other descriptions than `file` have. Also
/// `true` if the system does not tell.
pub(crate) fn is_held(file: &File) -> bool {
    files::is_write_locked(file, HOLDS).unwrap_or(true)
}

/// The word as it counts: a hold whose holder was killed has ended. `file` is as for [`is_held`].
pub(crate) fn seen(file: &File, word: Word) -> Word {
    if word.depends_on_a_holder() && !is_held(file) { word.released_by_holder() } else { word }
}

/// Ends the hold that a killed process has left, unless another process is about to. Nothing
/// happens if a process holds the event. May be called in a signal handler, as `is_set` may.
pub(crate) fn clean_up(file: &File, page: &Page) {
    // A description of its own, because locks of the same one do not exclude each other.
    if let Ok(file) = files::reopen_in_handler(file) {
        end(&file, page);
    }
}

/// Ends the hold, if no other description than this one has the lock of a holder. `false` if
/// another process does so at this moment.
fn end(file: &File, page: &Page) -> bool {
    let ending = Range { start: ENDING, length: 1 };
    if !files::try_write_lock(file, ending).unwrap_or(false) {
        return false;
    }
    signal::end_hold(&page.word, || is_held(file));
    files::unmark(file, ending);
    true
}

/// The lock of a holder.
#[derive(Debug)]
pub(crate) struct Holder {
    file: Unforked,
    range: Range,
}

impl Holder {
    /// Gets the lock of a holder, through a new description of the event's file, by a process of
    /// the PID namespace with that index.
    pub(crate) fn new(file: &EventFile, namespace: u32) -> io::Result<Holder> {
        /// Where to begin the search for a free place.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let file = Unforked::open(|| file.again(true))?;
        // Processes whose namespace has no index may have the same number, and then share the
        // places.
        let home = u64::from(process::process()) << PROCESS_AT | u64::from(namespace) << NAMESPACE_AT;
        for _ in 0..PLACES {
            let start = (home + u64::from(NEXT.fetch_add(1, Relaxed) % PLACES)) % HOLDS.end;
            let range = Range { start, length: 1 };
            let Some(own) = file.file() else { break };
            if files::try_write_lock(own, range)? {
                return Ok(Holder { file, range });
            }
        }
        // Every process that may read the file can lock it for reading, and so keep others from
        // holding it. It cannot make the event count as held.
        let why = format!(
            "each of this process's {PLACES} places is locked: it holds the event that often, or another process that \
             may read the file has locked it (see lslocks)"
        );
        Err(io::Error::new(ErrorKind::ResourceBusy, why))
    }

    /// Whether others hold the event too.
    pub(crate) fn is_one_of_several(&self) -> bool {
        self.file.file().is_none_or(is_held)
    }

    /// Ends the hold, if no other process holds the event. Nothing happens in a child of the
    /// process that began it.
    pub(crate) fn release(&self, page: &Page) {
        let Some(file) = self.file.file() else { return };
        files::unmark(file, self.range);
        for _ in 0..TRIES {
            // The last of the holders ends the hold.
            if !page.word().is_held() || is_held(file) || end(file, page) {
                return;
            }
            // Another process may have found this lock, or is stopped. Whoever asks from now on
            // finds no lock.
            sleep(PAUSE);
        }
    }
}
