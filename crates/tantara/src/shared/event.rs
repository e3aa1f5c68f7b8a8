//! [`SharedEvent`]: the methods, as users see them. What they do is in [`handle`](crate::shared::handle).

#![forbid(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::error::{Error, Kind};
use crate::many::Waitable;
use crate::many::sealed::{Seal, Sealed};
use crate::protocol::layout::LastSet;
use crate::shared::file::{self, EventFile};
use crate::shared::handle::Handle;
use crate::shared::list::{self, Entry};
use crate::shared::mapping;
use crate::shared::name::{self, Place};
use crate::shared::naming;
use crate::shared::registry::{self, Waiter};
use crate::shared::wait::{Changed, SharedWait, State};
use crate::sys::files;
use crate::wait::Slot;

/// A flag that processes wait for: the same methods as [`Event`](crate::Event), for everyone who knows its name or was
/// given its descriptor.
///
/// It lives in one file of one page, with no daemon. Whoever dies, at whatever instruction, takes nobody along: there
/// is no lock that could stay locked, a `set` is either whole or has not happened, and a waiter that is killed leaves
/// nothing behind. What an `Event` promises holds here too, line by line: level and pulse, timeouts, publication,
/// cancel safety, cohorts, and [`any`](crate::any) and [`all`](crate::all), in which the two kinds can be mixed.
///
/// A clone is the same event through the same descriptor; two that were opened by the same name are the same event.
///
/// # Who may do what
///
/// The directory is the policy. Users who may create files in a directory may create, set and clear its events, and
/// remove them, unless the directory is sticky: then the owner of the event or of the directory, and root, may. Users
/// who may only read the directory may wait. So a group's directory (mode 2775), a container's volume (1777) and a
/// private directory (0700) behave as their permissions say.
///
/// An event's file is made with the directory's permissions to read and write, whatever the umask, with its group, and
/// with its access control list, if it has one; a process that may give files away gives it the directory's owner, too.
/// A process that may not give it the directory's group gives the file's group what everybody has. A file that grants
/// less than its directory is an error that names the file's owner. (Who may read a file can also look on, and delay
/// the releases of others by a second or two, by what the kernel lets one do with words that one can see.)
///
/// # Errors
///
/// Two things can happen to an event that lies outside of the process: that it may only be read, and that it is
/// removed. So every method returns a `Result`, as those of `tantara_etcd::ClusterEvent` do; nothing that another
/// process does to an event panics this one. A wait that was released before the event was removed is released.
///
/// If a file is removed or cut off by other means, those who sleep find out within some seconds. If it is renamed, or
/// loses one of several names, those who know it by that name are told that it was removed; whoever has it open by
/// another name goes on. (The directory is the one that was opened: to rename it, to unmount it or to change the
/// current directory is no removal.) To cut off a file that is mapped would end the process (SIGBUS); a handler for
/// that signal, installed with the first event that has a file, turns it into an error, and hands every other fault to
/// whoever handled it before. (A thread that blocks that signal cannot be helped. A program that wants no handler calls
/// [`disable_sigbus_handler`](SharedEvent::disable_sigbus_handler) first.)
///
/// # Signal handlers
///
/// [`set`](SharedEvent::set), [`clear`](SharedEvent::clear), [`pulse`](SharedEvent::pulse) and
/// [`is_set`](SharedEvent::is_set) may be called in a signal handler, on a handle that was opened before, whatever the
/// interrupted thread is doing. When they succeed, they neither lock nor allocate, and `errno` stays as it was. (An
/// error allocates memory, so make sure that the event is writable, and that nobody removes it.) Tasks are woken by a
/// helper thread. No other method may be called there.
///
/// # Memory ordering
///
/// All that a process did before `set`, in memory that it shares with others or in files, is visible to whoever
/// observes the event set or is released by it.
///
/// # Fairness
///
/// None among processes: all who sleep are woken by one system call. The tasks of a process are woken in the order in
/// which they were first polled.
///
/// # Complexity
///
/// A `set` that nobody sleeps for, a `clear` and `is_set` make no system call. With sleepers, `set` is one. An event
/// takes one page of memory, and two file descriptors if it has a name, else one; a waiter takes none.
///
/// # Platforms
///
/// Linux. Events are shared through the kernel that processes have in common, so also between containers that share
/// the directory; processes of other PID namespaces are shown without their numbers. Not on an overlay file system,
/// where readers and writers may have different files. The child of a fork of a process with threads does well to open
/// its events anew, as with everything that has locks.
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
    /// The event of that name, among the events of this user. It is made, unset, if it does not exist.
    ///
    /// They lie in [`default_directory`](SharedEvent::default_directory). A name is made of letters and digits, of any
    /// script, and of `. _ - + : @ = , % ~`; it begins with none of `.`, `-`, `~` and has at most 200 bytes.
    ///
    /// # Errors
    ///
    /// If the name cannot be, if something else lies there, or if the system refuses.
    pub fn open(name: &str) -> Result<SharedEvent, Error> {
        SharedEvent::open_at(&Place::of_user(name)?)
    }

    /// The event of that name in a directory. Both are made if they do not exist, the directory if only its last part
    /// is missing.
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

    /// The event of that name in a directory, if it exists.
    ///
    /// # Errors
    ///
    /// As with [`open`](SharedEvent::open).
    pub fn find_in(directory: impl AsRef<Path>, name: &str) -> Result<Option<SharedEvent>, Error> {
        name::check(name)?;
        let path = directory.as_ref();
        let Some(directory) = name::open_directory(path)? else { return Ok(None) };
        let place = Place::at(&Arc::new(directory), path, name)?;
        Ok(naming::find(&place)?.map(|file| SharedEvent::new(file, Some(place.path))))
    }

    /// Looks at every event of a directory, in the order of their names. A directory that does not exist has none.
    ///
    /// A file that is no event is reported with an error. Files whose names begin with a dot are passed over, but an
    /// event whose maker or remover was killed half-way is listed under its own name. Nothing is made, changed, or
    /// waited for.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read.
    ///
    /// # Complexity
    ///
    /// Linear in the number of events, some system calls each; for those with waiters see
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

    /// Whether an event can have that name; see [`open`](SharedEvent::open).
    ///
    /// # Errors
    ///
    /// If it cannot: the error says why.
    pub fn check_name(name: &str) -> Result<(), Error> {
        name::check(name)
    }

    /// Where the events of this user lie: `$XDG_RUNTIME_DIR/tantara`; without that variable `/run/user/UID/tantara`;
    /// where there is no such place `/dev/shm/tantara-UID`.
    #[must_use]
    pub fn default_directory() -> PathBuf {
        name::default_directory()
    }

    /// For programs that want no handler of SIGBUS: none is installed from now on. To be called before the first event
    /// is opened; says whether that was in time, and changes nothing if not.
    ///
    /// Without the handler, an event's file that is cut off while the event is in use ends the process, as with every
    /// mapped file. Events without a name cannot be cut off.
    pub fn disable_sigbus_handler() -> bool {
        mapping::disable_handler()
    }

    /// An event without a name, for processes that are given its descriptor: by [`inherit`](SharedEvent::inherit), by a
    /// socket, or by a fork. It ends with the last who has it.
    ///
    /// # Errors
    ///
    /// If the system refuses: too many open files, or no memory.
    pub fn anonymous() -> Result<SharedEvent, Error> {
        EventFile::anonymous().map(|file| SharedEvent::new(file, None))
    }

    /// The event that a descriptor stands for, named or not: the other side of [`AsFd`].
    ///
    /// # Errors
    ///
    /// If it is no event.
    pub fn from_fd(descriptor: OwnedFd) -> Result<SharedEvent, Error> {
        let nowhere = Path::new("descriptor");
        let given = File::from(descriptor);
        // Nothing else is opened again: to open a pipe does something to whoever is at its other end.
        file::check_file(&given, nowhere)?;
        let is_writable = files::is_writable(&given);
        // With a description of its own, what dies with this process is told from what lives on in others.
        let file = EventFile::reopen(&given, is_writable).unwrap_or(given);
        EventFile::check(file, is_writable, nowhere, None).map(|file| SharedEvent::new(file, None))
    }

    /// Lets the program that `command` will start have the event. The answer is the number by which that program finds
    /// it, with [`inherited`](SharedEvent::inherited); tell it, for example in an argument.
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

    /// The event that this process was given under that number by [`inherit`](SharedEvent::inherit).
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

    /// Where its file lies, if it was opened by name.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.handle.path.as_deref()
    }

    fn name(&self) -> String {
        self.handle.name()
    }

    /// Whether it may be set and cleared here, not only waited for.
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

    /// Whether the event was removed, or its file destroyed as far as is known, so that nobody can set it any more.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.handle.known_word().is_gone()
    }

    /// Raises the flag and releases everyone who waits, in all processes. Setting a set event changes nothing.
    ///
    /// # Errors
    ///
    /// If the event may only be read, or was removed.
    #[inline]
    pub fn set(&self) -> Result<(), Error> {
        self.handle.set()
    }

    /// Lowers the flag. Clearing an unset event changes nothing. Nobody who was released is called back.
    ///
    /// # Errors
    ///
    /// If the event may only be read, or was removed.
    #[inline]
    pub fn clear(&self) -> Result<(), Error> {
        self.handle.clear()
    }

    /// Raises the flag and lowers it in one step: everyone who waits is released, and nobody sees the event set. A set
    /// event is cleared.
    ///
    /// # Errors
    ///
    /// If the event may only be read, or was removed.
    pub fn pulse(&self) -> Result<(), Error> {
        self.handle.pulse()
    }

    /// Blocks the thread until the event is set. Returns at once if it is.
    ///
    /// # Errors
    ///
    /// If the event was removed, or is while it is waited for.
    #[inline]
    pub fn wait(&self) -> Result<(), Error> {
        self.handle.wait(|| Deadline::Never).map(drop)
    }

    /// Blocks until the event is set, or for at most `timeout`: `true` if it was released, `false` if the time passed
    /// first. On a tie, released wins; zero is a poll; [`Duration::MAX`] waits for ever. The clock is [`Instant`]'s.
    ///
    /// # Errors
    ///
    /// As with [`wait`](SharedEvent::wait).
    #[inline]
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, Error> {
        self.handle.wait(|| Deadline::after(timeout))
    }

    /// Blocks until the event is set, or until `deadline` at the latest: `true` if it was released, `false` if the
    /// deadline passed first. On a tie, released wins; a deadline in the past is a poll.
    ///
    /// # Errors
    ///
    /// As with [`wait`](SharedEvent::wait).
    #[inline]
    pub fn wait_deadline(&self, deadline: Instant) -> Result<bool, Error> {
        self.handle.wait(|| Deadline::At(deadline))
    }

    /// A future that is ready once the event is set, or was set since the future was made. Any runtime will do.
    ///
    /// The first such wait in a process starts a helper thread, which sleeps for up to 127 events and ends some time
    /// after the last wait; for more events there are more helpers.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future at any moment loses nothing for anyone else. The pulse guarantee counts from this call.
    ///
    /// # Errors
    ///
    /// The future's, if the event was removed, or is while it is awaited, or if no helper thread can be started. (A
    /// thread that blocks needs none, not even in [`any`](crate::any) and [`all`](crate::all): without it, it looks
    /// every 5 ms.)
    #[inline]
    pub fn wait_async(&self) -> SharedWait<'_> {
        SharedWait::new(&self.handle)
    }

    /// What the event is at this moment, to be compared with a later moment.
    #[must_use]
    pub fn state(&self) -> State {
        State::new(self.handle.known_word())
    }

    /// A future that is ready once the event is no longer what it was: set, cleared, or removed. What it yields tells
    /// how often the event was set in the meantime.
    ///
    /// # Cancel safety
    ///
    /// As with [`wait_async`](SharedEvent::wait_async).
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

    /// When it was last set, and by whom. `None` if it never was, or if its setter was killed before it said so.
    ///
    /// This is what setters say of themselves. Setting a set event does not count.
    ///
    /// # Errors
    ///
    /// If the event was removed.
    pub fn last_set(&self) -> Result<Option<LastSet>, Error> {
        self.handle.last_set()
    }

    /// Who waits, in all processes that share the kernel, those who have waited longest first.
    ///
    /// A waiter shows up when it has slept for a twentieth of a second. A process whose tasks wait shows up once, by
    /// its helper thread. This is what waiters say of themselves; the kernel vouches for their being alive.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened again (too many open files, no /proc), or knows no locks.
    ///
    /// # Complexity
    ///
    /// Quadratic in their number, inside the kernel: a thousand take some milliseconds.
    pub fn waiters(&self) -> Result<Vec<Waiter>, Error> {
        let failed = |error| Error::system("asked who waits", Path::new(&self.name()), error);
        let file = EventFile::reopen(&self.handle.file.file, false).map_err(failed)?;
        registry::waiters(&file, self.handle.page()).map_err(failed)
    }

    /// Removes the event: everyone who waits for it is told so and not left asleep, and the name is free.
    ///
    /// Whoever was released before is released. Those who open the name again make a new event. `false` if it had been
    /// removed before.
    ///
    /// # Errors
    ///
    /// If the event may only be read, has no name, or its directory may not be written to.
    pub fn remove(&self) -> Result<bool, Error> {
        let Some(place) = &self.handle.file.place else { return Err(Error::new(Kind::Nameless)) };
        if !self.is_writable() {
            return Err(self.handle.read_only());
        }
        naming::remove(place, &self.handle.file)
    }
}

impl Waitable for SharedEvent {}

impl Sealed for SharedEvent {
    fn slot(&self, _: Seal) -> Slot<'_> {
        Slot::external(self.wait_async())
    }
}

impl AsFd for SharedEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.file.file.as_fd()
    }
}

/// Says whether it is set, where it lies, and how many threads and tasks of this process wait through this handle and
/// its clones. It looks at memory alone; for all who wait see [`waiters`](SharedEvent::waiters).
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
