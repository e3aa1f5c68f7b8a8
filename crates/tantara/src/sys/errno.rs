//! The error number of the C library: kept across a wake-up call, because a signal handler may call
//! `set` between a call of the program and the program's look at `errno`.

/// Runs `call`, and leaves `errno` as it was.
pub(crate) fn keeping_errno<R>(call: impl FnOnce() -> R) -> R {
    #[cfg(target_os = "android")]
    use libc::__errno as location;
    #[cfg(target_os = "linux")]
    use libc::__errno_location as location;
    #[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
    use libc::__error as location;
    // SAFETY: takes nothing and always succeeds.
    let errno = unsafe { location() };
    // SAFETY: `errno` is this thread's own, and always initialised.
    let before = unsafe { *errno };
    let outcome = call();
    // SAFETY: as above.
    unsafe { *errno = before };
    outcome
}
