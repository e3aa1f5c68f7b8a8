//! [`ClusterEvent`]'s sets with a note, and the record of the last set.

use crate::driver::runtime::Asked;
use crate::error::Error;
use crate::event::{self, ClusterEvent};
use crate::list::Origin;
use crate::store::keys::{self, Stamp};

const READ: &str = "read the last set of an event";

impl ClusterEvent {
    /// [`set`](ClusterEvent::set) with a reason, for people and logs:
    /// [`last_set`](ClusterEvent::last_set), [`Cluster::list`](crate::Cluster::list), the
    /// [changes](crate::Change) of a namespace and the command `tantara` show it.
    ///
    /// A note is a text of up to 64 bytes without control characters. It belongs to this `set`: the
    /// next one replaces it, by its own note or by none. An empty note is none.
    ///
    /// # Errors
    ///
    /// If the text cannot be a note ([`is_invalid_input`](Error::is_invalid_input)); then nothing
    /// was sent. Else as for [`set`](ClusterEvent::set).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let cluster = tantara_etcd::Cluster::connect("127.0.0.1:2379")?;
    /// let cancelled = cluster.event("deploy-cancelled");
    /// cancelled.set_with_note("disk full on m3")?;
    /// if let Some(last) = cancelled.last_set()? {
    ///     println!("{} on {}: {:?}", last.pid, last.host, last.note);
    /// }
    /// # Ok::<(), tantara_etcd::Error>(())
    /// ```
    pub fn set_with_note(&self, note: &str) -> Result<(), Error> {
        self.request_set(note)?.wait()
    }

    /// Async form of [`set_with_note`](ClusterEvent::set_with_note), with the same errors. Dropping
    /// the future does not cancel the request.
    pub async fn set_with_note_async(&self, note: &str) -> Result<(), Error> {
        self.request_set(note)?.into_future().await
    }

    /// [`pulse`](ClusterEvent::pulse) with a reason, as
    /// [`set_with_note`](ClusterEvent::set_with_note) sets with one.
    ///
    /// # Errors
    ///
    /// As for [`set_with_note`](ClusterEvent::set_with_note).
    pub fn pulse_with_note(&self, note: &str) -> Result<(), Error> {
        self.request_pulse(note)?.wait()
    }

    /// Async form of [`pulse_with_note`](ClusterEvent::pulse_with_note), with the same errors.
    /// Dropping the future does not cancel the request.
    pub async fn pulse_with_note_async(&self, note: &str) -> Result<(), Error> {
        self.request_pulse(note)?.into_future().await
    }

    /// Checks a text that is to become a [note](ClusterEvent::set_with_note).
    ///
    /// # Errors
    ///
    /// If it cannot be one, with the reason.
    pub fn check_note(note: &str) -> Result<(), Error> {
        keys::check_note(note)
    }

    /// When it was last set, by which process, and with which note, according to that process. All
    /// of it belongs to one `set`. `None` if the event was never set, or does not exist.
    ///
    /// Every `set` counts, also that of a set event; and so does a
    /// [`hold`](ClusterEvent::hold).
    ///
    /// # Errors
    ///
    /// As for [`is_set`](ClusterEvent::is_set).
    pub fn last_set(&self) -> Result<Option<Origin>, Error> {
        self.request_last_set()?.wait()
    }

    /// Async form of [`last_set`](ClusterEvent::last_set), with the same errors.
    pub async fn last_set_async(&self) -> Result<Option<Origin>, Error> {
        self.request_last_set()?.into_future().await
    }

    fn request_set(&self, note: &str) -> Result<Asked<()>, Error> {
        let stamp = Stamp::now().with_note(note)?;
        self.write(event::SET, |store, name| event::put_set_by(&stamp, store, name))
    }

    fn request_pulse(&self, note: &str) -> Result<Asked<()>, Error> {
        let stamp = Stamp::now().with_note(note)?;
        self.write(event::SET, |store, name| event::put_pulse_by(&stamp, store, name))
    }

    fn request_last_set(&self) -> Result<Asked<Option<Origin>>, Error> {
        self.read(READ, |state| state.last_set().map(Origin::from))
    }
}
