//! macOS, iOS and Apple's other systems: `os_sync_wait_on_address`, within the process, where the
//! system has it (macOS 14.4, iOS 17.4); and the portable backend elsewhere.

mod errno;
#[allow(dead_code, reason = "its groups are not used")]
#[path = "portable.rs"]
mod portable;

pub(crate) use portable::{advice, may_yield};

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::mem;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::sleep::{ALL, Awake, refused, sleep_until};
use crate::deadline::Deadline;
use errno::keeping_errno;

// As `os/os_sync_wait_on_address.h` and `os/clock.h` declare them.
type Wait = unsafe extern "C" fn(*mut c_void, u64, usize, u32) -> c_int;
type WaitWithTimeout = unsafe extern "C" fn(*mut c_void, u64, usize, u32, u32, u64) -> c_int;
type Wake = unsafe extern "C" fn(*mut c_void, usize, u32) -> c_int;
/// OS_SYNC_WAIT_ON_ADDRESS_NONE and OS_SYNC_WAKE_BY_ADDRESS_NONE: the sleepers of this process.
const PRIVATE: u32 = 0;
/// OS_CLOCK_MACH_ABSOLUTE_TIME, by which `Instant` counts too.
const CLOCK: u32 = 32;

/// The system's functions.
struct Native {
    wait: Wait,
    wait_with_timeout: WaitWithTimeout,
    wake_one: Wake,
    wake_all: Wake,
}

impl Native {
    /// Looked up, because a program that is linked to them would not start on an older system.
    fn get() -> Option<&'static Native> {
        static NATIVE: OnceLock<Option<Native>> = OnceLock::new();
        let look_up = || {
            let wait = address_of(c"os_sync_wait_on_address")?;
            let wait_with_timeout = address_of(c"os_sync_wait_on_address_with_timeout")?;
            let wake_one = address_of(c"os_sync_wake_by_address_any")?;
            let wake_all = address_of(c"os_sync_wake_by_address_all")?;
            Some(Native {
                // SAFETY: the symbol is the function of this name, which is declared with this type.
                wait: unsafe { mem::transmute::<*mut c_void, Wait>(wait) },
                // SAFETY: as above.
                wait_with_timeout: unsafe { mem::transmute::<*mut c_void, WaitWithTimeout>(wait_with_timeout) },
                // SAFETY: as above.
                wake_one: unsafe { mem::transmute::<*mut c_void, Wake>(wake_one) },
                // SAFETY: as above.
                wake_all: unsafe { mem::transmute::<*mut c_void, Wake>(wake_all) },
            })
        };
        NATIVE.get_or_init(look_up).as_ref()
    }

    fn sleep(&self, word: &AtomicU32, expected: u32, nap: Option<Duration>) -> Awake {
        let (address, expected, size) = (word.as_ptr().cast(), expected.into(), size_of::<u32>());
        let result = match nap.map(|nap| nap.as_nanos().try_into().unwrap_or(u64::MAX)) {
            // SAFETY: the word is borrowed, and so valid and aligned for the whole call; the system
            // reads it atomically.
            None => unsafe { (self.wait)(address, expected, size, PRIVATE) },
            Some(nanoseconds) => {
                // SAFETY: as above. The time is not zero, which the system would refuse.
                unsafe { (self.wait_with_timeout)(address, expected, size, PRIVATE, CLOCK, nanoseconds) }
            }
        };
        if result >= 0 {
            // Woken, or the word was not as expected: the system does not tell which.
            return Awake::Called;
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::ETIMEDOUT) => Awake::TimedOut,
            Some(libc::EINTR) => Awake::Interrupted,
            // The next look at the word touches its page.
            Some(libc::EFAULT) => Awake::Early,
            _ => refused(nap),
        }
    }
}

/// A function of the system's library.
fn address_of(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name ends with a zero byte.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if address.is_null() { None } else { Some(address) }
}

fn wake(wake: Wake, word: &AtomicU32) {
    // It fails if nobody sleeps.
    // SAFETY: to wake, the system uses the address as a key only.
    keeping_errno(|| unsafe { wake(word.as_ptr().cast(), size_of::<u32>(), PRIVATE) });
}

/// All sleepers of a word are woken together. (The portable backend has groups, but few of these
/// systems use it.)
pub(crate) const HAS_GROUPS: bool = false;

pub(crate) fn wait_in_group(word: &AtomicU32, expected: u32, group: u32, deadline: Deadline) -> Awake {
    match Native::get() {
        Some(native) => sleep_until(deadline, |nap| native.sleep(word, expected, nap)),
        None => portable::wait_in_group(word, expected, group, deadline),
    }
}

pub(crate) fn wake_one(word: &AtomicU32) {
    match Native::get() {
        Some(native) => wake(native.wake_one, word),
        None => portable::wake_one(word),
    }
}

pub(crate) fn wake_group(word: &AtomicU32, groups: u32, _: i32) -> bool {
    match Native::get() {
        Some(native) => wake(native.wake_all, word),
        None => {
            portable::wake_group(word, groups, ALL);
        }
    }
    true
}
