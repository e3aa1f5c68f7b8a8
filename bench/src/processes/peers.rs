//! The contenders between processes, but for those that bring a world of their own
//! ([`iceoryx`](super::iceoryx), [`python`](super::python)).

use std::cell::UnsafeCell;
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::{fs, ptr};

use tantara::SharedEvent;

use super::children;

/// What a contender between processes can do.
pub trait Signal: Sized {
    /// What all who use it must know.
    type Place;
    /// Makes it, for at most so many who wait at once, before the processes are forked.
    fn make(name: &str, waiters: usize) -> Self::Place;
    /// Opens it, in the process that uses it.
    fn open(place: &Self::Place) -> Self;
    fn set(&self);
    fn clear(&self);
    fn wait(&self);
}

/// One that can be asked whether it is set.
pub trait Level: Signal {
    fn is_set(&self) -> bool;
    /// Called after a wait, by those that a wait uses up.
    fn stay_set(&self) {}
}

/// The baseline: a bare futex word in memory that all have in common. It promises nothing if somebody is killed. 0
/// unset, 1 set, 2 unset with sleepers.
pub struct SharedFutex(&'static AtomicU32);

impl Signal for SharedFutex {
    type Place = &'static AtomicU32;

    fn make(_: &str, _: usize) -> Self::Place {
        &children::in_common::<children::Alone<AtomicU32>>().0
    }
    fn open(place: &Self::Place) -> Self {
        SharedFutex(place)
    }
    #[inline]
    fn set(&self) {
        if self.0.swap(1, AcqRel) == 2 {
            // SAFETY: the address serves as a key alone.
            unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
        }
    }
    #[inline]
    fn clear(&self) {
        let _ = self.0.compare_exchange(1, 0, AcqRel, Relaxed);
    }
    #[inline]
    fn wait(&self) {
        while self.0.load(Acquire) != 1 {
            if self.0.compare_exchange(0, 2, AcqRel, Acquire) != Err(1) {
                let none = ptr::null::<libc::timespec>();
                // SAFETY: the word is alive, and there is no timeout to point to.
                unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAIT, 2, none) };
            }
        }
    }
}

impl Level for SharedFutex {
    #[inline]
    fn is_set(&self) -> bool {
        self.0.load(Acquire) == 1
    }
}

/// By its name, in a directory like the one in which events lie by default.
impl Signal for SharedEvent {
    type Place = (PathBuf, String);

    fn make(name: &str, _: usize) -> Self::Place {
        let place = (children::directory("events"), name.to_owned());
        <SharedEvent as Signal>::open(&place);
        place
    }
    fn open((directory, name): &Self::Place) -> Self {
        SharedEvent::open_in(directory, name).expect("an event")
    }
    #[inline]
    fn set(&self) {
        self.set().expect("it is there");
    }
    #[inline]
    fn clear(&self) {
        self.clear().expect("it is there");
    }
    #[inline]
    fn wait(&self) {
        self.wait().expect("it is there");
    }
}

impl Level for SharedEvent {
    #[inline]
    fn is_set(&self) -> bool {
        self.is_set().expect("it is there")
    }
}

/// A descriptor that is set while there is something to be read from it: an eventfd, or a FIFO.
pub struct Descriptor<const FIFO: bool>(OwnedFd);

pub type EventFd = Descriptor<false>;
pub type Fifo = Descriptor<true>;

impl<const FIFO: bool> Descriptor<FIFO> {
    pub fn new(name: &str) -> Self {
        if FIFO {
            let path = Fifo::create(name);
            let fifo = Fifo::open_at(&path);
            fs::remove_file(path).expect("the name of a FIFO");
            return Descriptor(fifo);
        }
        // SAFETY: takes numbers only.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        Descriptor(own(descriptor))
    }

    #[inline]
    pub fn poll_of(descriptor: RawFd) -> libc::pollfd {
        libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 }
    }
}

impl Fifo {
    /// A FIFO's path.
    pub fn create(name: &str) -> PathBuf {
        let path = children::path(name);
        let text = CString::new(path.to_str().expect("a path of letters")).expect("no zero in it");
        // SAFETY: the text ends with a zero.
        let result = unsafe { libc::mkfifo(text.as_ptr(), 0o600) };
        assert_eq!(result, 0, "no FIFO: {}", std::io::Error::last_os_error());
        path
    }

    pub fn open_at(path: &Path) -> OwnedFd {
        use std::os::unix::fs::OpenOptionsExt;
        let file = fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
        file.expect("the FIFO").into()
    }
}

fn own(descriptor: RawFd) -> OwnedFd {
    assert!(descriptor >= 0, "no descriptor: {}", std::io::Error::last_os_error());
    // SAFETY: it was just opened, and nobody else closes it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

impl<const FIFO: bool> Signal for Descriptor<FIFO> {
    type Place = Self;

    fn make(name: &str, _: usize) -> Self {
        Self::new(name)
    }
    fn open(place: &Self) -> Self {
        Descriptor(place.0.try_clone().expect("a copy of the descriptor"))
    }
    fn set(&self) {
        let (one, length) = (1_u64, if FIFO { 1 } else { 8 });
        // One that is full is set.
        // SAFETY: there are eight bytes to be written.
        unsafe { libc::write(self.0.as_raw_fd(), ptr::from_ref(&one).cast(), length) };
    }
    fn clear(&self) {
        // An eventfd gives all that it has at once; a FIFO holds at most so much.
        let mut bytes = [0_u8; 4096];
        loop {
            // SAFETY: there is room for so many bytes.
            let read = unsafe { libc::read(self.0.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) };
            if read < bytes.len() as isize {
                return;
            }
        }
    }
    fn wait(&self) {
        // SAFETY: the pointer is to one request, which outlives the call.
        while unsafe { libc::poll(&mut Self::poll_of(self.0.as_raw_fd()), 1, -1) } != 1 {}
    }
}

impl<const FIFO: bool> Level for Descriptor<FIFO> {
    fn is_set(&self) -> bool {
        // SAFETY: the pointer is to one request, which outlives the call.
        unsafe { libc::poll(&mut Self::poll_of(self.0.as_raw_fd()), 1, 0) == 1 }
    }
}

impl<const FIFO: bool> AsRawFd for Descriptor<FIFO> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A POSIX semaphore. To set it is to post once for each who may wait, and a wait uses one up.
#[derive(Clone, Copy)]
pub struct Semaphore {
    semaphore: *mut libc::sem_t,
    waiters: usize,
}

impl Semaphore {
    /// The name of a new one.
    pub fn create(name: &str) -> CString {
        let name = CString::new(format!("/{}{name}", children::prefix(std::process::id()))).expect("no zero in it");
        // SAFETY: the name ends with a zero.
        let made = unsafe { libc::sem_open(name.as_ptr(), libc::O_CREAT | libc::O_EXCL, 0o600, 0) };
        assert_ne!(made, libc::SEM_FAILED, "no semaphore: {}", std::io::Error::last_os_error());
        Semaphore { semaphore: made, waiters: 0 }.close();
        name
    }

    pub fn open_at(name: &CString, waiters: usize) -> Self {
        // SAFETY: the name ends with a zero.
        let semaphore = unsafe { libc::sem_open(name.as_ptr(), 0) };
        assert_ne!(semaphore, libc::SEM_FAILED, "no semaphore: {}", std::io::Error::last_os_error());
        Semaphore { semaphore, waiters }
    }

    pub fn close(self) {
        // SAFETY: it is open, and whoever closes it has the last copy.
        unsafe { libc::sem_close(self.semaphore) };
    }

    pub fn unlink(name: &CString) {
        // SAFETY: the name ends with a zero.
        unsafe { libc::sem_unlink(name.as_ptr()) };
    }
}

impl Signal for Semaphore {
    type Place = Self;

    fn make(name: &str, waiters: usize) -> Self {
        let name = Semaphore::create(name);
        let semaphore = Semaphore::open_at(&name, waiters);
        Semaphore::unlink(&name);
        semaphore
    }
    fn open(place: &Self) -> Self {
        *place
    }
    #[inline]
    fn set(&self) {
        for _ in 0..self.waiters {
            // SAFETY: it is open.
            unsafe { libc::sem_post(self.semaphore) };
        }
    }
    #[inline]
    fn clear(&self) {
        // SAFETY: it is open.
        while unsafe { libc::sem_trywait(self.semaphore) } == 0 {}
    }
    #[inline]
    fn wait(&self) {
        // SAFETY: it is open.
        while unsafe { libc::sem_wait(self.semaphore) } != 0 {}
    }
}

impl Level for Semaphore {
    #[inline]
    fn is_set(&self) -> bool {
        let mut value = 0;
        // SAFETY: it is open, and the pointer is to a number that outlives the call.
        unsafe { libc::sem_getvalue(self.semaphore, &mut value) };
        value > 0
    }
    #[inline]
    fn stay_set(&self) {
        // SAFETY: it is open.
        unsafe { libc::sem_post(self.semaphore) };
    }
}

/// A flag, a mutex and a condition variable of POSIX threads in memory that all have in common. A robust mutex is
/// handed on if somebody dies with it; of the condition variable there is no such kind.
pub struct Condvar<const ROBUST: bool>(&'static Guarded);

pub struct Guarded {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    condition: UnsafeCell<libc::pthread_cond_t>,
    /// Read and written under the lock only.
    is_set: AtomicBool,
}

// SAFETY: the mutex and the condition are made to be used by many.
unsafe impl Sync for Guarded {}

impl Default for Guarded {
    fn default() -> Self {
        Guarded {
            mutex: libc::PTHREAD_MUTEX_INITIALIZER.into(),
            condition: libc::PTHREAD_COND_INITIALIZER.into(),
            is_set: AtomicBool::new(false),
        }
    }
}

impl<const ROBUST: bool> Condvar<ROBUST> {
    fn with_lock<R>(&self, act: impl FnOnce(&AtomicBool) -> R) -> R {
        // SAFETY: it was initialised, and is never moved.
        let locked = unsafe { libc::pthread_mutex_lock(self.0.mutex.get()) };
        self.has_locked(locked);
        let result = act(&self.0.is_set);
        // SAFETY: the lock is held.
        unsafe { libc::pthread_mutex_unlock(self.0.mutex.get()) };
        result
    }

    /// Whoever held it may have died; a flag is always as good as it was.
    fn has_locked(&self, result: libc::c_int) {
        if result == libc::EOWNERDEAD {
            // SAFETY: the lock is held.
            unsafe { libc::pthread_mutex_consistent(self.0.mutex.get()) };
        }
    }
}

impl<const ROBUST: bool> Signal for Condvar<ROBUST> {
    type Place = &'static Guarded;

    fn make(_: &str, _: usize) -> Self::Place {
        let shared: &'static Guarded = children::in_common();
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: initialises what it points to.
        unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) };
        // SAFETY: initialised above.
        unsafe { libc::pthread_mutexattr_setpshared(attributes.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED) };
        if ROBUST {
            // SAFETY: initialised above.
            unsafe { libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST) };
        }
        // SAFETY: nobody else knows of the mutex yet, and the attributes outlive the call.
        let made = unsafe { libc::pthread_mutex_init(shared.mutex.get(), attributes.as_ptr()) };
        assert_eq!(made, 0, "a mutex for processes");
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: initialises what it points to.
        unsafe { libc::pthread_condattr_init(attributes.as_mut_ptr()) };
        // SAFETY: initialised above.
        unsafe { libc::pthread_condattr_setpshared(attributes.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED) };
        // SAFETY: as with the mutex.
        let made = unsafe { libc::pthread_cond_init(shared.condition.get(), attributes.as_ptr()) };
        assert_eq!(made, 0, "a condition variable for processes");
        shared
    }
    fn open(place: &Self::Place) -> Self {
        Condvar(place)
    }
    fn set(&self) {
        self.with_lock(|is_set| is_set.store(true, Relaxed));
        // SAFETY: it was initialised, and is never moved.
        unsafe { libc::pthread_cond_broadcast(self.0.condition.get()) };
    }
    fn clear(&self) {
        self.with_lock(|is_set| is_set.store(false, Relaxed));
    }
    fn wait(&self) {
        self.with_lock(|is_set| {
            while !is_set.load(Relaxed) {
                // SAFETY: both were initialised and are never moved, and the lock is held.
                let waited = unsafe { libc::pthread_cond_wait(self.0.condition.get(), self.0.mutex.get()) };
                self.has_locked(waited);
            }
        });
    }
}

impl<const ROBUST: bool> Level for Condvar<ROBUST> {
    fn is_set(&self) -> bool {
        self.with_lock(|is_set| is_set.load(Relaxed))
    }
}
