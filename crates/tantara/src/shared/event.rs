//! [`SharedEvent`]: the methods, as users see them. What they do is in [`handle`](crate::shared::handle).

#![forbid(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::directory;
use crate::error::{Error, Kind};
use crate::protocol::target::Aim;
use crate::shared::file::{self, EventFile, Opened};
use crate::shared::handle::Handle;
use crate::shared::list::{self, Entry};
use crate::shared::mapping;
use crate::shared::name::{self, Place};
use crate::shared::naming;
use crate::shared::registry::{self, Waiter};
use crate::shared::wait::{Changed, OwnedSharedWait, SharedWait, State};
use crate::sys::files;

/// A flag that processes wait for, with the methods of [`Event`](crate::Event). Processes open it
/// by name, or are given its descriptor.
///
/// The event is a file of one page. There is no daemon. A process may be killed at any instruction
/// without affecting others: there is no lock that could stay locked, a `set` happens completely or
/// not at all, and a killed waiter leaves nothing behind. The contract is that of `Event`: level
/// and pulse, timeouts, publication, cancel safety, no effect on new waits. [`any`](crate::any) and
/// [`all`](crate::all) can mix the two kinds.
///
/// A clone is the same event through the same descriptor. Two openings of the same name are the
/// same event.
///
/// # Permissions
///
/// The directory is the policy. Users who may create files in a directory may create, set and clear
/// its events, and remove them, unless the directory is sticky: then the owner of the event or of
/// the directory, and root, may. Users who may only read the directory may wait. So a group's
/// directory (mode 2775), a container's volume (1777) and a private directory (0700) behave as
/// their permissions say.
///
/// A new event's file gets the directory's read and write permissions, whatever the umask; its
/// group; and its access control list, if it has one. A process that may change owners also gives
/// it the directory's owner. If the process may not set the directory's group, the file's group
/// gets the permissions of all others. A file that grants less than its directory is an error that
/// names the file's owner. (A user who may only read the file can delay the releases of others by a
/// second or two, by misusing futex operations on the word.)
///
/// # Errors
///
/// The event may be read-only for this process, and another process may remove it. So every method
/// returns a `Result`, as those of `tantara_etcd::ClusterEvent` do. No action of another process
/// makes a method panic. A wait that was released before the event was removed is released.
///
/// If the file is removed or truncated by other means, sleeping waiters get an error within some
/// seconds. If it is renamed, or loses one of several names, waits that opened it by that name get
/// the error that it was removed; waits that opened it by another name go on. (Renaming or
/// unmounting the directory, or changing the current directory, removes nothing.) Access to a
/// truncated file that is mapped raises SIGBUS. A handler, installed with the first event that has
/// a file, turns that into an error, and passes every other fault to the handler that was installed
/// before. (It does not run on a thread that blocks the signal. A program that wants no handler
/// calls [`disable_sigbus_handler`](SharedEvent::disable_sigbus_handler) first.)
///
/// # Signal handlers
///
/// [`set`](SharedEvent::set), [`clear`](SharedEvent::clear), [`pulse`](SharedEvent::pulse) and
/// [`is_set`](SharedEvent::is_set) may be called in a signal handler, on a handle that was opened
/// before, whatever the interrupted thread is doing. When they succeed, they neither lock nor
/// allocate, and do not change `errno`. (An error allocates memory, so make sure that the event is
/// writable and is not removed.) Tasks are woken by a reactor thread. No other method may be called
/// there.
///
/// # Memory ordering
///
/// Everything that a process did before `set`, in shared memory or in files, is visible to every
/// thread and task that is released by it, or observes the event set. The same holds for a `clear`
/// of a set event, if they observe the event unset or are released by
/// [`wait_unset`](SharedEvent::wait_unset).
///
/// # Fairness
///
/// None among processes: all sleepers are woken by one system call. The tasks of a process are
/// woken in the order in which they were first polled.
///
/// # Complexity
///
/// `is_set`, `clear`, and a `set` without sleepers make no system call. With sleepers, `set` makes
/// one. An event takes one page of memory, and two file descriptors if it has a name, else one. A
/// waiter takes none.
///
/// # Platforms
///
/// Linux. Processes must run on the same kernel, so containers that share the directory share its
/// events. Processes of other PID namespaces are shown without their numbers. Overlay file systems
/// are not supported, because readers and writers may have different files there. The child of a
/// fork of a process with threads should open its events anew, as with everything that has locks.
///
/// # Examples
///
/// ```
/// use tantara::SharedEvent;
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
///
/// let ready = SharedEvent::open_in(dir, "db-ready")?;
/// // In another process, at any time:
/// let same = SharedEvent::open_in(dir, "db-ready")?;
/// same.set()?;
/// // Here:
/// ready.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct SharedEvent {
    pub(crate) handle: Arc<Handle>,
}

impl SharedEvent {
    /// Opens the event of that name in this user's
    /// [`default_directory`](SharedEvent::default_directory). It is made, unset, if it does not
    /// exist.
    ///
    /// A name consists of letters and digits of any script, and of `. _ - + : @ = , % ~`. It must
    /// not begin with `.`, `-` or `~`, and has at most 200 bytes.
    ///
    /// # Errors
    ///
    /// If the name is not valid, if another kind of file has it, or if the system refuses.
    pub fn open(name: &str) -> Result<SharedEvent, Error> {
        SharedEvent::open_at(&Place::of_user(name)?)
    }

    /// Opens the event of that name in a directory. Both are made if they do not exist, the
    /// directory only if its parent exists.
    ///
    /// # Errors
    ///
    /// As with [`open`](SharedEvent::open).
    pub fn open_in(directory: impl AsRef<Path>, name: &str) -> Result<SharedEvent, Error> {
        SharedEvent::open_at(&Place::in_directory(directory.as_ref(), name)?)
    }

    fn open_at(place: &Place) -> Result<SharedEvent, Error> {
        naming::open(place).map(|file| SharedEvent::new(file, Some(place.path.clone())))
    }

    /// Opens the event of that name in a directory, if it exists.
    ///
    /// # Errors
    ///
    /// As with [`open`](SharedEvent::open).
    pub fn find_in(directory: impl AsRef<Path>, name: &str) -> Result<Option<SharedEvent>, Error> {
        name::check(name)?;
        let path = directory.as_ref();
        let Some(directory) = directory::open_directory(path)? else { return Ok(None) };
        let place = Place::at(&Arc::new(directory), path, name)?;
        Ok(naming::find(&place)?.map(|file| SharedEvent::new(file, Some(place.path))))
    }

    /// Reads every event of a directory, in the order of their names. A directory that does not
    /// exist has none.
    ///
    /// A file that is no event is reported with an error. Files whose names begin with a dot are
    /// passed over, but an event whose maker or remover was killed half-way is listed under its own
    /// name. Nothing is made, changed, or waited for.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read.
    ///
    /// # Complexity
    ///
    /// Linear in the number of events, with some system calls each; for events with waiters see
    /// [`waiters`](SharedEvent::waiters).
    ///
    /// # Examples
    ///
    /// ```
    /// use tantara::SharedEvent;
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    ///
    /// SharedEvent::open_in(dir, "db-ready")?.set()?;
    /// for event in SharedEvent::list_in(dir)? {
    ///     let event = event?;
    ///     println!("{} is {}", event.name, if event.is_set { "set" } else { "unset" });
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn list_in(directory: impl AsRef<Path>) -> Result<Vec<Result<Entry, Error>>, Error> {
        list::list(directory.as_ref())
    }

    /// Checks a name; see [`open`](SharedEvent::open).
    ///
    /// # Errors
    ///
    /// If the name is not valid. The error says why.
    pub fn check_name(name: &str) -> Result<(), Error> {
        name::check(name)
    }

    /// The directory of this user's events: `$XDG_RUNTIME_DIR/tantara`; without that variable
    /// `/run/user/UID/tantara`; if `/run/user/UID` does not exist, `/dev/shm/tantara-UID`.
    ///
    /// [`open`](SharedEvent::open) fails if it does not belong to this user alone.
    /// [`find_in`](SharedEvent::find_in) and [`list_in`](SharedEvent::list_in) take any directory as
    /// its permissions say, this one too.
    #[must_use]
    pub fn default_directory() -> PathBuf {
        directory::default_directory()
    }

    /// Prevents the library from installing a handler of SIGBUS. `false`, without an effect, if one
    /// was installed already: call it before the first event is opened.
    ///
    /// Without the handler, truncating the file of an event in use ends the process, as with every
    /// mapped file. Events without a name cannot be truncated.
    pub fn disable_sigbus_handler() -> bool {
        mapping::disable_handler()
    }

    /// Makes an event without a name, for processes that are given its descriptor: by
    /// [`inherit`](SharedEvent::inherit), by a socket, or by a fork. It exists as long as a process
    /// has it open.
    ///
    /// # Errors
    ///
    /// If there are too many open files, or too little memory.
    pub fn anonymous() -> Result<SharedEvent, Error> {
        EventFile::anonymous().map(|file| SharedEvent::new(file, None))
    }

    /// The event of a descriptor, with a name or without: the inverse of [`AsFd`]. If the descriptor is not
    /// open for reading and writing, the event may only be read.
    ///
    /// # Errors
    ///
    /// If it is not an event.
    pub fn from_fd(descriptor: OwnedFd) -> Result<SharedEvent, Error> {
        let nowhere = Path::new("descriptor");
        let given = File::from(descriptor);
        // Checked before it is reopened, because opening a pipe affects the process at its other
        // end.
        let metadata = file::check_file(&given, nowhere)?;
        let is_writable = files::is_writable(&given);
        // With a description of its own, the marks of this process end with it, and not with other
        // processes.
        let file = EventFile::reopen(&given, is_writable).unwrap_or(given);
        EventFile::check(Opened { file, is_writable, metadata }, nowhere, None).map(|file| SharedEvent::new(file, None))
    }

    /// Passes the event to the program that `command` will start. Returns the number with which
    /// that program opens it, by [`inherited`](SharedEvent::inherited). Pass the number too, for
    /// example as an argument.
    ///
    /// # Errors
    ///
    /// If there are too many open files.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::process::Command;
    /// use tantara::SharedEvent;
    ///
    /// let go = SharedEvent::anonymous()?;
    /// let mut worker = Command::new("worker");
    /// let number = go.inherit(&mut worker)?;
    /// worker.arg(number.to_string()).spawn()?;
    /// go.set()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn inherit(&self, command: &mut Command) -> Result<RawFd, Error> {
        use std::os::fd::AsRawFd;
        let copy = files::duplicate(self.handle.file.file.as_raw_fd());
        let copy = copy.map_err(|error| Error::system("handed down", Path::new(&self.name()), error))?;
        Ok(files::hand_down(command, copy))
    }

    /// The event that this process was given by [`inherit`](SharedEvent::inherit), under that
    /// number.
    ///
    /// # Errors
    ///
    /// If there is no event under that number.
    pub fn inherited(number: RawFd) -> Result<SharedEvent, Error> {
        let nowhere = format!("descriptor {number}");
        let file = files::duplicate(number).map_err(|error| Error::system("used", Path::new(&nowhere), error))?;
        SharedEvent::from_fd(file.into())
    }

    fn new(file: EventFile, path: Option<PathBuf>) -> SharedEvent {
        SharedEvent { handle: Arc::new(Handle::new(file, path)) }
    }

    /// The path of its file, if it was opened by name.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.handle.path.as_deref()
    }

    fn name(&self) -> String {
        self.handle.name()
    }

    /// Whether this process may set and clear it.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.handle.file.is_writable
    }

    /// Whether the event is set, at this moment.
    ///
    /// # Errors
    ///
    /// If the event was removed.
    #[inline]
    pub fn is_set(&self) -> Result<bool, Error> {
        self.handle.is_set()
    }

    /// Whether the event was removed, or its file destroyed, as far as is known. Such an event can
    /// no longer be set.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.handle.known_word().is_gone()
    }

    /// Raises the flag and releases all waiters, in all processes. Setting a set event changes
    /// nothing. To say why, use [`set_with_note`](SharedEvent::set_with_note).
    ///
    /// # Errors
    ///
    /// If the event may only be read, or was removed.
    #[inline]
    pub fn set(&self) -> Result<(), Error> {
        self.handle.set()
    }

    /// Lowers the flag. Clearing an unset event changes nothing. Waits that were released stay
    /// released.
    ///
    /// # Errors
    ///
    /// If the event may only be read, or was removed.
    #[inline]
    pub fn clear(&self) -> Result<(), Error> {
        self.handle.clear()
    }

    /// Raises the flag and lowers it in one step: all waiters are released, and the event is never
    /// seen set. A set event is cleared.
    ///
    /// # Errors
    ///
    /// If the event may only be read, or was removed.
    pub fn pulse(&self) -> Result<(), Error> {
        self.handle.pulse(None)
    }

    /// Blocks the thread until the event is set. Returns at once if it is.
    ///
    /// # Errors
    ///
    /// If the event was removed, or is removed during the wait.
    #[inline]
    #[track_caller]
    pub fn wait(&self) -> Result<(), Error> {
        self.handle.wait(|| Deadline::Never).map(drop)
    }

    /// Blocks until the event is set, or for at most `timeout`: `true` if it was released, `false`
    /// if the time passed first. On a tie, released wins; zero is a poll; [`Duration::MAX`] waits
    /// for ever. The clock is [`Instant`]'s.
    ///
    /// # Errors
    ///
    /// As with [`wait`](SharedEvent::wait).
    #[inline]
    #[track_caller]
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, Error> {
        self.handle.wait(|| Deadline::after(timeout))
    }

    /// Blocks until the event is set, or until `deadline` at the latest: `true` if it was released,
    /// `false` if the deadline passed first. On a tie, released wins; a deadline in the past is a
    /// poll.
    ///
    /// # Errors
    ///
    /// As with [`wait`](SharedEvent::wait).
    #[inline]
    #[track_caller]
    pub fn wait_deadline(&self, deadline: Instant) -> Result<bool, Error> {
        self.handle.wait(|| Deadline::At(deadline))
    }

    /// A future that is ready once the event is set, or was set since the future was made. Any
    /// runtime will do.
    ///
    /// The first such wait in a process starts a reactor thread, which sleeps for up to 127 events
    /// and ends some time after the last wait. More events need more threads.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future at any moment affects no other wait. A `set` counts from this call on.
    ///
    /// # Errors
    ///
    /// The future's, if the event was removed, or is removed while it is awaited, or if no reactor
    /// thread can be started. (A thread that blocks, also in [`any`](crate::any) and
    /// [`all`](crate::all), needs one only for more than 127 events, or before Linux 5.16. It can
    /// do without, and then looks every 5 ms.)
    #[inline]
    #[track_caller]
    pub fn wait_async(&self) -> SharedWait<'_> {
        SharedWait::new(&self.handle, Aim::Set, Some(Location::caller()))
    }

    /// [`wait_async`](SharedEvent::wait_async) whose future owns a clone of this handle. So it is
    /// `'static`: it can be spawned, returned, and stored in a struct.
    ///
    /// # Cancel safety
    ///
    /// As with `wait_async`. If the future is the last that uses this opening of the event, the
    /// file is closed with it.
    ///
    /// # Errors
    ///
    /// As with `wait_async`.
    ///
    /// # Examples
    ///
    /// ```
    /// use tantara::SharedEvent;
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let waiter = tokio::spawn(SharedEvent::open_in(dir, "db-ready")?.wait_owned());
    /// SharedEvent::open_in(dir, "db-ready")?.set()?;
    /// waiter.await.unwrap()?;
    /// # Ok::<(), tantara::Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    #[track_caller]
    pub fn wait_owned(&self) -> OwnedSharedWait {
        OwnedSharedWait::new(Arc::clone(&self.handle), Location::caller())
    }

    /// The state of the event at this moment, to be compared with a later one.
    #[must_use]
    pub fn state(&self) -> State {
        State::new(self.handle.known_seen())
    }

    /// A future that is ready once the event's state differs from an earlier one: it was set,
    /// cleared, or removed. The state that it returns tells how often the event was set in between.
    ///
    /// # Cancel safety
    ///
    /// As with [`wait_async`](SharedEvent::wait_async).
    ///
    /// # Errors
    ///
    /// The future's, if no reactor thread can be started. That the event was removed is a state, and no
    /// error.
    ///
    /// # Examples
    ///
    /// ```
    /// # let event = tantara::SharedEvent::anonymous()?;
    /// let before = event.state();
    /// event.pulse()?;
    /// let after = pollster::block_on(event.changed(before))?;
    /// assert!(!after.is_set());
    /// assert_eq!(after.sets_since(before), 1);
    /// # Ok::<(), tantara::Error>(())
    /// ```
    pub fn changed(&self, since: State) -> Changed<'_> {
        Changed::new(&self.handle, since)
    }

    /// The waiters, in all processes on the same kernel, those who have waited longest first.
    ///
    /// A waiter appears after 50 ms of sleep. Each thread that blocks appears, also one that waits
    /// for many events, then after 4 ms for each of them if that is longer. A process whose tasks
    /// wait appears once, by its reactor thread. Waiters record this themselves. The kernel removes
    /// the records of processes that have ended.
    ///
    /// # Errors
    ///
    /// If the file cannot be reopened (too many open files; no /proc, and no name), or its file system
    /// has no locks.
    ///
    /// # Complexity
    ///
    /// Quadratic in the number of waiters, inside the kernel: a thousand take some milliseconds.
    pub fn waiters(&self) -> Result<Vec<Waiter>, Error> {
        let failed = |error| Error::system("asked who waits", Path::new(&self.name()), error);
        let file = self.handle.file.again(false).map_err(failed)?;
        registry::waiters(&file, self.handle.page()).map_err(failed)
    }

    /// Removes the event: all waiters get an error, and the name is free.
    ///
    /// Waits that were released before are released. Opening the name again makes a new event.
    /// `false` if it was removed before.
    ///
    /// # Errors
    ///
    /// If the event is read-only or has no name, or if its directory is not writable.
    pub fn remove(&self) -> Result<bool, Error> {
        let Some(place) = &self.handle.file.place else { return Err(Error::new(Kind::Nameless)) };
        if !self.is_writable() {
            return Err(self.handle.read_only());
        }
        naming::remove(place, &self.handle.file)
    }
}

impl AsFd for SharedEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.file.file.as_fd()
    }
}

/// Shows whether it is set, its path, and how many threads and tasks of this process wait through
/// this handle and its clones. It makes no system call; for all waiters see
/// [`waiters`](SharedEvent::waiters).
impl fmt::Debug for SharedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.handle.known_word();
        f.debug_struct("SharedEvent")
            .field("set", &word.is_set())
            .field("waiting", &self.handle.waiting())
            .field("path", &self.handle.path)
            .field("removed", &word.is_gone())
            .finish()
    }
}
