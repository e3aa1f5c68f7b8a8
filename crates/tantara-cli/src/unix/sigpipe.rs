//! SIGPIPE in the command that a subcommand runs: as it was when this process was started. systemd starts services with
//! SIGPIPE ignored, and some of them rely on that.
//!
//! The standard library ignores SIGPIPE before `main` begins, and gives every command the default action. So the action
//! is read before that, and restored between fork and exec.
//!
//! `WAS_IGNORED` is written while there is one thread only.

use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use libc::{SIG_ERR, SIG_IGN, SIGPIPE};

static WAS_IGNORED: AtomicBool = AtomicBool::new(false);

// SAFETY: the section is an array of functions that are called before `main`, without arguments that matter here. The
// function needs nothing of the standard library that is not there yet.
#[used]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".init_array"))]
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
static BEFORE_MAIN: extern "C" fn() = note;

extern "C" fn note() {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action nothing is changed, and the old one is written to memory of its type.
    let result = unsafe { libc::sigaction(SIGPIPE, ptr::null(), action.as_mut_ptr()) };
    if result == 0 {
        // SAFETY: the call has succeeded, so it has written the action.
        let action = unsafe { action.assume_init() };
        WAS_IGNORED.store(action.sa_sigaction == SIG_IGN, Relaxed);
    }
}

/// The command ignores SIGPIPE if this process was started so.
pub(super) fn inherit(command: &mut Command) -> &mut Command {
    if !WAS_IGNORED.load(Relaxed) {
        return command;
    }
    let ignore = || {
        // SAFETY: SIG_IGN is a valid action of SIGPIPE.
        match unsafe { libc::signal(SIGPIPE, SIG_IGN) } {
            SIG_ERR => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: the closure makes one system call, which may be made between fork and exec; it allocates nothing, takes
    // no lock, and changes nothing else of the process.
    unsafe { command.pre_exec(ignore) }
}
