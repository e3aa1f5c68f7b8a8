//! Ctrl-C and Ctrl-Break. Without a listener they end the process, with the exit code [`BY_CTRL_C`].
//!
//! The bank listens to them so as to clean up, and what runs a command so as to leave the end to that command, which
//! gets them as well.

use std::process::exit;
use std::task::{Context, Waker};

use tokio::signal::windows::{CtrlBreak, CtrlC, ctrl_break, ctrl_c};

use crate::failure::Failure;

/// `STATUS_CONTROL_C_EXIT`, from ntstatus.h.
const BY_CTRL_C: u32 = 0xC000_013A;

/// There is no such process here.
pub(crate) fn end_by_signals_as_process_1() -> Result<(), Failure> {
    Ok(())
}

/// Listens from its creation until the end of the process: the console events do not end the process any more.
pub(super) struct Listener {
    ctrl_c: CtrlC,
    ctrl_break: CtrlBreak,
}

impl Listener {
    pub(super) fn new() -> Result<Listener, Failure> {
        let failed = |error| Failure::internal(format!("cannot handle Ctrl-C: {error}"));
        Ok(Listener { ctrl_c: ctrl_c().map_err(failed)?, ctrl_break: ctrl_break().map_err(failed)? })
    }

    /// Whether one has come.
    pub(super) fn has_heard(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        self.ctrl_c.poll_recv(&mut context).is_ready() || self.ctrl_break.poll_recv(&mut context).is_ready()
    }

    /// Returns when one comes.
    async fn hear(&mut self) {
        tokio::select! {
            _ = self.ctrl_c.recv() => {}
            _ = self.ctrl_break.recv() => {}
        }
    }
}

/// From now on, Ctrl-C and Ctrl-Break end the process cleanly: after the line that is being written, after `message`
/// has printed the shutdown message, and after drafts of output files were removed.
pub(crate) fn ends_with(message: impl Fn() + Send + 'static) -> Result<(), Failure> {
    let failed = |error| Failure::internal(format!("cannot handle Ctrl-C: {error}"));
    let mut listener = Listener::new()?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(failed)?;
    let listen = move || {
        runtime.block_on(listener.hear());
        let _silence = crate::output::silence();
        message();
        crate::outfile::remove_drafts();
        exit(BY_CTRL_C.cast_signed())
    };
    std::thread::Builder::new().name("signals".into()).spawn(listen).map(drop).map_err(failed)
}

/// Ends this process as a command that Ctrl-C has ended.
pub(crate) fn end_by(_: i32) -> ! {
    exit(BY_CTRL_C.cast_signed())
}
