//! The contenders between processes, except [`iceoryx`](super::iceoryx) and [`python`](super::python).

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

/// The methods of a contender between processes.
pub trait Signal: Sized {
    /// What all participants need to know to find the event, such as its name.
    type Place;
    /// Creates it for at most this many concurrent waiters, before the processes are forked.
    fn make(name: &str, waiters: usize) -> Self::Place;
    /// Opens it in the process that uses it.
    fn open(place: &Self::Place) -> Self;
    fn set(&self);
    fn clear(&self);
    fn wait(&self);
}

/// A contender with a level.
pub trait Level: Signal {
    fn is_set(&self) -> bool;
    /// Called after a wait, for contenders whose state a wait consumes.
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
            // SAFETY: the kernel uses the address only as a key.
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
                // SAFETY: the word is valid, and null stands for no timeout.
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

/// By its name, in a directory like the default directory of events.
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

/// A descriptor that counts as set while it is readable: an eventfd or a FIFO.
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
        // SAFETY: the arguments are numbers.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        Descriptor(own(descriptor))
    }

    #[inline]
    pub fn poll_of(descriptor: RawFd) -> libc::pollfd {
        libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 }
    }
}

impl Fifo {
    /// The path of a FIFO.
    pub fn create(name: &str) -> PathBuf {
        let path = children::path(name);
        let text = CString::new(path.to_str().expect("a path of letters")).expect("no zero in it");
        // SAFETY: the string ends with a null byte.
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
    // SAFETY: the descriptor was just opened, and has no other owner.
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
        // If it is full it is set already.
        // SAFETY: the buffer has eight bytes.
        unsafe { libc::write(self.0.as_raw_fd(), ptr::from_ref(&one).cast(), length) };
    }
    fn clear(&self) {
        // A read empties an eventfd; a FIFO contains at most this many bytes.
        let mut bytes = [0_u8; 4096];
        loop {
            // SAFETY: the buffer has this many bytes.
            let read = unsafe { libc::read(self.0.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) };
            if read < bytes.len() as isize {
                return;
            }
        }
    }
    fn wait(&self) {
        // SAFETY: the pointer refers to one request, which outlives the call.
        while unsafe { libc::poll(&mut Self::poll_of(self.0.as_raw_fd()), 1, -1) } != 1 {}
    }
}

impl<const FIFO: bool> Level for Descriptor<FIFO> {
    fn is_set(&self) -> bool {
        // SAFETY: the pointer refers to one request, which outlives the call.
        unsafe { libc::poll(&mut Self::poll_of(self.0.as_raw_fd()), 1, 0) == 1 }
    }
}

impl<const FIFO: bool> AsRawFd for Descriptor<FIFO> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A POSIX semaphore. `set` posts once for each possible waiter, and each wait consumes one post.
#[derive(Clone, Copy)]
pub struct Semaphore {
    semaphore: *mut libc::sem_t,
    waiters: usize,
}

impl Semaphore {
    /// Creates a name.
    pub fn create(name: &str) -> CString {
        let name = CString::new(format!("/{}{name}", children::prefix(std::process::id()))).expect("no zero in it");
        // SAFETY: the name ends with a null byte.
        let made = unsafe { libc::sem_open(name.as_ptr(), libc::O_CREAT | libc::O_EXCL, 0o600, 0) };
        assert_ne!(made, libc::SEM_FAILED, "no semaphore: {}", std::io::Error::last_os_error());
        Semaphore { semaphore: made, waiters: 0 }.close();
        name
    }

    pub fn open_at(name: &CString, waiters: usize) -> Self {
        // SAFETY: the name ends with a null byte.
        let semaphore = unsafe { libc::sem_open(name.as_ptr(), 0) };
        assert_ne!(semaphore, libc::SEM_FAILED, "no semaphore: {}", std::io::Error::last_os_error());
        Semaphore { semaphore, waiters }
    }

    pub fn close(self) {
        // SAFETY: it is open, and this is the last copy.
        unsafe { libc::sem_close(self.semaphore) };
    }

    pub fn unlink(name: &CString) {
        // SAFETY: the name ends with a null byte.
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
            // SAFETY: the semaphore is open.
            unsafe { libc::sem_post(self.semaphore) };
        }
    }
    #[inline]
    fn clear(&self) {
        // SAFETY: the semaphore is open.
        while unsafe { libc::sem_trywait(self.semaphore) } == 0 {}
    }
    #[inline]
    fn wait(&self) {
        // SAFETY: the semaphore is open.
        while unsafe { libc::sem_wait(self.semaphore) } != 0 {}
    }
}

impl Level for Semaphore {
    #[inline]
    fn is_set(&self) -> bool {
        let mut value = 0;
        // SAFETY: the semaphore is open, and the pointer refers to a number that outlives the call.
        unsafe { libc::sem_getvalue(self.semaphore, &mut value) };
        value > 0
    }
    #[inline]
    fn stay_set(&self) {
        // SAFETY: the semaphore is open.
        unsafe { libc::sem_post(self.semaphore) };
    }
}

/// A flag, a mutex and a condition variable of POSIX threads in shared memory. A robust mutex is released if its owner
/// dies; there are no robust condition variables.
pub struct Condvar<const ROBUST: bool>(&'static Guarded);

pub struct Guarded {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    condition: UnsafeCell<libc::pthread_cond_t>,
    /// Only accessed under the lock.
    is_set: AtomicBool,
}

// SAFETY: the mutex and the condition variable synchronize all access.
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
        // SAFETY: the mutex is initialised, and never moved.
        let locked = unsafe { libc::pthread_mutex_lock(self.0.mutex.get()) };
        self.has_locked(locked);
        let result = act(&self.0.is_set);
        // SAFETY: the lock is held.
        unsafe { libc::pthread_mutex_unlock(self.0.mutex.get()) };
        result
    }

    /// Makes the mutex consistent if its owner died. A flag is always consistent.
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
        // SAFETY: the pointer refers to memory that the call initialises.
        unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) };
        // SAFETY: initialised above.
        unsafe { libc::pthread_mutexattr_setpshared(attributes.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED) };
        if ROBUST {
            // SAFETY: initialised above.
            unsafe { libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST) };
        }
        // SAFETY: there are no other references to the mutex yet, and the attributes outlive the call.
        let made = unsafe { libc::pthread_mutex_init(shared.mutex.get(), attributes.as_ptr()) };
        assert_eq!(made, 0, "a mutex for processes");
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the pointer refers to memory that the call initialises.
        unsafe { libc::pthread_condattr_init(attributes.as_mut_ptr()) };
        // SAFETY: initialised above.
        unsafe { libc::pthread_condattr_setpshared(attributes.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED) };
        // SAFETY: as for the mutex.
        let made = unsafe { libc::pthread_cond_init(shared.condition.get(), attributes.as_ptr()) };
        assert_eq!(made, 0, "a condition variable for processes");
        shared
    }
    fn open(place: &Self::Place) -> Self {
        Condvar(place)
    }
    fn set(&self) {
        self.with_lock(|is_set| is_set.store(true, Relaxed));
        // SAFETY: the mutex is initialised, and never moved.
        unsafe { libc::pthread_cond_broadcast(self.0.condition.get()) };
    }
    fn clear(&self) {
        self.with_lock(|is_set| is_set.store(false, Relaxed));
    }
    fn wait(&self) {
        self.with_lock(|is_set| {
            while !is_set.load(Relaxed) {
                // SAFETY: both are initialised and never moved, and the lock is held.
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
